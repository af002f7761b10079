//! Whose request it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use gantry_core::problem::Code;
use gantry_store::tenants::{self, Principal};
use gantry_store::{Scope, Store};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::service::App;

/// How long a key that was revoked may still be accepted.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Keys remembered before the expired ones are swept out.
const SWEEP_AT: usize = 1_024;

/// The sender of a request, by the API key in `Authorization: Bearer KEY`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) Principal);

impl Caller {
    /// What the sender may see.
    pub(crate) fn scope(&self) -> Scope {
        Scope::Tenant { id: self.0.tenant, operator: self.0.operator }
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self> {
        let refused = |message| Error::field(Code::Unauthorized, "Authorization", message);
        let header =
            parts.headers.get(AUTHORIZATION).ok_or_else(|| refused("send `Authorization: Bearer <API key>`"))?;
        let key = header
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim())
            .ok_or_else(|| refused("the header is not `Bearer <API key>`"))?;
        let principal = app.keys.authenticate(&app.store, key).await?;
        let principal = principal.ok_or_else(|| refused("the API key is unknown or revoked"))?;
        tracing::Span::current().record("tenant.id", tracing::field::display(principal.tenant));
        Ok(Self(principal))
    }
}

/// The keys seen lately, by hash, so that a busy client costs no query per request. Only valid keys are kept: what
/// strangers send takes no room.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    known: Mutex<HashMap<[u8; 32], (Principal, Instant)>>,
}

impl Keys {
    async fn authenticate(&self, store: &Store, key: &str) -> Result<Option<Principal>> {
        let hash = tenants::hash_key(key);
        // The time before the query: the answer is at least that fresh.
        let asked = Instant::now();
        let known =
            self.lock().get(&hash).filter(|(_, seen)| asked - *seen < REMEMBERED).map(|(principal, _)| *principal);
        if known.is_some() {
            return Ok(known);
        }
        let principal = tenants::authenticate(store, key).await?;
        if let Some(principal) = principal {
            let mut known = self.lock();
            if known.len() >= SWEEP_AT {
                known.retain(|_, (_, seen)| asked - *seen < REMEMBERED);
            }
            known.insert(hash, (principal, asked));
        }
        Ok(principal)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Principal, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
