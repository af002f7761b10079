//! What is over leaves when its time has passed, and nothing else does.

use std::collections::BTreeSet;

use gantry_core::{JobId, TenantId};
use gantry_dispatcher::Settings;
use gantry_store::dead_letters::{self, Arrival};
use gantry_store::retention::{self, Defaults};
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, jobs, quick};
use serde_json::json;

const MONTH: Defaults = Defaults { jobs_seconds: 30 * 86_400, logs_seconds: 7 * 86_400 };

/// A dispatcher that looks often.
fn often() -> Settings {
    Settings { retention_millis: 200, ..Settings::default() }
}

/// Lets a job and its attempts have ended so much earlier.
async fn age(fleet: &Fleet, job: JobId, days: i32) {
    for (table, column, key) in
        [("container_jobs", "completed_at", "id"), ("container_executions", "ended_at", "job_id")]
    {
        let sql =
            format!("update {table} set {column} = {column} - make_interval(days => {days}) where {key} = '{job}'");
        fleet.execute_text(sql).await;
    }
}

async fn stays(fleet: &Fleet, expected: &[JobId]) -> bool {
    let left: Option<String> = fleet.scalar("select string_agg(id::text, ' ') from container_jobs").await;
    let left: BTreeSet<String> = left.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    left == expected.iter().map(JobId::to_string).collect()
}

fn letter(tenant: Option<TenantId>, body: &str) -> Arrival {
    Arrival { tenant, body: body.into(), reason: "test".into(), ..Arrival::default() }
}

#[tokio::test]
async fn what_was_kept_long_enough_leaves_and_nothing_else_does() {
    let fleet = Fleet::new().await;
    fleet.forgets();
    let host = fleet.mock_host(10).await;
    let globex = fleet.other_tenant("globex").await;
    let (_api, client) = fleet.api().await;
    let (dispatcher, recorder) = (fleet.dispatcher(), fleet.recorder());
    let _worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;

    let talk = jobs::mock(&[("stdout", "hello"), ("stderr", "world")]);
    let failing = jobs::mock(&[("stdout", "hello"), ("exit_code", "3")]);
    let old = [client.submit(&talk).await, client.submit(&failing).await, client.submit(&talk).await];
    let (fresh, untold) = (client.submit(&talk).await, client.submit(&talk).await);
    let kept_for_ever = client.with_key(Some("globex")).submit(&talk).await;
    for job in old.iter().chain([&fresh, &untold, &kept_for_ever]) {
        fleet.ended(*job).await;
    }
    let running = client.submit(&jobs::mock(&[("duration", "1h")])).await;
    fleet.reaches(running, "running").await;
    let later = jobs::with(jobs::mock(&[]), json!({ "not_before": "2999-01-01T00:00:00Z" }));
    let pending = client.submit(&later).await;
    eventually(PATIENCE, async || fleet.scalar::<i64>("select count(*) from outbox").await == 0).await;
    dispatcher.stop().await;
    recorder.stop().await;

    for job in old.iter().chain([&untold, &kept_for_ever, &running, &pending]) {
        age(&fleet, *job, 40).await;
    }
    fleet
        .execute_text(format!(
            "insert into outbox (id, jobs, sequences)
             select gen_random_uuid(), array[job_id], array[sequence] from job_events
             where job_id = '{untold}' and kind = 'completed'"
        ))
        .await;
    fleet
        .execute_text(format!(
            "update container_jobs set created_at = created_at - interval '40 days' where id = '{pending}'"
        ))
        .await;
    retention::put_policy(&fleet.store, globex, Some(Some(0)), Some(Some(0))).await.expect("stored");
    let letters = [letter(Some(fleet.tenant), "old"), letter(None, "old"), letter(Some(globex), "old")];
    dead_letters::put(&fleet.store, &letters).await.expect("stored");
    fleet.execute("update dead_letters set last_received_at = now() - interval '40 days'").await;
    dead_letters::put(&fleet.store, &[letter(Some(fleet.tenant), "new")]).await.expect("stored");
    fleet
        .execute(
            "insert into schedule_runs (schedule_id, due_at, tenant_id, outcome, created_at)
             select gen_random_uuid(), now(), id, o.outcome::schedule_outcome, now() - d.age
             from tenants, (values ('skipped_missed'), ('queued_overlap')) o(outcome),
                (values (interval '40 days'), (interval '1 day')) d(age)",
        )
        .await;
    let keys: i64 = fleet.scalar("select count(*) from idempotency_keys").await;

    // Two of them: one does it at a time.
    let _dispatchers = [fleet.dispatcher_with(often()), fleet.dispatcher_with(often())];
    eventually(PATIENCE, async || stays(&fleet, &[fresh, untold, kept_for_ever, running, pending]).await).await;
    let count = async |sql| fleet.scalar::<i64>(sql).await;
    for table in [
        "select count(*) from container_executions where job_id not in (select id from container_jobs)",
        "select count(*) from container_job_specs where job_id not in (select id from container_jobs)",
        "select count(*) from job_events where job_id not in (select id from container_jobs)",
        "select count(*) from container_log_chunks where job_id not in (select id from container_jobs)",
    ] {
        assert_eq!(count(table).await, 0, "{table}");
    }
    assert_eq!(client.get(&format!("/v1/jobs/{}", old[0])).await.status, 404);
    for (job, tenant_s) in [(fresh, &client), (kept_for_ever, &client.with_key(Some("globex")))] {
        let log = tenant_s.get(&format!("/v1/jobs/{job}/logs")).await;
        assert_eq!((log.status, log.body["chunks"].as_array().map(Vec::len)), (200, Some(2)), "{log:?}");
    }
    eventually(PATIENCE, async || count("select count(*) from dead_letters").await == 2).await;
    let left: String =
        fleet.scalar("select string_agg(convert_from(body, 'UTF8'), ' ' order by body) from dead_letters").await;
    assert_eq!(left, "new old", "the young one, and the one of the tenant that keeps everything");
    // Of each tenant the young ones and those that wait for a job; of the one that keeps everything all.
    eventually(PATIENCE, async || count("select count(*) from schedule_runs").await == 3 + 4).await;
    assert_eq!(count("select count(*) from idempotency_keys").await, keys, "keys have a time of their own");
    assert_eq!(fleet.job(running).await["status"], "running");

    // What was not told yet leaves when it is.
    let _recorder = fleet.recorder();
    eventually(PATIENCE, async || stays(&fleet, &[fresh, kept_for_ever, running, pending]).await).await;
    // Its time comes, too, when the tenant says so.
    retention::put_policy(&fleet.store, globex, Some(None), None).await.expect("stored");
    eventually(PATIENCE, async || stays(&fleet, &[fresh, running, pending]).await).await;
}

#[tokio::test]
async fn a_log_leaves_sooner_than_its_job_and_says_so() {
    let (fleet, parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let talk = client.submit(&jobs::mock(&[("stdout", "hello"), ("stderr", "world")])).await;
    let silent = client.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[talk, silent]).await;
    for part in parts {
        part.stop().await;
    }
    for job in [talk, silent] {
        age(&fleet, job, 8).await;
    }
    let path = format!("/v1/jobs/{talk}/logs");
    let last = client.get(&path).await.body["next"].as_str().expect("a cursor").to_owned();

    let _dispatcher = fleet.dispatcher_with(often());
    eventually(PATIENCE, async || {
        fleet.scalar::<i64>("select count(*) from container_executions where logs_removed_at is null").await == 0
    })
    .await;
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_log_chunks").await, 0);
    assert!(stays(&fleet, &[talk, silent]).await);
    for after in ["", "?after=0.0", "?after=1.1"] {
        let gone = client.get(&format!("{path}{after}")).await;
        assert_eq!((gone.status, gone.body["code"].as_str()), (410, Some("logs_expired")), "{gone:?}");
    }
    let followed = client.get(&format!("{path}?follow=true")).await.body;
    let followed = followed.as_str().expect("events");
    assert!(followed.contains("event: error") && followed.contains("logs_expired"), "{followed}");
    // Whoever has read it all is told that this is the end; and what never was is not missing.
    for path in [format!("{path}?after={last}"), format!("/v1/jobs/{silent}/logs")] {
        let page = client.get(&path).await;
        assert_eq!(
            (page.status, &page.body["complete"], &page.body["chunks"]),
            (200, &json!(true), &json!([])),
            "{page:?}"
        );
    }
    let attempt = &client.job(talk).await["attempts"][0];
    assert!(attempt["logs_expired_at"].is_string() && attempt["clean_output"].is_null(), "{attempt}");
    assert_eq!(attempt["exit_code"], 0);
}

#[tokio::test]
async fn a_long_log_leaves_piece_by_piece() {
    let (fleet, parts) = Fleet::simulated(4).await;
    fleet.forgets();
    let (_api, client) = fleet.api().await;
    let job = client.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[job]).await;
    for part in parts {
        part.stop().await;
    }
    // 40 chunks of 64 KiB.
    fleet
        .execute(
            "insert into container_log_chunks (job_id, attempt, stream, byte_offset, sequence, tenant_id, data)
             select job_id, attempt, 'stdout', n * 65536, n + 1, tenant_id, convert_to(repeat('x', 65536), 'UTF8')
             from container_executions, generate_series(0, 39) n",
        )
        .await;
    fleet.execute("update container_executions set log_sequence = 40").await;
    age(&fleet, job, 8).await;
    let mut left = 40;
    while left > 0 {
        let removed = retention::remove_logs(&fleet.store, MONTH, 100, 1024 * 1024).await.expect("removed");
        assert_eq!(removed.chunks, left.min(16), "a MiB at a time");
        left -= removed.chunks;
        // From the first piece on nothing of it is shown.
        assert_eq!(client.get(&format!("/v1/jobs/{job}/logs")).await.body["code"], "logs_expired");
        let done: bool = fleet.scalar("select logs_removed_at is not null from container_executions").await;
        assert_eq!(done, left == 0);
    }
    assert!(!retention::remove_logs(&fleet.store, MONTH, 100, 1).await.expect("nothing to do").any());
    age(&fleet, job, 32).await;
    assert_eq!(retention::lag(&fleet.store, MONTH).await.expect("read").jobs.as_secs() / 86_400, 10);
    assert_eq!(retention::remove_jobs(&fleet.store, MONTH, 100).await.expect("removed").jobs, 1);
}

/// A pass that is stuck in the middle of a batch holds everything that it ever holds, and nobody notices.
#[tokio::test]
async fn a_batch_holds_nothing_that_a_job_waits_for() {
    let fleet = Fleet::new().await;
    fleet.forgets();
    let host = fleet.mock_host(4).await;
    let (_api, client) = fleet.api().await;
    let parts = [fleet.dispatcher_with(often()), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let old = client.submit_all(&vec![jobs::mock(&[("stdout", "x")]); 20]).await;
    fleet.all_complete(&old).await;
    let session = fleet.hold("select from job_events where kind = 'completed' for update").await;
    for job in &old {
        age(&fleet, *job, 40).await;
    }
    let stuck = async || {
        fleet
            .scalar::<i64>(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                 and query like '/* retention::remove_jobs */%'",
            )
            .await
            == 1
    };
    eventually(PATIENCE, stuck).await;
    // While it holds the old jobs' rows on the same host: claims, starts, logs, ends, and a cancel.
    let new = client.submit_all(&vec![jobs::mock(&[("stdout", "y")]); 20]).await;
    let long = client.submit(&jobs::mock(&[("duration", "1h")])).await;
    fleet.all_complete(&new).await;
    fleet.reaches(long, "running").await;
    assert_eq!(client.cancel(long).await.status, 202);
    assert_eq!(fleet.ended(long).await["status"], "cancelled");
    let others: i64 = fleet
        .scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
             and query not like '/* retention::%'",
        )
        .await;
    assert_eq!(others, 0, "nobody waits for it");
    let left: i64 = fleet.scalar("select count(*) from container_jobs").await;
    assert_eq!(left, 41, "it was stuck all the while");
    drop(session);
    eventually(PATIENCE, async || fleet.scalar::<i64>("select count(*) from container_jobs").await == 21).await;
    assert_eq!(fleet.job(long).await["status"], "cancelled");
    for part in parts {
        part.stop().await;
    }
}
