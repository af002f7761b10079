//! The worker engine, and the trait that every backend implements.
//!
//! One process of it is a *worker*: it consumes the queue of one executor type, claims jobs under the row locks of
//! the hosts it reached, launches and watches their containers, and reports how they ended. `executor` is the
//! seam to the backends; everything else is the same for all of them.

mod attempt;
mod batch;
mod beat;
mod config;
#[cfg(feature = "contract")]
pub mod contract;
mod engine;
pub mod executor;
mod finish;
mod guard;
mod hosts;
mod lease;
mod log;
mod logs;
mod metrics;
mod pace;
mod process;
mod reap;
mod receive;
mod registry;
pub mod secrets;
mod service;
mod stop;
mod throttle;
mod watch;

pub use config::{Config, Invalid, Settings};
pub use process::main;
pub use service::{DeclaredDead, Service};
