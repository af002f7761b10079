//! The one way in: validate, resolve the template, route, insert. Called by the dispatcher for submissions over
//! RabbitMQ and by the API for those over HTTP, with a batch each time and a verdict for each of its items.

mod admit;
mod explain;
mod incoming;
pub mod metrics;
mod resolve;

pub use admit::{Admitted, admit, admit_and_dispatch, prepare_all, refused_by_database};
pub use explain::{Explained, explain};
pub use incoming::{Incoming, Scheduled};
