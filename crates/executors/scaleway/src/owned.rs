//! Whose a run is. There are no labels: the only words of ours that the service shows of a run are its environment
//! variables.

use std::sync::Arc;

use chrono::TimeDelta;
use gantry_core::{Failure, FleetId, JobId};
use gantry_worker::executor::{ExecutionId, Found, Launch, Owned};
use uuid::Uuid;

use crate::logs;
use crate::place::Place;
use crate::wire::{Phase, Run};

/// The external name.
pub(crate) const NAME: &str = "GANTRY_EXTERNAL_NAME";
/// The fleet.
pub(crate) const FLEET: &str = "GANTRY_FLEET_ID";
/// The job.
pub(crate) const JOB: &str = "GANTRY_JOB_ID";
/// The attempt.
pub(crate) const ATTEMPT: &str = "GANTRY_ATTEMPT";

/// How far the service's clock may be behind the one that a job's id was made by.
const SKEW: TimeDelta = TimeDelta::minutes(10);

/// What a run is started with, so that it is known again.
pub(crate) fn variables(launch: &Launch) -> [(String, String); 4] {
    [
        (NAME.into(), launch.name.clone()),
        (FLEET.into(), launch.fleet.to_string()),
        (JOB.into(), launch.job.to_string()),
        (ATTEMPT.into(), launch.attempt.to_string()),
    ]
}

/// The external name of a run.
pub(crate) fn name(run: &Run) -> Option<&str> {
    run.variable(NAME)
}

/// What became of a launch under this name.
pub(crate) async fn find(place: &Arc<Place>, name: &str) -> Found {
    match search(place, name).await {
        Ok(Some(id)) if place.removed.get(&id).is_some() => Found::Absent,
        Ok(Some(id)) => {
            place.asked.forget(name);
            place.launched.put(name, id.clone());
            Found::Found(ExecutionId(id))
        }
        // The list is complete, but the service may show late what it has taken.
        Ok(None) if place.is_settled(name, place.connection.visible_within()) => Found::Absent,
        Ok(None) => Found::Unknown("no run has the name, and it is too early to say that none will".to_owned()),
        Err(failure) => Found::Unknown(failure.to_string()),
    }
}

async fn search(place: &Arc<Place>, name: &str) -> Result<Option<String>, Failure> {
    if let Some(id) = place.launched.get(name) {
        return Ok(Some(id));
    }
    let by_name = |runs: &[Run]| runs.iter().find(|run| self::name(run) == Some(name)).map(|run| run.id.clone());
    if let Some(id) = by_name(&place.active().await?) {
        return Ok(Some(id));
    }
    // It may be over, or have been missed while the list of the active ones moved. No run is older than its job.
    Ok(by_name(&place.recent(job_made_at(name)).await?))
}

/// When the job of an external name was made, by the time in its id, in seconds; 0 if the name tells nothing.
fn job_made_at(name: &str) -> i64 {
    let made = || {
        let job = Uuid::parse_str(name.split('-').nth(1)?).ok()?;
        i64::try_from(job.get_timestamp()?.to_unix().0).ok()
    };
    made().map_or(0, |seconds| (seconds - SKEW.num_seconds()).max(0))
}

/// Every run of the fleet that is not over, and those among the newest hundred of the project that are: what is over
/// cannot be removed, and would be listed for sixty days.
pub(crate) async fn list(place: &Arc<Place>, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
    let newest = place.newest().await.map_err(|trouble| trouble.failure("list the newest runs"))?;
    let active = place.active().await?;
    let mut owned: Vec<Owned> = Vec::new();
    for run in newest.iter().chain(active.iter()) {
        let Some(found) = of(run, fleet) else { continue };
        if !found.running {
            // So that nobody has to ask for it to be done with it.
            logs::note(place, run);
        }
        if place.removed.get(&run.id).is_none() && !owned.iter().any(|other| other.id == found.id) {
            owned.push(found);
        }
    }
    Ok(owned)
}

fn of(run: &Run, fleet: FleetId) -> Option<Owned> {
    let own: FleetId = run.variable(FLEET)?.parse().ok()?;
    let job: JobId = run.variable(JOB)?.parse().ok()?;
    (own == fleet).then_some(())?;
    Some(Owned {
        id: ExecutionId(run.id.clone()),
        name: name(run)?.to_owned(),
        job,
        attempt: run.variable(ATTEMPT)?.parse().ok()?,
        // One that waits for its start will run: it is stopped like one that runs.
        running: run.phase() != Phase::Over,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::naming::external_name;

    #[test]
    fn a_name_tells_when_its_job_was_made() {
        let job: JobId = "019ad000-0000-7000-8000-000000000000".parse().expect("an id");
        let name = external_name(FleetId::new(), job, 3);
        let millis = 0x019a_d000_0000_i64;
        assert_eq!(job_made_at(&name), millis / 1000 - 600);
        assert_eq!(job_made_at("something-else"), 0);
        assert_eq!(job_made_at(""), 0);
    }

    #[test]
    fn only_runs_of_the_fleet_are_owned() {
        let (fleet, job) = (FleetId::new(), JobId::new());
        let spec = serde_json::from_value(serde_json::json!({"image": "i"})).expect("a spec");
        let launch = Launch { name: "n".into(), fleet, job, attempt: 2, spec };
        let mut run = Run { id: "r".into(), state: "queued".into(), ..Run::default() };
        assert_eq!(of(&run, fleet), None, "somebody else's");
        run.environment_variables = Some(variables(&launch).into());
        let expected = Owned { id: ExecutionId("r".into()), name: "n".into(), job, attempt: 2, running: true };
        assert_eq!(of(&run, fleet), Some(expected.clone()));
        assert_eq!(of(&run, FleetId::new()), None);
        run.state = "interrupted".into();
        assert_eq!(of(&run, fleet), Some(Owned { running: false, ..expected }));
    }
}
