//! A tenant's work at a glance.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use gantry_store::overview;

use crate::auth::Caller;
use crate::error::Result;
use crate::service::App;
use crate::view;
use crate::wire::{BacklogGroup, Overview, OverviewRates, ProblemDetails, Rates, RecentEnd, RunningGroup};

/// Look at everything at once: what waits and why, what runs, the hosts, the rates and the last ends.
///
/// It may be asked for every second: it costs the same however long the backlog and the history are.
#[utoipa::path(
    get, path = "/v1/overview", tag = "hosts", operation_id = "overview",
    responses(
        (status = 200, body = Overview, description = "What there is to see."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn overview(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<Overview>> {
    let seen = overview::read(&app.store, caller.scope(), caller.0.tenant).await?;
    let waiting = |group: overview::Waiting| BacklogGroup {
        executor_type: group.executor,
        reason: group.reason,
        jobs: group.jobs,
        more: group.more,
    };
    let running = |group: overview::Running| RunningGroup {
        executor_type: group.executor,
        jobs: group.jobs,
        starting: group.starting,
    };
    Ok(Json(Overview {
        at: seen.at,
        backlog: seen.backlog.into_iter().map(waiting).collect(),
        running: seen.running.into_iter().map(running).collect(),
        // How to reach them is not for a screen.
        hosts: seen.hosts.into_iter().map(|host| view::host(host, false)).collect(),
        rates: OverviewRates { minute: rates(seen.minute), five_minutes: rates(seen.five_minutes) },
        recent: seen.recent.into_iter().map(recent).collect(),
    }))
}

fn rates(rates: overview::Rates) -> Rates {
    Rates {
        started_per_second: rates.started,
        completed_per_second: rates.completed,
        failed_per_second: rates.failed,
        cancelled_per_second: rates.cancelled,
    }
}

fn recent(end: overview::End) -> RecentEnd {
    RecentEnd {
        id: end.id,
        name: end.name,
        status: end.status,
        executor_type: end.executor,
        host: end.host,
        exit_code: end.exit_code,
        failure_class: end.failure_class,
        started_at: end.started_at,
        completed_at: end.completed_at,
    }
}
