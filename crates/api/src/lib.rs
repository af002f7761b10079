//! Gantry's HTTP API.
//!
//! - [`wire`] is what travels: every body, for clients too.
//! - [`Service`] serves it; `gantry-api` is that and a configuration.
//! - A request passes `trace` (its span), `auth` (whose it is) and its handler in `routes`; every refusal leaves as
//!   a [`wire::ProblemDetails`].
//! - `watch` is the one poller behind all who wait for a job's end or follow its log.
//!
//! The API sees one tenant per transaction, by the row-level policy of its database role.

mod auth;
mod config;
mod error;
mod extract;
mod follow;
mod nudge;
mod openapi;
mod process;
mod routes;
mod service;
mod trace;
mod view;
mod watch;
pub mod wire;

pub use config::{Config, Http};
pub use nudge::Nudges;
pub use openapi::openapi;
pub use process::main;
pub use service::Service;
