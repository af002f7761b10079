//! Dead letters: looked at, replayed, dropped. A tenant sees its own; what is nobody's is for operators' keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use gantry_core::problem::Code;
use gantry_core::{LetterId, letter};
use gantry_store::audit::Actor;
use gantry_store::dead_letters::{self as rows, Asked, Deed, Filter, Order, Page};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, Parameters};
use crate::service::App;
use crate::wire::{
    Data, DropRequest, Letter, LetterDetail, LetterFilter, LetterList, LettersReply, ProblemDetails, ReplayRequest,
};

/// Letters of a page.
const PAGE: i64 = 50;
/// Letters of a page at most.
const MAX_PAGE: i64 = 500;
/// Letters that a filter chooses unless the request says otherwise, and at most.
const CHOSEN: i64 = 1_000;
const MAX_CHOSEN: i64 = 10_000;
/// Letters that a request names at most.
const MAX_NAMED: usize = 1_000;
/// Replays in a second unless the request says otherwise, and at most.
const RATE: u32 = 50;
const MAX_RATE: u32 = 1_000;

/// List dead letters, newest first.
///
/// A tenant's own; with an operator's key also those that are nobody's.
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "dead letters", operation_id = "listDeadLetters",
    params(
        ("state" = Option<String>, Query, description = "`waiting`, `replaying`, `replayed`, `dropped`: several with commas, or repeated. Default: all."),
        ("reason" = Option<String>, Query, description = "Only with this reason."),
        ("origin" = Option<String>, Query, description = "Only those that this part gave up on."),
        ("queue" = Option<String>, Query, description = "Only those that were in this queue."),
        ("since" = Option<String>, Query, format = DateTime, description = "Only those that last came at this time or later."),
        ("request" = Option<String>, Query, format = Uuid, description = "Only those that this request was the last to concern."),
        ("before" = Option<String>, Query, format = Uuid, description = "Only letters older than this one: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Letters of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = LetterList, description = "A page of letters."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<LetterList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let before: Option<LetterId> = parameters.one("before")?;
    let filter = Filter {
        states: parameters.all::<letter::State>("state")?,
        reason: parameters.one("reason")?,
        origin: parameters.one("origin")?,
        queue: parameters.one("queue")?,
        since: parameters.one("since")?,
        request: parameters.one("request")?,
    };
    parameters.finish()?;
    // One more, to know whether there is a next page.
    let page = Page { before, limit: limit + 1 };
    let mut found = rows::list(&app.store, caller.scope(), &filter, page).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > page;
    found.truncate(page);
    let next = if more { found.last().map(|letter| letter.id) } else { None };
    Ok(Json(LetterList { letters: found.into_iter().map(view).collect(), next }))
}

/// Look at a dead letter with its headers and its body.
#[utoipa::path(
    get, path = "/v1/dead-letters/{id}", tag = "dead letters", operation_id = "getDeadLetter",
    params(("id" = String, Path, format = Uuid, description = "The letter's id.")),
    responses(
        (status = 200, body = LetterDetail, description = "The letter."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such letter."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<LetterDetail>> {
    let missing = || Error::new(Code::NotFound, format!("there is no dead letter {id}"));
    let id: LetterId = id.parse().map_err(|_| missing())?;
    let found = rows::get(&app.store, caller.scope(), id).await?.ok_or_else(missing)?;
    Ok(Json(LetterDetail {
        truncated: i64::try_from(found.body.len()).is_ok_and(|kept| kept < found.letter.body_bytes),
        letter: view(found.letter),
        content_type: found.content_type,
        headers: found.headers,
        body: Data::new(found.body),
    }))
}

/// Replay dead letters: hand them over again.
///
/// A submission is admitted like any other, as its own tenant's; a list of work or of reports goes back to its queue.
/// Replaying a letter twice is harmless. The answer says which letters are going to be replayed; list them with
/// `request` to see what became of each.
#[utoipa::path(
    post, path = "/v1/dead-letters/replay", tag = "dead letters", operation_id = "replayDeadLetters",
    request_body = ReplayRequest,
    responses(
        (status = 202, body = LettersReply, description = "They are replayed, one after the other."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<LettersReply>)> {
    let request: ReplayRequest = body.json()?;
    let per_second = within("rate_per_second", request.rate_per_second.unwrap_or(RATE), MAX_RATE)?;
    let order = order(request.ids, request.filter, request.limit)?;
    let asked = rows::request(&app.store, caller.scope(), &order, Deed::Replay { per_second }, &actor(&caller)).await?;
    Ok((StatusCode::ACCEPTED, Json(reply(asked))))
}

/// Drop dead letters: they are not wanted any more. They leave with retention.
#[utoipa::path(
    post, path = "/v1/dead-letters/drop", tag = "dead letters", operation_id = "dropDeadLetters",
    request_body = DropRequest,
    responses(
        (status = 200, body = LettersReply, description = "They are dropped."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn discard(State(app): State<Arc<App>>, caller: Caller, body: Body) -> Result<Json<LettersReply>> {
    let request: DropRequest = body.json()?;
    let order = order(request.ids, request.filter, request.limit)?;
    let asked = rows::request(&app.store, caller.scope(), &order, Deed::Drop, &actor(&caller)).await?;
    Ok(Json(reply(asked)))
}

fn actor(caller: &Caller) -> Actor {
    Actor { tenant: caller.0.tenant, name: caller.0.name() }
}

/// Ids or a filter: all of them must be asked for in so many words.
fn order(ids: Vec<LetterId>, filter: Option<LetterFilter>, limit: Option<i64>) -> Result<Order> {
    let invalid = |field: &str, message: String| Err(Error::field(Code::InvalidField, field, message));
    match (ids.len(), filter) {
        (0, None) => invalid("ids", "name letters by `ids`, or choose them by a `filter`; `{}` is all".to_owned()),
        (1.., Some(_)) => invalid("filter", "give `ids` or a `filter`, not both".to_owned()),
        (named, None) if named > MAX_NAMED => invalid("ids", format!("at most {MAX_NAMED}, not {named}")),
        (1.., None) if limit.is_some() => invalid("limit", "it belongs to a `filter`".to_owned()),
        (_, None) => Ok(Order::Ids(ids)),
        (_, Some(LetterFilter { reason, origin, queue, since })) => {
            let limit = within("limit", limit.unwrap_or(CHOSEN), MAX_CHOSEN)?;
            Ok(Order::Matching { filter: Filter { reason, origin, queue, since, ..Filter::default() }, limit })
        }
    }
}

/// A number from 1 to `max`.
fn within<N: PartialOrd + From<u8> + std::fmt::Display>(field: &str, number: N, max: N) -> Result<N> {
    if number < N::from(1) || number > max {
        return Err(Error::field(Code::InvalidField, field, format!("must be 1 to {max}, not {number}")));
    }
    Ok(number)
}

fn reply(asked: Asked) -> LettersReply {
    LettersReply { request: asked.request, letters: asked.letters, more: asked.more, last_at: asked.last_at }
}

fn view(letter: rows::Letter) -> Letter {
    Letter {
        id: letter.id,
        state: letter.state,
        tenant: letter.tenant,
        origin: letter.origin,
        queue: letter.queue,
        reason: letter.reason,
        detail: letter.detail,
        message_id: letter.message_id,
        body_bytes: letter.body_bytes,
        arrivals: letter.arrivals,
        received_at: letter.received_at,
        last_received_at: letter.last_received_at,
        replays: letter.replays,
        replayed_at: letter.replayed_at,
        replayed_as: letter.replayed_as,
        replay_problem: letter.replay_problem,
        dropped_at: letter.dropped_at,
    }
}
