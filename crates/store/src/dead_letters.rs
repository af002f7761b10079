//! Dead letters: what could not be processed, kept until somebody replays it, drops it, or it is too old.
//!
//! The dispatcher takes them out of `gantry.dead` ([`put`]) and replays those that are asked for ([`take_due`],
//! [`settle`]). The api only marks ([`request`]): it publishes no work. Taking a due letter moves its due time on, so
//! that a dispatcher which dies in the middle leaves it to the next one; a replay that is done twice is harmless.

mod ask;
mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gantry_core::letter::State;
use gantry_core::text::sanitize;
use gantry_core::{JobId, LetterId, TenantId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::tx::Store;

pub use ask::{Asked, Deed, Order, request};
pub use read::{Detail, Filter, Letter, Page, get, list};

/// The most bytes of a body that are kept. Four times what a submission may have; a longer letter cannot be replayed.
pub const BODY_BYTES: usize = 1024 * 1024;

/// Longest text of a label that is kept, in bytes.
const TEXT_BYTES: usize = 2_048;

/// A letter as it comes out of the queue. Texts may hold anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The tenant that it names; what is no tenant counts as none.
    pub tenant: Option<TenantId>,
    /// The queue that it was in, without the fleet's prefix.
    pub queue: Option<String>,
    /// The part that gave up on it.
    pub origin: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub detail: String,
    /// Its property `message_id`.
    pub message_id: Option<String>,
    /// Its property `content_type`.
    pub content_type: Option<String>,
    /// Its headers, without credentials.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Arrival {
    /// What makes two arrivals one letter: where it was, whose it is, its `message_id` and its body. Lengths go in,
    /// too, so that no two of them run together.
    fn key(&self) -> [u8; 32] {
        let tenant = self.tenant.map(|tenant| tenant.to_string());
        let texts = [tenant.as_deref(), self.queue.as_deref(), self.message_id.as_deref()];
        let mut hash = Sha256::new();
        for part in texts.map(|text| text.unwrap_or_default().as_bytes()).into_iter().chain([&self.body[..]]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// What Postgres takes as text, and not too much of it.
fn text(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    sanitize(&text[..end]).into_owned()
}

/// Stores letters, all or none. One that came before is counted, and waits again if it was replayed or dropped.
pub async fn put(store: &Store, arrivals: &[Arrival]) -> Result<()> {
    // In the order of their keys, so that two dispatchers wait for each other instead of deadlocking; and each key
    // once, because one statement cannot change a row twice.
    let mut letters: BTreeMap<[u8; 32], (&Arrival, i32)> = BTreeMap::new();
    for arrival in arrivals {
        letters.entry(arrival.key()).or_insert((arrival, 0)).1 += 1;
    }
    if letters.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Arrival) -> String| letters.values().map(|(arrival, _)| of(arrival)).collect::<Vec<_>>();
    let maybe = |of: fn(&Arrival) -> &Option<String>| {
        letters.values().map(|(arrival, _)| of(arrival).as_deref().map(text)).collect::<Vec<_>>()
    };
    let keys: Vec<Vec<u8>> = letters.keys().map(|key| key.to_vec()).collect();
    let counts: Vec<i32> = letters.values().map(|(_, count)| *count).collect();
    let ids: Vec<Uuid> = letters.iter().map(|_| LetterId::new().uuid()).collect();
    let tenants: Vec<Option<Uuid>> = letters.values().map(|(a, _)| a.tenant.map(TenantId::uuid)).collect();
    let queues = maybe(|arrival| &arrival.queue);
    let message_ids = maybe(|arrival| &arrival.message_id);
    let content_types = maybe(|arrival| &arrival.content_type);
    let origins = column(|arrival| text(&arrival.origin));
    let reasons = column(|arrival| text(&arrival.reason));
    let details = column(|arrival| text(&arrival.detail));
    let headers: Vec<Value> = letters
        .values()
        .map(|(a, _)| {
            json!(a.headers.iter().map(|(name, value)| (text(name), text(value))).collect::<BTreeMap<_, _>>())
        })
        .collect();
    let bodies: Vec<Vec<u8>> = letters.values().map(|(a, _)| a.body[..a.body.len().min(BODY_BYTES)].to_vec()).collect();
    let sizes: Vec<i64> = letters.values().map(|(a, _)| i64::try_from(a.body.len()).unwrap_or(i64::MAX)).collect();
    store
        .run("dead_letters::put", || async {
            let mut tx = store.begin("dead_letters::put").await?;
            sqlx::query!(
                "/* dead_letters::put */
                insert into dead_letters as l (id, letter_key, tenant_id, origin, queue, reason, detail, message_id,
                    content_type, headers, body, body_bytes, arrivals)
                select n.id, n.letter_key, t.id, n.origin, n.queue, n.reason, n.detail, n.message_id, n.content_type,
                    n.headers, n.body, n.body_bytes, n.arrivals
                from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                    $9::text[], $10::jsonb[], $11::bytea[], $12::int8[], $13::int[]) with ordinality
                    as n(id, letter_key, tenant_id, origin, queue, reason, detail, message_id, content_type, headers, body,
                        body_bytes, arrivals, place)
                left join tenants t on t.id = n.tenant_id order by n.place
                on conflict (letter_key) do update set arrivals = l.arrivals + excluded.arrivals, last_received_at = now(),
                    origin = excluded.origin, reason = excluded.reason, detail = excluded.detail, headers = excluded.headers,
                    dropped_at = null, state = case when l.state = 'replaying' then l.state else 'waiting'::dead_letter_state end",
                &ids,
                &keys,
                &tenants as &[Option<Uuid>],
                &origins,
                &queues as &[Option<String>],
                &reasons,
                &details,
                &message_ids as &[Option<String>],
                &content_types as &[Option<String>],
                &headers,
                &bodies,
                &sizes,
                &counts
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
}

/// A letter whose replay is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The letter.
    pub id: LetterId,
    /// Whose it is.
    pub tenant: Option<TenantId>,
    /// The queue that it was in.
    pub queue: Option<String>,
    /// Its property `message_id`.
    pub message_id: Option<String>,
    /// Its property `content_type`.
    pub content_type: Option<String>,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Its body; none if it was too long to be kept whole.
    pub body: Option<Vec<u8>>,
    /// How often it had come when it was taken.
    pub arrivals: i32,
    /// The job that an earlier replay made.
    pub replayed_as: Option<JobId>,
    /// Who asked: `key:` and the id of the API key.
    pub asked_by: String,
}

/// Takes up to `limit` letters whose replay is due. Nobody else takes them for `patience`; what is not settled by then
/// is due again.
pub async fn take_due(store: &Store, patience: Duration, limit: i64) -> Result<Vec<Due>> {
    let statement = sqlx::query!(
        r#"/* dead_letters::take_due */
        with due as (
            select id from dead_letters where state = 'replaying' and replay_at <= now()
            order by replay_at limit $1 for no key update skip locked)
        update dead_letters l set replay_at = now() + make_interval(secs => $2) from due where l.id = due.id
        returning l.id, l.tenant_id, l.queue, l.message_id, l.content_type, l.headers, l.body, l.body_bytes, l.arrivals,
            l.replayed_as, l.replayed_by as "replayed_by!""#,
        limit,
        patience.as_secs_f64()
    );
    let rows = store.single("dead_letters::take_due", statement.fetch_all(store.pool())).await?;
    let due = rows.into_iter().map(|row| {
        let whole = i64::try_from(row.body.len()).is_ok_and(|kept| kept == row.body_bytes);
        Due {
            id: row.id.into(),
            tenant: row.tenant_id.map(TenantId::from),
            queue: row.queue,
            message_id: row.message_id,
            content_type: row.content_type,
            headers: headers(row.headers),
            body: whole.then_some(row.body),
            arrivals: row.arrivals,
            replayed_as: row.replayed_as.map(JobId::from),
            asked_by: row.replayed_by,
        }
    });
    Ok(due.collect())
}

fn headers(stored: Value) -> BTreeMap<String, String> {
    // Written by `put`: an object of texts.
    serde_json::from_value(stored).unwrap_or_default()
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The letter.
    pub id: LetterId,
    /// [`Due::arrivals`].
    pub arrivals: i32,
    /// The job that a submission made, or had made before, or none for what is no submission; or why it was refused.
    pub result: Result<Option<JobId>, String>,
}

/// Writes down what came of replays. A refused letter waits again, and so does one that came back before this was
/// written. What is not being replayed any more is left alone.
pub async fn settle(store: &Store, outcomes: &[Outcome]) -> Result<()> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by_key(|outcome| outcome.id);
    let ids: Vec<Uuid> = sorted.iter().map(|outcome| outcome.id.uuid()).collect();
    let arrivals: Vec<i32> = sorted.iter().map(|outcome| outcome.arrivals).collect();
    let jobs: Vec<Option<Uuid>> =
        sorted.iter().map(|outcome| outcome.result.as_ref().ok().copied().flatten().map(JobId::uuid)).collect();
    let problems: Vec<Option<String>> =
        sorted.iter().map(|outcome| outcome.result.as_ref().err().map(|problem| text(problem))).collect();
    let statement = sqlx::query!(
        "/* dead_letters::settle */
        with done as (
            select n.* from unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[]) as n(id, job_id, problem, arrivals)
            join dead_letters l on l.id = n.id where l.state = 'replaying' order by l.id for no key update of l)
        update dead_letters l
        set state = (case when d.problem is null and l.arrivals = d.arrivals then 'replayed' else 'waiting' end)::dead_letter_state,
            replay_at = null,
            replays = l.replays + 1, replay_problem = d.problem, replayed_as = coalesce(d.job_id, l.replayed_as),
            replayed_at = case when d.problem is null then now() else l.replayed_at end
        from done d where l.id = d.id",
        &ids,
        &jobs as &[Option<Uuid>],
        &problems as &[Option<String>],
        &arrivals
    );
    store.single("dead_letters::settle", statement.execute(store.pool())).await?;
    Ok(())
}

/// A row's state.
fn state(label: &str) -> Result<State, Error> {
    crate::error::parse("state", label)
}

/// A time of a row.
type Time = DateTime<Utc>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_the_same_only_if_all_of_it_is() {
        let letter = Arrival {
            tenant: Some(TenantId::new()),
            queue: Some("q".into()),
            message_id: Some("m".into()),
            body: b"b".to_vec(),
            ..Arrival::default()
        };
        let again = Arrival { reason: "another".into(), detail: "words".into(), ..letter.clone() };
        assert_eq!(letter.key(), again.key());
        for other in [
            Arrival { tenant: None, ..letter.clone() },
            Arrival { queue: Some("qm".into()), message_id: Some(String::new()), ..letter.clone() },
            Arrival { message_id: None, body: b"mb".to_vec(), ..letter.clone() },
            Arrival { body: b"c".to_vec(), ..letter.clone() },
        ] {
            assert_ne!(letter.key(), other.key(), "{other:?}");
        }
    }

    #[test]
    fn text_is_cut_between_characters_and_holds_no_nul() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        let long = format!("{}ä", "x".repeat(TEXT_BYTES - 1));
        assert_eq!(text(&long).len(), TEXT_BYTES - 1);
    }
}
