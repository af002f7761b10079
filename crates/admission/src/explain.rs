//! Admission up to the insert, for whoever asks what would become of a submission.

use gantry_core::Problem;
use gantry_core::problem::Code;
use gantry_store::admission::NewJob;
use gantry_store::route::{self, Outlook};
use gantry_store::{Error, Scope, Store};

use crate::admit::prepare_all;
use crate::incoming::Incoming;

/// A job as it would be stored, and what it would meet.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The job. It is nowhere.
    pub job: NewJob,
    /// What it would meet.
    pub outlook: Outlook,
}

/// What [`crate::admit`] would make of a submission now, by the same steps; nothing is stored.
pub async fn explain(store: &Store, scope: Scope, incoming: &Incoming) -> Result<Result<Explained, Problem>, Error> {
    // One verdict for each item.
    let prepared = prepare_all(store, scope, std::slice::from_ref(incoming)).await?.pop();
    let job = match prepared.unwrap_or_else(|| Err(Problem::new(Code::Internal, "admission gave no verdict"))) {
        Ok(job) => job,
        Err(problem) => return Ok(Err(problem)),
    };
    let outlook = route::outlook(store, scope, &job).await?;
    Ok(Ok(Explained { job, outlook }))
}
