//! The connections of one process to the servers, each through a proxy of its own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use gantry_testkit::Proxy;

use super::schedule::{Cut, Member, Server};
use super::servers::Addresses;
use crate::part::Part;

/// What a docker worker's host row names as its engine. Each worker finds its own proxy there, because each has a
/// folder of its own to work in.
pub(crate) const ENGINE: &str = "unix:///proc/self/cwd/engine.sock";
const SOCKET: &str = "engine.sock";

/// A request that changes something on an engine, and when it was passed on.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) at: Instant,
    /// Method and path.
    pub(crate) request: String,
}

/// The proxies of one process.
pub(crate) struct Links {
    postgres: Proxy,
    rabbitmq: Proxy,
    engine: Option<Proxy>,
    mutations: Arc<Mutex<Vec<Mutation>>>,
}

impl Links {
    /// Proxies for a process that works in `folder`.
    pub(crate) async fn new(member: Member, addresses: &Addresses, folder: &Path) -> Self {
        let role = if member.part == Part::Api { "gantry_api" } else { "gantry_fleet" };
        let database = addresses.database_for(role);
        let (postgres, rabbitmq) = tokio::join!(Proxy::start(&database), Proxy::start(&addresses.amqp));
        let mutations = Arc::<Mutex<Vec<Mutation>>>::default();
        let heard = mutations.clone();
        let engine = (member.part == Part::DockerWorker).then(|| {
            Proxy::unix(&folder.join(SOCKET), &addresses.socket, move |bytes| {
                if let Some(request) = mutation(bytes) {
                    let mutation = Mutation { at: Instant::now(), request };
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(mutation);
                }
            })
        });
        Self { postgres, rabbitmq, engine, mutations }
    }

    pub(crate) fn database(&self) -> &str {
        self.postgres.url()
    }

    pub(crate) fn broker(&self) -> &str {
        self.rabbitmq.url()
    }

    /// # Panics
    /// For the engine of a part that has none; no schedule asks for it.
    pub(crate) fn to(&self, server: Server) -> &Proxy {
        match server {
            Server::Postgres => &self.postgres,
            Server::RabbitMq => &self.rabbitmq,
            Server::Engine => self.engine.as_ref().expect("only workers with an engine are cut off from it"),
        }
    }

    /// Breaks the connections to a server; what was not broken before is seen by its tally.
    pub(crate) fn cut(&self, server: Server, cut: Cut) {
        let proxy = self.to(server);
        match cut {
            Cut::Reset => proxy.cut(),
            Cut::Stall => proxy.stall(),
            Cut::DropResponses => proxy.drop_responses(),
            Cut::Refuse => proxy.refuse(),
        }
    }

    /// Mends them.
    pub(crate) fn heal(&self, server: Server, cut: Cut) {
        let proxy = self.to(server);
        if cut == Cut::DropResponses {
            // What is left of the old conversations makes no sense to anybody.
            proxy.cut();
        }
        proxy.resume();
    }

    /// What the process has asked its engine to change since a moment.
    pub(crate) fn mutations_since(&self, moment: Instant) -> Vec<Mutation> {
        let mutations = self.mutations.lock().unwrap_or_else(PoisonError::into_inner);
        mutations.iter().filter(|mutation| mutation.at >= moment).cloned().collect()
    }
}

/// The request line's method and path, if these bytes begin a request that changes something. A request to the engine
/// is small enough to be written at once.
fn mutation(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_suffix(" HTTP/1.1")?;
    let (method, path) = line.split_once(' ')?;
    // Waiting for an end changes nothing.
    let changes = matches!(method, "POST" | "PUT" | "DELETE") && !path.contains("/wait");
    changes.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_is_told_from_what_asks() {
        let heard = |text: &str| mutation(text.as_bytes());
        assert_eq!(
            heard("POST /v1.41/containers/a/start HTTP/1.1\r\nhost: x\r\n\r\n").as_deref(),
            Some("POST /v1.41/containers/a/start")
        );
        assert!(heard("DELETE /v1.41/containers/a HTTP/1.1\r\n\r\n").is_some());
        assert!(heard("GET /v1.41/containers/a/json HTTP/1.1\r\n\r\n").is_none());
        assert!(heard("POST /v1.41/containers/a/wait?condition=x HTTP/1.1\r\n\r\n").is_none());
        assert!(heard("{\"POST\": 1}").is_none());
    }
}
