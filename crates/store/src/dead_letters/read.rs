//! Dead letters as people see them.

use std::collections::BTreeMap;

use gantry_core::letter::State;
use gantry_core::{JobId, LetterId, LetterRequestId, TenantId};
use serde::Serialize;

use super::{Time, headers, state};
use crate::error::Result;
use crate::tx::{Scope, Store};

/// Which letters; what is left out restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// In one of these states; any if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// With this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// That this part gave up on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// That were in this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// That last came at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// That this request was the last to concern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<LetterRequestId>,
}

/// A page of a list, newest first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only letters older than this one.
    pub before: Option<LetterId>,
    /// So many at most.
    pub limit: i64,
}

/// A letter, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The id: a UUIDv7, so that ids sort by first arrival.
    pub id: LetterId,
    /// Whose it is, where that is known.
    pub tenant: Option<TenantId>,
    /// What has become of it.
    pub state: State,
    /// The part that gave up on it.
    pub origin: String,
    /// The queue that it was in, where that is known.
    pub queue: Option<String>,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub detail: String,
    /// Its property `message_id`.
    pub message_id: Option<String>,
    /// Length of its whole body.
    pub body_bytes: i64,
    /// How often it came.
    pub arrivals: i32,
    /// When it came first.
    pub received_at: Time,
    /// When it came last.
    pub last_received_at: Time,
    /// How often it was replayed, refusals included.
    pub replays: i32,
    /// When it was last handed over.
    pub replayed_at: Option<Time>,
    /// The job that came of it.
    pub replayed_as: Option<JobId>,
    /// Why its last replay was refused.
    pub replay_problem: Option<String>,
    /// When it was dropped.
    pub dropped_at: Option<Time>,
}

/// What a letter holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The rest.
    pub letter: Letter,
    /// Its property `content_type`.
    pub content_type: Option<String>,
    /// Its headers that are text or numbers, without credentials.
    pub headers: BTreeMap<String, String>,
    /// Its body, or the beginning of it.
    pub body: Vec<u8>,
}

/// The letters that `scope` may see, newest first.
pub async fn list(store: &Store, scope: Scope, filter: &Filter, page: Page) -> Result<Vec<Letter>> {
    let states: Vec<String> = filter.states.iter().map(State::to_string).collect();
    store
        .bounded("dead_letters::list", async {
            let mut tx = store.begin_scoped("dead_letters::list", scope).await?;
            let rows = sqlx::query!(
                r#"/* dead_letters::list */
                select id, tenant_id, state::text as "state!", origin, queue, reason, detail, message_id, body_bytes, arrivals,
                    received_at, last_received_at, replays, replayed_at, replayed_as, replay_problem, dropped_at
                from dead_letters
                where ($1::text[] = '{}' or state = any($1::text[]::dead_letter_state[])) and ($2::text is null or reason = $2)
                  and ($3::text is null or origin = $3) and ($4::text is null or queue = $4)
                  and ($5::timestamptz is null or last_received_at >= $5) and ($6::uuid is null or request_id = $6)
                  and ($7::uuid is null or id < $7)
                order by id desc limit $8"#,
                &states,
                filter.reason,
                filter.origin,
                filter.queue,
                filter.since,
                filter.request.map(LetterRequestId::uuid),
                page.before.map(LetterId::uuid),
                page.limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.into_iter()
                .map(|row| {
                    Ok(Letter {
                        id: row.id.into(),
                        tenant: row.tenant_id.map(TenantId::from),
                        state: state(&row.state)?,
                        origin: row.origin,
                        queue: row.queue,
                        reason: row.reason,
                        detail: row.detail,
                        message_id: row.message_id,
                        body_bytes: row.body_bytes,
                        arrivals: row.arrivals,
                        received_at: row.received_at,
                        last_received_at: row.last_received_at,
                        replays: row.replays,
                        replayed_at: row.replayed_at,
                        replayed_as: row.replayed_as.map(JobId::from),
                        replay_problem: row.replay_problem,
                        dropped_at: row.dropped_at,
                    })
                })
                .collect()
        })
        .await
}

/// One letter with its contents; none if it does not exist or is another tenant's.
pub async fn get(store: &Store, scope: Scope, id: LetterId) -> Result<Option<Detail>> {
    store
        .bounded("dead_letters::get", async {
            let mut tx = store.begin_scoped("dead_letters::get", scope).await?;
            let row = sqlx::query!(
                r#"/* dead_letters::get */
                select id, tenant_id, state::text as "state!", origin, queue, reason, detail, message_id, body_bytes, arrivals,
                    received_at, last_received_at, replays, replayed_at, replayed_as, replay_problem, dropped_at, content_type,
                    headers, body
                from dead_letters where id = $1"#,
                id.uuid()
            )
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            let Some(row) = row else { return Ok(None) };
            let letter = Letter {
                id: row.id.into(),
                tenant: row.tenant_id.map(TenantId::from),
                state: state(&row.state)?,
                origin: row.origin,
                queue: row.queue,
                reason: row.reason,
                detail: row.detail,
                message_id: row.message_id,
                body_bytes: row.body_bytes,
                arrivals: row.arrivals,
                received_at: row.received_at,
                last_received_at: row.last_received_at,
                replays: row.replays,
                replayed_at: row.replayed_at,
                replayed_as: row.replayed_as.map(JobId::from),
                replay_problem: row.replay_problem,
                dropped_at: row.dropped_at,
            };
            let (content_type, headers, body) = (row.content_type, headers(row.headers), row.body);
            Ok(Some(Detail { letter, content_type, headers, body }))
        })
        .await
}
