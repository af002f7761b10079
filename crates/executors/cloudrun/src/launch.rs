//! Create a Job that starts its one execution; or adopt the Job that has the name.

use std::time::Duration;

use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, Launch, LaunchError};
use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::Code;
use google_cloud_run_v2::model::Job;

use crate::config::Options;
use crate::region::{Clients, Region};
use crate::{error, job, labels, state};

/// How often a Job is looked for whose name is taken, and how long between.
const LOOKS: u32 = 6;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Creates the attempt's Job, or adopts the one that has its name.
///
/// One name is one Job, and a Job is created together with the token that names its execution: so launching again
/// starts nothing, for as long as the Job exists.
pub(crate) async fn launch(region: &Region, options: &Options, launch: &Launch) -> Result<ExecutionId, LaunchError> {
    let body = job::body(options, launch).map_err(LaunchError::NotLaunched)?;
    let clients = region.clients().await.map_err(LaunchError::NotLaunched)?;
    region.names.launched(&launch.name);
    let create = clients.jobs.create_job().set_parent(region.connection.parent()).set_job_id(&launch.name);
    match create.set_job(body.clone()).send().await {
        // The operation is not waited for: the Job says itself what becomes of it.
        Ok(_) => Ok(ExecutionId(launch.name.clone())),
        Err(taken) if error::is(&taken, Code::AlreadyExists) => adopt(region, clients, launch, body).await,
        Err(error) => Err(error::launch("create the Job", &error)),
    }
}

/// The name is taken: by this very attempt, unless somebody else uses our names.
async fn adopt(region: &Region, clients: &Clients, launch: &Launch, body: Job) -> Result<ExecutionId, LaunchError> {
    let mut reason = "it is not to be seen";
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        let found = match clients.jobs.get_job().set_name(region.connection.job(&launch.name)).send().await {
            Ok(found) => found,
            Err(late) if error::not_found(&late) => continue,
            Err(error) => return Err(maybe("get the Job that has the name", &error)),
        };
        if !labels::belong_to(&found.labels, launch) {
            let message = format!("a Job that is not this attempt's has the name {}", launch.name);
            return Err(LaunchError::NotLaunched(Failure::new(FailureClass::LaunchRejected, message)));
        }
        if found.delete_time.is_some() {
            return Err(LaunchError::MaybeLaunched("the Job that has the name is being deleted".into()));
        }
        if !state::was_never_started(&found) {
            return Ok(ExecutionId(launch.name.clone()));
        }
        match start(region, clients, launch, &found, body.clone()).await {
            Ok(()) => return Ok(ExecutionId(launch.name.clone())),
            // Somebody else changed the Job, and perhaps started it: look again.
            Err(conflict) if error::changed_meanwhile(&conflict) => reason = "it keeps changing",
            Err(error) => return Err(error::launch("start the Job that has the name", &error)),
        }
    }
    Err(LaunchError::MaybeLaunched(format!("the name is taken by a Job, and {reason}")))
}

/// Starts a Job that has never started anything, by giving it the token that it was created without. Not by running it:
/// each such request makes an execution of its own. The token names the execution, and the etag is that of the Job
/// as it was seen, so of two that do this at once one starts it.
async fn start(region: &Region, clients: &Clients, launch: &Launch, found: &Job, body: Job) -> Result<(), Error> {
    let body = body.set_name(region.connection.job(&launch.name)).set_etag(&found.etag);
    clients.jobs.update_job().set_job(body).send().await.map(|_| ())
}

fn maybe(what: &str, error: &Error) -> LaunchError {
    LaunchError::MaybeLaunched(format!("{what}: {}", error::text(error)))
}
