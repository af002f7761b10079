//! What jobs cost.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use chrono::{Datelike as _, Days as Number, NaiveDate};
use gantry_core::clock::{Clock as _, SystemClock};
use gantry_core::cost::By;
use gantry_core::problem::Code;
use gantry_core::{ExecutorType, HostId, TemplateId, TenantId};
use gantry_store::costs::{self, After, Days, Line, NO_TEMPLATE};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::Parameters;
use crate::routes::steering::operator;
use crate::service::App;
use crate::wire::{Cost, CostList, ProblemDetails};

/// Lines of a page.
const PAGE: i64 = 100;
/// Lines of a page at most.
const MAX_PAGE: i64 = 1_000;
/// Days before this one from which costs are told, where nobody says.
const DAYS: u64 = 7;

/// Look at what jobs cost.
///
/// By tenant, template, host and executor type the costs of the past stay, however soon the jobs themselves are removed.
/// An attempt counts on the day in UTC on which its end was recorded; a job with all of its attempts on the day of its
/// own. Money is in the currency of the hosts' prices.
#[utoipa::path(
    get, path = "/v1/costs", tag = "costs", operation_id = "listCosts",
    params(
        ("by" = String, Query, description = "What each line is of: `tenant`, `template`, `host`, `executor` or `job`. By `tenant` an operator's key sees all tenants.", example = "template"),
        ("since" = Option<String>, Query, description = "The first day that counts, in UTC. Default seven days ago.", example = "2026-11-01"),
        ("until" = Option<String>, Query, description = "The last day that counts, in UTC. Default today.", example = "2026-11-30"),
        ("all_tenants" = Option<bool>, Query, description = "By `host` or `executor`: the costs of all tenants. For operators' keys only."),
        ("after" = Option<String>, Query, description = "Only what comes after: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Lines of the page, 1 to 1,000. Default 100."),
    ),
    responses(
        (status = 200, body = CostList, description = "A page of costs."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The costs of all tenants, and the key is no operator's."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn costs(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<CostList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let by: By = parameters.one("by")?.ok_or_else(|| {
        Error::field(Code::InvalidField, "by", "say of what: `tenant`, `template`, `host`, `executor` or `job`")
    })?;
    let all_tenants: bool = parameters.one("all_tenants")?.unwrap_or(false);
    let days = days(&mut parameters)?;
    // One more, to know whether there is a next page.
    let most = limit + 1;
    let (store, scope, tenant) = (&app.store, caller.scope(), caller.0.tenant);
    let mut lines = match by {
        By::Tenant | By::Host | By::Executor => {
            if all_tenants {
                operator(&caller)?;
            }
            let after = match by {
                By::Tenant => parameters.one::<TenantId>("after")?.map(|tenant| tenant.to_string()),
                By::Host => parameters.one::<HostId>("after")?.map(|host| host.to_string()),
                _ => parameters.one::<ExecutorType>("after")?.map(|executor| executor.to_string()),
            };
            parameters.finish()?;
            let everyone = all_tenants || (by == By::Tenant && caller.0.operator);
            costs::by_place(store, scope, by, everyone, days, after.as_deref(), most).await?
        }
        By::Template | By::Job if all_tenants => {
            let message = format!("by {by} there are only the costs of one's own tenant");
            return Err(Error::field(Code::InvalidField, "all_tenants", message));
        }
        By::Template => {
            let after: Option<String> = parameters.one("after")?;
            let after = match after.as_deref() {
                None | Some(NO_TEMPLATE) => after,
                Some(id) => Some(crate::extract::parse::<TemplateId>("after", id)?.to_string()),
            };
            parameters.finish()?;
            costs::by_template(store, scope, tenant, days, after.as_deref(), most).await?
        }
        By::Job => {
            let after: Option<After> = parameters.one("after")?;
            parameters.finish()?;
            costs::by_job(store, scope, tenant, days, after, most).await?
        }
    };
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = lines.len() > page;
    lines.truncate(page);
    let next = lines.last().filter(|_| more).map(Line::place);
    let costs = lines.into_iter().map(cost).collect();
    Ok(Json(CostList { by, since: days.since, until: days.until, costs, next }))
}

/// The days that are asked for.
/// The first day that may be asked about.
const FIRST: NaiveDate = NaiveDate::from_ymd_opt(1970, 1, 1).expect("there was such a day");

fn days(parameters: &mut Parameters) -> Result<Days> {
    let today = SystemClock.now().date_naive();
    let day = |name: &str, given: Option<NaiveDate>, default: NaiveDate| match given.unwrap_or(default) {
        day if (1970..10_000).contains(&day.year()) => Ok(day),
        day => Err(Error::field(Code::InvalidField, name, format!("there are no costs of {day}"))),
    };
    let until = day("until", parameters.one("until")?, today)?;
    let default = (today.min(until) - Number::new(DAYS)).max(FIRST);
    let since = day("since", parameters.one("since")?, default)?;
    if since > until {
        let message = format!("the first day, {since}, is after the last, {until}");
        return Err(Error::field(Code::InvalidField, "since", message));
    }
    Ok(Days { since, until })
}

fn cost(line: Line) -> Cost {
    let Line { key, name, runs, completed, untimed, run_millis, cost, failed_cost, estimated_cost, ended_at } = line;
    let named = key != NO_TEMPLATE;
    Cost {
        id: Some(key).filter(|_| named),
        name: Some(name).filter(|name| !name.is_empty()),
        runs,
        completed,
        failed: runs - completed,
        untimed,
        run_millis,
        cost: cost.map(|cost| cost.normalize()),
        failed_cost: failed_cost.normalize(),
        estimated_cost: estimated_cost.map(|cost| cost.normalize()),
        ended_at,
    }
}
