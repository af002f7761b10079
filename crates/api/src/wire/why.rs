//! Why a job is where it is: the explanation travels as it is made.

pub use gantry_core::why::Why;
