//! What the Docker executor promises beyond the contract, on a real engine.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

mod certificates;
#[path = "../common/mod.rs"]
mod common;
mod credentials;
mod disk;
mod image;
mod images;
mod lab;
mod launch;
mod logs;
mod observe;
#[path = "../registry/mod.rs"]
mod registry;
mod relay;
mod restart;
mod several;
mod ssh;
mod tcp;
mod tls;
