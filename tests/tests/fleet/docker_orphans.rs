//! Containers that nobody looks after, on a real engine: which are removed, and which never.

use std::process::Command;

use gantry_core::JobId;
use gantry_testkit::{TestDocker, eventually};
use gantry_tests::{Fleet, PATIENCE, jobs};
use uuid::Uuid;

/// The engine's own client.
fn docker(arguments: &[&str]) -> String {
    let done = Command::new("docker").arg("-H").arg(TestDocker::find().host()).args(arguments).output();
    let done = done.expect("docker's client is installed");
    assert!(done.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// A container with the labels of an attempt, made behind everyone's back; `verb` is `create` or `run`.
fn container(verb: &[&str], fleet: &str, job: JobId, attempt: u32) -> String {
    let labels = [format!("gantry.fleet={fleet}"), format!("gantry.job={job}"), format!("gantry.attempt={attempt}")];
    let server = TestDocker::find();
    let mut arguments = verb.to_vec();
    arguments.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    arguments.extend([server.image(), "sleep", "3600"]);
    docker(&arguments)
}

fn exists(id: &str) -> bool {
    listed(&["--all"], id)
}

fn runs(id: &str) -> bool {
    listed(&[], id)
}

/// In a list, and not asked for by itself: it may go at any moment.
fn listed(which: &[&str], id: &str) -> bool {
    let id = format!("id={id}");
    let arguments = [&["ps", "--quiet", "--no-trunc", "--filter", &id], which].concat();
    !docker(&arguments).is_empty()
}

#[tokio::test]
async fn only_what_is_over_is_reaped() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let over = producer.submit(&jobs::docker("true")).await;
    fleet.all_complete(&[over]).await;
    let open = producer.submit(&jobs::docker("sleep 20")).await;
    fleet.reaches(open, "running").await;

    let this: String = fleet.scalar("select id::text from fleet").await;
    let created = container(&["create"], &this, over, 1);
    let running = container(&["run", "--detach"], &this, over, 1);
    let of_another_fleet = container(&["create"], &Uuid::now_v7().to_string(), over, 1);
    let of_an_unknown_job = container(&["create"], &this, JobId::new(), 1);
    let of_an_attempt_to_come = container(&["create"], &this, open, 2);
    fleet
        .execute("update container_executions set ended_at = ended_at - interval '1 hour' where ended_at is not null")
        .await;

    // Each worker looks for orphans ten seconds after its start: the first asks what runs to end, the next removes it.
    let _second = fleet.docker_worker();
    eventually(PATIENCE, async || !exists(&created) && !runs(&running)).await;
    let _third = fleet.docker_worker();
    eventually(PATIENCE, async || !exists(&running)).await;
    for spared in [of_another_fleet, of_an_unknown_job, of_an_attempt_to_come] {
        assert!(exists(&spared), "{spared} is not one of an attempt that is over");
        docker(&["rm", "--force", &spared]);
    }
    fleet.all_complete(&[open]).await;
}
