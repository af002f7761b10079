//! RabbitMQ for Gantry: topology, confirmed publishing, batch consuming and
//! trace propagation, over connections that come back by themselves.
//!
//! Postgres is the truth and RabbitMQ the transport: a message is a hint that
//! a row wants attention. Everything here therefore delivers *at least once*,
//! and prefers a duplicate to a loss.
//!
//! - [`Broker`] is the handle of one supervised connection.
//! - [`Topology`] knows every name and declares exchanges, queues, bindings.
//! - [`Publisher`] keeps many publishes in flight and answers each with what
//!   became of it: confirmed, unroutable, refused, or unconfirmed in time.
//! - [`Consumer`] hands out batches of [`Delivery`], owned values that are
//!   settled by consuming them.
//! - [`dead_letter()`] puts aside what cannot be processed, with its reason.

mod config;
pub mod connection;
pub mod consume;
pub mod dead_letter;
mod delivery;
mod message;
mod metrics;
mod peers;
pub mod publish;
mod settle;
pub mod topology;
pub mod trace;

pub use config::Config;
pub use connection::Broker;
pub use consume::Consumer;
pub use dead_letter::dead_letter;
pub use delivery::{DecodeError, Delivery, ack_all};
pub use message::{Headers, Outgoing, Properties};
pub use peers::Peers;
pub use publish::Publisher;
pub use settle::Settled;
pub use topology::{Route, Topology};
