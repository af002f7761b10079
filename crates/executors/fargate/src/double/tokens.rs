//! Which `clientToken` has which tasks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// For how long a token is the same request.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// All tokens that were seen.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Arc<AsyncMutex<Option<Kept>>>>>);

/// A token that no other request can use meanwhile.
pub(super) struct Held(OwnedMutexGuard<Option<Kept>>);

/// What a token was used for.
#[derive(Debug)]
struct Kept {
    request: Value,
    tasks: Vec<String>,
    at: Instant,
}

/// What a request with a token is.
#[derive(Debug, PartialEq)]
pub(super) enum Claim {
    /// The first.
    New,
    /// The same again: these are its tasks.
    Same(Vec<String>),
    /// Another one than that which made these tasks.
    Other(Vec<String>),
}

impl Tokens {
    pub(super) async fn hold(&self, token: &str) -> Held {
        let entry = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(token.to_owned()).or_default())
        };
        Held(entry.lock_owned().await)
    }
}

impl Held {
    pub(super) fn claim(&self, request: &Value) -> Claim {
        match self.0.as_ref().filter(|kept| kept.at.elapsed() < VALID) {
            None => Claim::New,
            Some(kept) if kept.request == *request => Claim::Same(kept.tasks.clone()),
            Some(kept) => Claim::Other(kept.tasks.clone()),
        }
    }

    pub(super) fn keep(&mut self, request: Value, tasks: Vec<String>) {
        *self.0 = Some(Kept { request, tasks, at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_token_is_one_request() {
        let tokens = Tokens::default();
        let (one, other) = (json!({"count": 1}), json!({"count": 2}));
        let mut held = tokens.hold("a").await;
        assert_eq!(held.claim(&one), Claim::New);
        held.keep(one.clone(), vec!["task".into()]);
        drop(held);
        let mut held = tokens.hold("a").await;
        assert_eq!(held.claim(&one), Claim::Same(vec!["task".into()]));
        assert_eq!(held.claim(&other), Claim::Other(vec!["task".into()]));
        assert_eq!(tokens.hold("b").await.claim(&other), Claim::New);
        if let Some(kept) = held.0.as_mut()
            && let Some(long_ago) = Instant::now().checked_sub(VALID)
        {
            kept.at = long_ago;
            assert_eq!(held.claim(&other), Claim::New, "a day later it is any token");
        }
    }
}
