//! The cases, by the trait's method that they are about. Each panics where the contract does not hold.

pub mod end;
pub mod find;
pub mod host;
pub mod launch;
pub mod logs;
pub mod observe;
pub mod owned;
pub mod remove;
pub mod stop;
