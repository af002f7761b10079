//! What the Docker executor promises beyond the contract, on a real engine.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

#[path = "../common/mod.rs"]
mod common;
mod image;
mod lab;
mod launch;
mod logs;
mod observe;
mod registry;
mod restart;
mod tcp;
