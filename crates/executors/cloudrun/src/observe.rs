//! The states of Jobs, many at once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt as _;
use gantry_core::Failure;
use gantry_worker::executor::{End, ExecutionId, Observed};
use google_cloud_gax::error::Error;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_run_v2::model::{Execution, Job, Task};

use crate::config::Options;
use crate::region::{Clients, Region};
use crate::state::{self, Standing, Verdict};
use crate::{end, error, job, logs};

/// Up to so many Jobs are asked for one by one, and one page of the list is read for as many more.
const FEW: usize = 4;
/// How many Jobs a page of the list has. The service may give fewer.
const PAGE: i32 = 500;
/// Requests at a time.
const CONCURRENCY: usize = 8;
/// How long the task of an ended execution, which has its exit code, may take to be seen. They are two records of the
/// service's, written one after the other.
const TASK_SETTLES: Duration = Duration::from_secs(60);

pub(crate) async fn observe(
    region: &Region,
    options: &Options,
    ids: &[ExecutionId],
) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let clients = region.clients().await?;
    let mut listed = if ids.len() > FEW { list(region, clients, ids).await? } else { HashMap::new() };
    let looks: Vec<_> = ids.iter().map(|id| (id.clone(), listed.remove(&id.0))).collect();
    let mut answers = futures::stream::iter(looks)
        .map(|(id, listed)| async move { (one(region, options, clients, &id.0, listed).await, id) })
        .buffer_unordered(CONCURRENCY);
    let mut states = Vec::with_capacity(ids.len());
    while let Some((state, id)) = answers.next().await {
        match state {
            Ok(Some(state)) => states.push((id, state)),
            Ok(None) => {}
            // The service has trouble with this one; the others are not to suffer.
            Err(error) if ids.len() > 1 && error::is_answer(&error) => {
                tracing::warn!(job = %id, error = error::text(&error), "cannot see how a Job is");
            }
            Err(error) => return Err(error::failure("get the Job", &error)),
        }
    }
    Ok(states)
}

/// The state of one Job, which the list may have had. None if it is not known now.
async fn one(
    region: &Region,
    options: &Options,
    clients: &Clients,
    id: &str,
    listed: Option<Job>,
) -> Result<Option<Observed>, Error> {
    let found = match listed {
        Some(found) => Some(found),
        // What is not in the list is asked for by itself, because only that answer is authoritative.
        None => get(region, clients, id).await?,
    };
    let Some(found) = found else {
        return Ok(region.names.is_absent(id).then_some(Observed::Gone));
    };
    let state = match state::of_job(&found) {
        Standing::Known(state) => Some(state),
        Standing::AskExecution => of_execution(region, options, clients, id, &found).await?,
    };
    if matches!(state, Some(Observed::Ended(_))) {
        region.names.ended(id);
    }
    Ok(state)
}

/// A Job; none if the service does not know it now.
pub(crate) async fn get(region: &Region, clients: &Clients, id: &str) -> Result<Option<Job>, Error> {
    match clients.jobs.get_job().set_name(region.connection.job(id)).send().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error::not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The Jobs of the list among these. Reads on for as long as a page costs less than asking for what is left.
async fn list(region: &Region, clients: &Clients, ids: &[ExecutionId]) -> Result<HashMap<String, Job>, Failure> {
    let mut missing: HashSet<&str> = ids.iter().map(|id| id.0.as_str()).collect();
    let mut found = HashMap::new();
    let mut token = String::new();
    for _ in 0..ids.len().div_ceil(FEW) {
        let request = clients.jobs.list_jobs().set_parent(region.connection.parent());
        let page = request.set_page_size(PAGE).set_page_token(token).send().await;
        let page = page.map_err(|error| error::failure("list the Jobs", &error))?;
        for job in page.jobs {
            let id = id_of(&job.name);
            if missing.remove(id) {
                found.insert(id.to_owned(), job);
            }
        }
        token = page.next_page_token;
        if token.is_empty() || missing.len() <= FEW {
            break;
        }
    }
    Ok(found)
}

/// The state of the Job's latest execution, with its task.
async fn of_execution(
    region: &Region,
    options: &Options,
    clients: &Clients,
    id: &str,
    job: &Job,
) -> Result<Option<Observed>, Error> {
    let named = job.latest_created_execution.as_ref().map(|reference| id_of(&reference.name).to_owned());
    let name = format!("{}/executions/{}", region.connection.job(id), named.unwrap_or_else(|| job::execution(id)));
    let execution = match clients.executions.get_execution().set_name(&name).send().await {
        Ok(execution) => execution,
        Err(error) if error::not_found(&error) => return Ok(deleted(region, id)),
        Err(error) => return Err(error),
    };
    let verdict = match state::of_execution(&execution, None) {
        // Over: its task is asked for. There is none where it never came to run.
        Verdict::TaskMissing(_) | Verdict::Known(Observed::Ended(_)) => {
            state::of_execution(&execution, task(clients, &execution).await?.as_ref())
        }
        known => known,
    };
    Ok(match verdict {
        Verdict::Known(Observed::Ended(end)) if end::is_unexplained_kill(&end, &execution) => {
            // What the system says comes as late as any line.
            if region.names.ended(id) < Duration::from_secs(options.log_delay_seconds.into()) {
                return Ok(None);
            }
            let said = logs::system(region, options, clients, id).await?;
            Some(Observed::Ended(end::explained(end, &said)))
        }
        Verdict::Known(state) => Some(state),
        Verdict::TaskMissing(failure) => {
            (region.names.ended(id) >= TASK_SETTLES).then(|| Observed::Ended(end::bare(failure)))
        }
        Verdict::Unclear(reason) => {
            tracing::warn!(job = id, reason, "Cloud Run cannot tell how an execution is");
            None
        }
    })
}

/// The execution that the Job names is not there: somebody deleted it, once it has had time to be seen.
fn deleted(region: &Region, id: &str) -> Option<Observed> {
    let message = "the execution was deleted, and nobody knows how it ended";
    let lost = || -> End { end::bare(Failure::new(gantry_core::FailureClass::Lost, message)) };
    (region.names.ended(id) >= TASK_SETTLES).then(|| Observed::Ended(lost()))
}

/// The one task of an execution, if there is one.
async fn task(clients: &Clients, execution: &Execution) -> Result<Option<Task>, Error> {
    let mut tasks = clients.tasks.list_tasks().set_parent(&execution.name).by_item();
    tasks.next().await.transpose()
}

/// The last part of a resource's name.
pub(crate) fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
