//! Whose submission it is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gantry_core::problem::{Code, Problem};
use gantry_store::tenants::{self, Principal};
use gantry_store::{Error, Store};

/// The header that carries the API key. It is never stored or forwarded.
pub(crate) const API_KEY_HEADER: &str = "x-gantry-api-key";

/// How long a key that was good counts as good: a revoked one works no longer than this.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long a key that was unknown counts as unknown: a flood of them is not a query each.
const REFUSED: Duration = Duration::from_secs(1);
/// Keys remembered at most.
const CAPACITY: usize = 10_000;

/// Looks keys up, and remembers the answers by the key's hash.
#[derive(Default)]
pub(crate) struct Keys {
    known: HashMap<[u8; 32], (Option<Principal>, Instant)>,
}

impl Keys {
    /// The principal of a key; an error is Postgres's.
    pub(crate) async fn principal(
        &mut self,
        store: &Store,
        key: Option<&str>,
    ) -> Result<Result<Principal, Problem>, Error> {
        let Some(key) = key else {
            let message = format!("the message has no `{API_KEY_HEADER}` header; set it to the tenant's API key");
            return Ok(Err(Problem::new(Code::Unauthorized, message)));
        };
        let hash = tenants::hash_key(key);
        let remembered = self
            .known
            .get(&hash)
            .filter(|(principal, since)| since.elapsed() < if principal.is_some() { REMEMBERED } else { REFUSED });
        let principal = match remembered {
            Some((principal, _)) => *principal,
            None => {
                let principal = tenants::authenticate(store, key).await?;
                if self.known.len() >= CAPACITY {
                    self.known.clear();
                }
                self.known.insert(hash, (principal, Instant::now()));
                principal
            }
        };
        Ok(principal.ok_or_else(|| Problem::new(Code::Unauthorized, "the API key is unknown or revoked")))
    }
}
