//! Whose a task is: its group names the fleet, and `startedBy` the attempt, by its external name. Both stay for as long
//! as ECS knows the task, while its tags go when it is stopped.

use aws_sdk_ecs::types::Task;
use gantry_core::{FleetId, JobId};

/// The group of a fleet's tasks.
pub(crate) fn group(fleet: FleetId) -> String {
    format!("gantry:{fleet}")
}

/// The external name, job and attempt of a fleet's task; none if it is not the fleet's.
pub(crate) fn of(task: &Task, fleet: FleetId) -> Option<(String, JobId, i32)> {
    if task.group.as_deref() != Some(&group(fleet)) {
        return None;
    }
    let name = task.started_by.clone()?;
    let (job, attempt) = attempt(&name)?;
    Some((name, job, attempt))
}

/// The job and attempt in an external name: `g<fleet>-<job>-<attempt>`.
fn attempt(name: &str) -> Option<(JobId, i32)> {
    let mut parts = name.split('-').skip(1);
    let (job, attempt) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((job, attempt))
}

#[cfg(test)]
mod tests {
    use gantry_core::naming::external_name;

    use super::*;

    #[test]
    fn a_fleets_task_is_known_by_group_and_name() {
        let (fleet, job) = (FleetId::new(), JobId::new());
        let name = external_name(fleet, job, 12);
        let task = Task::builder().group(group(fleet)).started_by(&name).build();
        assert_eq!(of(&task, fleet), Some((name.clone(), job, 12)));
        assert_eq!(of(&task, FleetId::new()), None);
        let by_hand = Task::builder().group(group(fleet)).started_by("somebody").build();
        assert_eq!(of(&by_hand, fleet), None);
        assert_eq!(of(&Task::builder().started_by(name).build(), fleet), None);
    }
}
