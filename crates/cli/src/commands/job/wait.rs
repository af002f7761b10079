//! Waiting for a job's end.

use std::time::Duration;

use gantry_api::wire::JobDetail;
use gantry_core::JobId;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::patience::Patience;

/// How long one request may wait: short enough for every proxy on the way.
const ROUND: Duration = Duration::from_secs(30);

/// The job when it has ended; an error if that takes longer than `limit`.
pub(super) async fn to_end(client: &Client, id: JobId, limit: Option<Duration>) -> Result<JobDetail> {
    let begun = Instant::now();
    // An answer at once says whether there is such a job, and an API at all.
    let mut job = client.job(id, None).await?;
    let mut patience = Patience::new();
    while !job.job.status.is_terminal() {
        let left = limit.map_or(ROUND, |limit| limit.saturating_sub(begun.elapsed()));
        if left.is_zero() {
            let message = format!("the job is {} still; it goes on", job.job.status);
            return Err(Error::NotEnded(message));
        }
        match client.job(id, Some(left.min(ROUND))).await {
            Ok(newer) => {
                patience.renew();
                job = newer;
            }
            Err(error) => patience.after(error).await?,
        }
    }
    Ok(job)
}
