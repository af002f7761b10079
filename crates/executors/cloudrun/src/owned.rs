//! The Jobs of a region, which a fleet may share with others.

use gantry_core::{Failure, FleetId};
use gantry_worker::executor::{ExecutionId, Observed, Owned};
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_run_v2::model::Job;

use crate::region::Region;
use crate::state::{self, Standing};
use crate::{error, labels, observe};

/// How many Jobs a page has. The service may give fewer.
const PAGE: i32 = 500;

/// Every Job with the fleet's label. The list has no filter by label: all of the region's Jobs are read.
pub(crate) async fn list(region: &Region, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
    let clients = region.clients().await?;
    let request = clients.jobs.list_jobs().set_parent(region.connection.parent()).set_page_size(PAGE);
    let mut jobs = request.by_item();
    let mut owned = Vec::new();
    while let Some(job) = jobs.next().await {
        let job = job.map_err(|error| error::failure("list the Jobs", &error))?;
        if labels::are_of(&job.labels, fleet) {
            owned.extend(of(&job));
        }
    }
    Ok(owned)
}

/// How many Jobs the region has, whoever made them. Counts no further than `enough`.
pub(crate) async fn count(region: &Region, enough: u32) -> Result<u32, Failure> {
    let clients = region.clients().await?;
    let page = i32::try_from(enough).map_or(PAGE, |enough| enough.min(PAGE));
    let mut jobs = clients.jobs.list_jobs().set_parent(region.connection.parent()).set_page_size(page).by_item();
    let mut count = 0;
    while count < enough
        && let Some(job) = jobs.next().await
    {
        job.map_err(|error| error::failure("list the Jobs", &error))?;
        count += 1;
    }
    Ok(count)
}

/// A Job as the engine lists it; none if it is not Gantry's or is being deleted.
fn of(found: &Job) -> Option<Owned> {
    let (job, attempt) = labels::attempt(&found.labels)?;
    let name = observe::id_of(&found.name).to_owned();
    let running = match state::of_job(found) {
        Standing::Known(Observed::Gone) => return None,
        // Cancelled rather than deleted: its container may be there before the Job says so.
        Standing::Known(Observed::Starting) => found.latest_created_execution.is_some(),
        Standing::Known(state) => state == Observed::Running,
        Standing::AskExecution => {
            found.latest_created_execution.as_ref().is_some_and(|execution| execution.completion_time.is_none())
        }
    };
    Some(Owned { id: ExecutionId(name.clone()), name, job, attempt, running })
}
