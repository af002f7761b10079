//! The worker engine, and the trait that every backend implements.

#[cfg(feature = "contract")]
pub mod contract;
pub mod executor;
