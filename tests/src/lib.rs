//! A whole fleet for one test: real servers, every part of Gantry, and clients that know nothing of Gantry's code.
//!
//! [`Fleet`] is a database, a vhost, a tenant and hosts of the test's own. Its parts are started one by one as
//! [`Part`]s, each on a runtime of its own, so that one can be stopped in order or [`Part::crash`]ed as a killed
//! process would be. [`Producer`], [`Tap`] and [`Client`] speak AMQP and HTTP as anybody's program does. When a fleet
//! is dropped, what must hold of its rows and of what really ran is checked, whatever the test was about.

mod amqp;
mod elsewhere;
mod fleet;
mod http;
mod invariants;
pub mod jobs;
mod part;
mod process;
mod producer;
mod rows;
mod servers;
mod workers;

use std::time::Duration;

pub use amqp::{Amqp, Outgoing, Received, Tap};
pub use fleet::Fleet;
pub use http::{Answer, Client};
pub use part::Part;
pub use process::{Process, Role};
pub use producer::{Message, Producer};
pub use servers::Servers;
pub use workers::quick;

/// Longer than anything here takes on a busy machine; only a broken program reaches it.
pub const PATIENCE: Duration = Duration::from_secs(40);
