//! What the doubles of the clouds share: a machine that runs real containers, and faults on request.
//!
//! A double answers a cloud's API on loopback. What the cloud's machines would do is done by a Docker Engine
//! ([`Machine`]), so that exit codes, signals, logs and stops are real; what a network and a busy cloud do to a
//! client is done by [`Faults`]. A double is for tests and for trying out Gantry without an account: it has no
//! security and forgets everything when it ends.

mod faults;
mod machine;
mod served;

pub use faults::{Fault, Faults, HiddenFor, Injected, Rule};
pub use machine::{Line, Machine, Refused, State, Stream, Task};
pub use served::Served;
