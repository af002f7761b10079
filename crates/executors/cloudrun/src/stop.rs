//! Ending an execution, and deleting what is over.

use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::Observed;
use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_run_v2::model::Job;

use crate::region::{Clients, Region};
use crate::state::{self, Standing};
use crate::{error, job, observe};

/// Cancels the execution: SIGTERM, 10 seconds, SIGKILL, whatever grace was asked for.
pub(crate) async fn stop(region: &Region, id: &str) -> Result<(), Failure> {
    let clients = region.clients().await?;
    let name = format!("{}/executions/{}", region.connection.job(id), job::execution(id));
    let refused = match clients.executions.cancel_execution().set_name(&name).send().await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if !is_settled(&refused) {
        return Err(error::failure("cancel the execution", &refused));
    }
    // No such execution, or one that is over, or none yet: the Job tells.
    let Some(found) = get(region, clients, id).await? else {
        return Ok(());
    };
    match state::of_job(&found) {
        Standing::Known(Observed::Running) => Err(error::failure("cancel the execution", &refused)),
        Standing::Known(Observed::Starting) if found.latest_created_execution.is_some() => {
            Err(error::failure("cancel the execution", &refused))
        }
        // There is nothing to cancel yet, and there will be: the Job goes, and with it what it was about to start.
        Standing::Known(Observed::Starting) => delete(region, clients, &found).await,
        Standing::Known(Observed::Ended(_) | Observed::Gone) => Ok(()),
        Standing::AskExecution if state::has_ended(&found) => Ok(()),
        Standing::AskExecution => Err(error::failure("cancel the execution", &refused)),
    }
}

/// Whether the service says that there is nothing to cancel.
fn is_settled(error: &Error) -> bool {
    [Code::NotFound, Code::FailedPrecondition, Code::InvalidArgument, Code::Aborted]
        .iter()
        .any(|code| error::is(error, *code))
}

/// Deletes a Job that is over or never started. A running one is refused, because the service would end it.
pub(crate) async fn remove(region: &Region, id: &str) -> Result<(), Failure> {
    let clients = region.clients().await?;
    let Some(found) = get(region, clients, id).await? else { return Ok(()) };
    match state::of_job(&found) {
        Standing::Known(Observed::Running) => {
            Err(Failure::new(FailureClass::BackendError, format!("{id} is running and cannot be removed")))
        }
        Standing::Known(Observed::Gone) => Ok(()),
        Standing::AskExecution if !is_over(region, clients, id, &found).await? => {
            Err(Failure::new(FailureClass::BackendError, format!("{id} may be running and cannot be removed")))
        }
        _ => delete(region, clients, &found).await,
    }
}

async fn get(region: &Region, clients: &Clients, id: &str) -> Result<Option<Job>, Failure> {
    observe::get(region, clients, id).await.map_err(|error| error::failure("get the Job", &error))
}

/// Whether the execution that a Job names has ended, or is none any more.
async fn is_over(region: &Region, clients: &Clients, id: &str, found: &Job) -> Result<bool, Failure> {
    let Some(reference) = &found.latest_created_execution else { return Ok(true) };
    if reference.completion_time.is_some() || reference.delete_time.is_some() {
        return Ok(true);
    }
    let name = format!("{}/executions/{}", region.connection.job(id), observe::id_of(&reference.name));
    match clients.executions.get_execution().set_name(name).send().await {
        Ok(execution) => Ok(state::completed(&execution.conditions).is_some_and(state::is_over)),
        Err(error) if error::not_found(&error) => Ok(true),
        Err(error) => Err(error::failure("get the execution", &error)),
    }
}

/// Deletes a Job as it was seen: if it has begun to run since, the etag is another one, and it stays.
async fn delete(region: &Region, clients: &Clients, found: &Job) -> Result<(), Failure> {
    match clients.jobs.delete_job().set_name(&found.name).set_etag(&found.etag).send().await {
        Ok(_) => {}
        Err(error) if error::not_found(&error) => {}
        Err(error) => return Err(error::failure("delete the Job", &error)),
    }
    region.names.removed(observe::id_of(&found.name));
    Ok(())
}
