//! Putting aside what cannot be processed.

use crate::{Delivery, Outgoing, Publisher, Route, metrics, publish};

/// Headers that no dead letter keeps: they hold credentials.
pub const CREDENTIALS: &[&str] = &["x-gantry-api-key", "authorization"];

/// Longest `message` that is kept, in bytes.
const MAX_MESSAGE: usize = 2048;

/// Why a message was put aside; what `gantry dlq` shows.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a> {
    /// A code from a closed set of the caller's (`invalid_submission`).
    pub code: &'a str,
    /// The same for a person. Cut after 2048 bytes.
    pub message: &'a str,
    /// The part or queue that gave up on it.
    pub origin: &'a str,
    /// The tenant, where it is known.
    pub tenant: Option<&'a str>,
}

/// Publishes the message to `gantry.dead` with `x-gantry-reason`,
/// `x-gantry-message`, `x-gantry-origin` and `x-gantry-tenant`, its own headers
/// but without credentials, and then acks it. Where the publish fails the
/// delivery goes back to its queue: it is never lost.
///
/// # Errors
/// Why it could not be published.
pub async fn dead_letter(publisher: &Publisher, delivery: Delivery, reason: Reason<'_>) -> Result<(), publish::Error> {
    let letter = compose(publisher.dead_route(), &delivery, reason);
    match publisher.publish(letter).await {
        Ok(()) => {
            count(reason.origin, reason.code);
            delivery.ack().await;
            Ok(())
        }
        Err(error) => {
            delivery.requeue().await;
            Err(error)
        }
    }
}

/// Counts a letter that was put aside in another way than by [`dead_letter`].
pub fn count(origin: &str, reason: &str) {
    metrics::dead_lettered(origin, reason);
}

fn compose(route: Route, delivery: &Delivery, reason: Reason<'_>) -> Outgoing {
    let mut letter = Outgoing::work(route, delivery.body().to_vec());
    letter.properties = delivery.properties().clone();
    letter.properties.persistent = true;
    letter.headers = delivery.headers().clone();
    for name in CREDENTIALS {
        letter.headers.remove(name);
    }
    // The count belongs to the queue it comes from.
    letter.headers.remove("x-delivery-count");
    letter.headers.remove("x-gantry-tenant");
    letter.headers.insert("x-gantry-reason", reason.code);
    letter.headers.insert("x-gantry-message", cut(reason.message));
    letter.headers.insert("x-gantry-origin", reason.origin);
    if let Some(tenant) = reason.tenant {
        letter.headers.insert("x-gantry-tenant", tenant);
    }
    letter
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}
