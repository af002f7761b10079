//! Who goes next, and how many at once: shares, limits and caps, counted by what ran.

use std::collections::BTreeMap;

use gantry_core::limits::{Kind, Subject};
use gantry_core::{JobId, TenantId};
use gantry_dispatcher::Settings;
use gantry_store::audit::Actor;
use gantry_store::{Scope, limits, tenants};
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Producer, jobs, quick};
use serde_json::{Value, json};

async fn weigh(fleet: &Fleet, name: &str, weight: f64) {
    let settings = tenants::Settings { weight: Some(weight), ..tenants::Settings::default() };
    tenants::set(&fleet.store, name, &settings).await.expect("stored").expect("a tenant");
}

async fn cap(fleet: &Fleet, name: &str, most: Option<i32>) {
    let settings = tenants::Settings { max_pending: Some(most), ..tenants::Settings::default() };
    tenants::set(&fleet.store, name, &settings).await.expect("stored").expect("a tenant");
}

async fn limit(fleet: &Fleet, tenant: TenantId, kind: Kind, name: &str, most: Option<i32>) {
    let subject = Subject { tenant, kind, name: name.to_owned() };
    let actor = Actor { tenant, name: "test".to_owned() };
    limits::set(&fleet.store, Scope::Fleet, &actor, &subject, most).await.expect("stored");
}

/// Submits as another tenant, whose key is its name.
async fn submit_as(producer: &Producer, key: &str, body: &Value, jobs: usize) -> Vec<JobId> {
    let messages = (0..jobs).map(|_| {
        let mut message = producer.message(body);
        message.api_key = Some(key.to_owned());
        message
    });
    let answers = producer.ask_all(messages.collect()).await;
    let id = |answer: Value| answer["job_id"].as_str().and_then(|id| id.parse().ok());
    answers.into_iter().map(|answer| id(answer.clone()).unwrap_or_else(|| panic!("{answer}"))).collect()
}

/// Most that ran at once, of those jobs.
fn most_at_once(fleet: &Fleet, of: &[JobId]) -> usize {
    let ledger = fleet.ledger();
    let mut edges: Vec<(u64, i32)> = ledger
        .spans()
        .filter(|(run, _)| of.contains(&run.job))
        .flat_map(|(_, (start, end))| [(start, 1), (end, -1)])
        .collect();
    // An end at the very moment of a start comes first.
    edges.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, edge) in edges {
        now += edge;
        most = most.max(now);
    }
    usize::try_from(most).expect("it never ends more than it starts")
}

/// Those of the jobs that ran, in the order of their starts.
fn in_order_of_starts(fleet: &Fleet, of: &[JobId]) -> Vec<JobId> {
    let ledger = fleet.ledger();
    let ran = ledger.runs().filter(|run| of.contains(&run.job));
    let mut starts: Vec<(u64, JobId)> = ran.map(|run| (run.started_ns, run.job)).collect();
    starts.sort_unstable();
    starts.into_iter().map(|(_, job)| job).collect()
}

#[tokio::test]
async fn tenants_share_the_starts_by_their_weights() {
    const JOBS: usize = 120;
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(4).await;
    let _recorder = fleet.recorder();
    for (name, weight) in [("one", 1.0), ("two", 1.0), ("double", 2.0)] {
        fleet.other_tenant(name).await;
        weigh(&fleet, name, weight).await;
    }
    let producer = fleet.producer().await;
    let mut owner = BTreeMap::new();
    {
        // Taken in, one tenant's after the other's, before anything can start.
        let _dispatcher = fleet.dispatcher();
        for name in ["one", "two", "double"] {
            let ids = submit_as(&producer, name, &jobs::mock(&[("duration", "10ms")]), JOBS).await;
            owner.extend(ids.into_iter().map(|id| (id, name)));
        }
    }
    let _parts = [fleet.dispatcher(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    // As long as all three wait: the double share is used up after twice its jobs.
    let starts = JOBS * 3 / 2;
    eventually(PATIENCE, async || fleet.ledger().runs().count() >= starts).await;
    let ledger = fleet.ledger();
    let mut spans: Vec<_> = ledger.spans().map(|(run, (start, _))| (start, run.job)).collect();
    spans.sort_unstable();
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, job) in &spans[..starts] {
        *shares.entry(owner[job]).or_default() += 1;
    }
    let (one, two, double) = (shares["one"], shares["two"], shares["double"]);
    assert!(one.abs_diff(two) <= 5 && double.abs_diff(one + two) <= 10, "{shares:?}");
}

#[tokio::test]
async fn a_concurrency_key_runs_one_job_at_a_time_until_more_are_allowed() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(20).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick()), fleet.mock_worker(quick())];
    fleet.served(host, 2).await;
    let producer = fleet.producer().await;
    let body = |key: &str| jobs::with(jobs::mock(&[("duration", "20ms")]), json!({ "concurrency_key": key }));
    let alone = producer.submit_all(&vec![body("alone"); 30]).await;
    let pairs = producer.submit_all(&vec![body("pairs"); 30]).await;
    limit(&fleet, fleet.tenant, Kind::Key, "pairs", Some(2)).await;
    fleet.all_complete(&alone).await;
    fleet.all_complete(&pairs).await;
    assert_eq!((most_at_once(&fleet, &alone), most_at_once(&fleet, &pairs)), (1, 2));
    let counted: i64 = fleet.scalar("select coalesce(sum(running), 0) from limits").await;
    assert_eq!(counted, 0, "nothing runs any more");
}

/// Others find slots free and enter the window as they come; what a limit counts stands in line, and goes in its order.
#[tokio::test]
async fn what_a_limit_counts_waits_its_turn_beside_a_steady_stream() {
    const ROUNDS: usize = 6;
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(6).await;
    let globex = fleet.other_tenant("globex").await;
    limit(&fleet, globex, Kind::Tenant, "", Some(1)).await;
    // Upkeep puts all back in line that wait for a limit with room, also between an end and the next start; some of them
    // would be seen before others then. The ends alone put them back one by one.
    let settings = Settings { upkeep_millis: 3_600_000, ..Settings::default() };
    let _parts = [fleet.dispatcher_with(settings), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let (producer, (_api, client)) = (fleet.producer().await, fleet.api().await);
    let (long, short) = (jobs::mock(&[("duration", "1h")]), jobs::mock(&[("duration", "300ms")]));
    let of_key = |body: &Value| jobs::with(body.clone(), json!({ "concurrency_key": "alone" }));
    // The first of each runs until it is stopped.
    let mut keyed = vec![producer.submit(&of_key(&long)).await];
    let mut limited = submit_as(&producer, "globex", &long, 1).await;
    fleet.count_reaches("running", 2).await;
    let mut others = Vec::new();
    for _ in 0..ROUNDS {
        keyed.push(producer.submit(&of_key(&short)).await);
        limited.extend(submit_as(&producer, "globex", &short, 1).await);
        others.push(producer.submit(&short).await);
    }
    fleet.all_complete(&others).await;
    assert_eq!((fleet.count("running").await, fleet.count("pending").await), (2, 2 * ROUNDS));
    let parked = "select count(*) from container_jobs where waiting_reason = 'key_limit'";
    eventually(PATIENCE, async || fleet.scalar::<i64>(parked).await == ROUNDS as i64).await;
    let sent = "select count(*) from container_jobs where status = 'pending' and dispatch_sequence > 0";
    assert_eq!(fleet.scalar::<i64>(sent).await, 0, "no worker was sent for what could not run");

    client.cancel(keyed[0]).await;
    client.with_key(Some("globex")).cancel(limited[0]).await;
    fleet.all_complete(&[&keyed[1..], &limited[1..]].concat()).await;
    assert_eq!(in_order_of_starts(&fleet, &keyed), keyed);
    assert_eq!((most_at_once(&fleet, &keyed), most_at_once(&fleet, &limited)), (1, 1));
}

/// A nudge says who they are. Nobody can look while this table is locked.
#[tokio::test]
async fn who_comes_over_http_while_slots_are_free_is_not_looked_for() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(4).await;
    // No look but those that are asked for.
    let settings = Settings { poll_millis: 3_600_000, ..Settings::default() };
    let _parts = [fleet.dispatcher_with(settings), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let (producer, (_api, client)) = (fleet.producer().await, fleet.api().await);
    // The first is looked for, and slots are left.
    let first = producer.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[first]).await;
    let locked = fleet.hold("lock table worker_hosts in access exclusive mode").await;
    let second = client.submit(&jobs::mock(&[])).await;
    eventually(PATIENCE, async || fleet.job(second).await["dispatch_sequence"] == 1).await;
    drop(locked);
    fleet.all_complete(&[second]).await;
}

#[tokio::test]
async fn who_comes_over_http_while_no_slot_is_free_goes_by_priority() {
    let (fleet, _parts) = Fleet::simulated(1).await;
    let (_api, client) = fleet.api().await;
    let first = client.submit(&jobs::mock(&[("duration", "1h")])).await;
    fleet.reaches(first, "running").await;
    let mut others = Vec::new();
    for priority in [9, 5, 0, 7] {
        let job = client.submit(&jobs::with(jobs::mock(&[]), json!({ "priority": priority }))).await;
        others.push((-priority, job));
    }
    others.sort_unstable();
    let others: Vec<JobId> = others.into_iter().map(|(_, job)| job).collect();
    client.cancel(first).await;
    fleet.all_complete(&others).await;
    assert_eq!(in_order_of_starts(&fleet, &others), others);
}

#[tokio::test]
async fn a_new_limit_counts_what_runs_already() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(10).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let long = producer.submit_all(&vec![jobs::mock(&[("duration", "2s")]); 3]).await;
    fleet.count_reaches("running", 3).await;
    limit(&fleet, fleet.tenant, Kind::Tenant, "", Some(2)).await;
    let later = producer.submit(&jobs::mock(&[])).await;
    eventually(PATIENCE, async || fleet.job(later).await["status"] == "pending").await;
    // Two of the three have to end first: below the limit there is room for one.
    fleet.all_complete(&[later]).await;
    let running: i64 = fleet.scalar("select running::int8 from limits where kind = 'tenant'").await;
    assert!(running <= 2, "{running}");
    fleet.all_complete(&long).await;
    let spans: BTreeMap<JobId, (u64, u64)> = fleet.ledger().spans().map(|(run, span)| (run.job, span)).collect();
    let ended_before = long.iter().filter(|job| spans[job].1 <= spans[&later].0).count();
    assert!(ended_before >= 2, "{ended_before} of three had ended: {spans:?}");
}

#[tokio::test]
async fn what_runs_of_a_tenant_stays_below_its_limit_while_that_changes() {
    const JOBS: usize = 150;
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(12).await;
    limit(&fleet, fleet.tenant, Kind::Tenant, "", Some(5)).await;
    let _parts = [fleet.dispatcher(), fleet.dispatcher(), fleet.recorder()];
    let _workers: Vec<_> = (0..4).map(|_| fleet.mock_worker(quick())).collect();
    fleet.served(host, 4).await;
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "15ms")]); JOBS]).await;
    eventually(PATIENCE, async || fleet.count("completed").await > JOBS / 3).await;
    assert!(most_at_once(&fleet, &ids) <= 5, "{}", most_at_once(&fleet, &ids));
    limit(&fleet, fleet.tenant, Kind::Tenant, "", None).await;
    fleet.all_complete(&ids).await;
    assert!(most_at_once(&fleet, &ids) <= 12);
}

#[tokio::test]
async fn beyond_the_cap_submissions_are_refused_and_the_key_stays_free() {
    let fleet = Fleet::new().await;
    let _dispatcher = fleet.dispatcher();
    let (_api, client) = fleet.api().await;
    cap(&fleet, "acme", Some(3)).await;
    let producer = fleet.producer().await;
    let answers = producer.ask_all((0..5).map(|_| producer.message(&jobs::mock(&[]))).collect()).await;
    let accepted = answers.iter().filter(|answer| answer["result"] == "accepted").count();
    assert_eq!(accepted, 3, "{answers:?}");
    assert!(answers.iter().any(|answer| answer["code"] == "backlog_full"), "{answers:?}");

    let again = json!({ "idempotency_key": "the-fourth" });
    let body = jobs::with(jobs::mock(&[]), again).to_string();
    let refused = client.post("/v1/jobs", body.clone()).await;
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("backlog_full")), "{refused:?}");
    cap(&fleet, "acme", Some(4)).await;
    let accepted = client.post("/v1/jobs", body.clone()).await;
    assert!(accepted.status < 300, "{accepted:?}");
    // What is there already is no further job.
    let repeated = client.post("/v1/jobs", body).await;
    assert!(repeated.status < 300, "{repeated:?}");
    assert_eq!(fleet.count("pending").await, 4);
}
