//! What people want done with dead letters: marked here, each request with its entry in the audit log.

use gantry_core::letter::State;
use gantry_core::{LetterId, LetterRequestId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Filter, Time};
use crate::audit::{self, Actor};
use crate::error::Result;
use crate::tx::{Scope, Store};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To hand them over again, so many in a second.
    Replay {
        /// At least 1.
        per_second: u32,
    },
    /// To forget about them.
    Drop,
}

impl Deed {
    fn action(self) -> &'static str {
        match self {
            Self::Replay { .. } => "letters_replayed",
            Self::Drop => "letters_dropped",
        }
    }

    fn state(self) -> State {
        match self {
            Self::Replay { .. } => State::Replaying,
            Self::Drop => State::Dropped,
        }
    }
}

/// Which letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// These. Also such as were replayed before: a replay can be repeated.
    Ids(Vec<LetterId>),
    /// Those of this filter that wait, oldest first; its states are not looked at.
    Matching {
        /// Which.
        filter: Filter,
        /// So many at most.
        limit: i64,
    },
}

impl Order {
    fn detail(&self, letters: usize) -> Value {
        match self {
            Self::Ids(ids) => json!({ "letters": letters, "ids": ids }),
            Self::Matching { filter, limit } => json!({ "letters": letters, "filter": filter, "limit": limit }),
        }
    }
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request: the letters that it concerns name it.
    pub request: LetterRequestId,
    /// Letters that were marked.
    pub letters: usize,
    /// Whether more of them match than were marked.
    pub more: bool,
    /// When the last of them is due to be replayed.
    pub last_at: Option<Time>,
}

/// Marks the letters that `scope` may see. A request that concerns none leaves no trace.
pub async fn request(store: &Store, scope: Scope, order: &Order, deed: Deed, actor: &Actor) -> Result<Asked> {
    let request = LetterRequestId::new();
    let (ids, filter, limit): (Option<Vec<Uuid>>, _, i64) = match order {
        Order::Ids(ids) => {
            let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX);
            (Some(ids.iter().map(|id| id.uuid()).collect()), Filter::default(), limit)
        }
        Order::Matching { filter, limit } => (None, filter.clone(), *limit),
    };
    let repeats = ids.is_some() && matches!(deed, Deed::Replay { .. });
    let per_second = if let Deed::Replay { per_second } = deed { Some(f64::from(per_second.max(1))) } else { None };
    store
        .run("dead_letters::request", || async {
            let mut tx = store.begin_scoped("dead_letters::request", scope).await?;
            let rows = sqlx::query!(
                r#"/* dead_letters::request */
                with locked as (
                    select id from dead_letters
                    where (state = 'waiting' or (state = 'replayed' and $1)) and ($2::uuid[] is null or id = any($2))
                      and ($3::text is null or reason = $3) and ($4::text is null or origin = $4)
                      and ($5::text is null or queue = $5) and ($6::timestamptz is null or last_received_at >= $6)
                      and ($7::uuid is null or request_id = $7)
                    order by id limit $8::int8 + 1 for no key update
                ), placed as (
                    select id, row_number() over (order by id) - 1 as place from locked
                ), marked as (
                    update dead_letters l
                    set state = $9::text::dead_letter_state, request_id = $10,
                        dropped_at = case when $11::float8 is null then now() end,
                        replay_at = now() + make_interval(secs => p.place / $11::float8),
                        replayed_by = case when $11::float8 is null then l.replayed_by else $12 end,
                        replay_problem = case when $11::float8 is null then l.replay_problem end
                    from placed p where l.id = p.id and p.place < $8::int8 returning l.replay_at
                )
                select (select count(*) from placed) as "found!", (select count(*) from marked) as "marked!",
                    (select max(replay_at) from marked) as last_at"#,
                repeats,
                ids.as_deref(),
                filter.reason,
                filter.origin,
                filter.queue,
                filter.since,
                filter.request.map(LetterRequestId::uuid),
                limit,
                deed.state().to_string(),
                request.uuid(),
                per_second,
                actor.name
            )
            .fetch_one(&mut *tx)
            .await?;
            let letters = usize::try_from(rows.marked).unwrap_or(0);
            if letters > 0 {
                audit::insert(&mut tx, actor, deed.action(), request.uuid(), &order.detail(letters)).await?;
                tx.commit().await?;
            }
            Ok(Asked { request, letters, more: rows.found > rows.marked, last_at: rows.last_at })
        })
        .await
}
