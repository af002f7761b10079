//! Claims of a worker with many hosts: they lock those that they may place on, or none before they place, and park a job only when
//! all are full.

mod window;

use std::collections::HashSet;
use std::time::Duration;

use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome, Token, WorkItem};
use gantry_core::{ExecutorType, FleetId, HostId, TenantId, WorkerId};
use gantry_store::claims::{self, Outcome, Request};
use gantry_store::hosts::{self, NewHost};
use gantry_store::workers::{self, NewWorker};
use gantry_store::{Config, Scope, Store, reports, tenants};
use gantry_testkit::{TestDb, eventually};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

const MOCK: ExecutorType = ExecutorType::Mock;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// More hosts than a claim of a few jobs locks at once.
const MANY: usize = 60;
/// The slots of a host, of the first, the second and so on.
const SLOTS: [i32; 3] = [3, 2, 1];

struct Fleet {
    db: TestDb,
    store: Store,
    sql: PgConnection,
    tenant: TenantId,
    hosts: Vec<HostId>,
    /// Whether a claim expects no other worker; there may be some.
    alone: bool,
}

impl Fleet {
    async fn new() -> Self {
        Self::of(false).await
    }

    async fn of(alone: bool) -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let mut fleet = Self { db, store, sql, tenant, hosts: Vec::new(), alone };
        for number in 0..MANY {
            let host = NewHost {
                tenant: None,
                name: &format!("mock-{number}"),
                executor_type: MOCK,
                connection_config: json!({}),
                executor_config: json!({}),
                max_concurrent_jobs: SLOTS[number % SLOTS.len()],
                cost_per_job: Default::default(),
                cost_per_hour: Default::default(),
            };
            fleet.hosts.push(hosts::insert(&fleet.store, Scope::Fleet, &host).await.expect("stored"));
        }
        fleet
    }

    async fn worker(&self) -> WorkerId {
        let id = WorkerId::new();
        let new = NewWorker { id, executor_type: MOCK, name: "w", version: "1", reads_version: 1, lease_seconds: 600 };
        workers::register(&self.store, &new).await.expect("registered");
        id
    }

    /// So many new jobs, as their work items.
    async fn dispatched(&mut self, jobs: usize) -> Vec<WorkItem> {
        window::dispatched(&self.store, &mut self.sql, self.tenant, jobs).await
    }

    async fn claim(&self, worker: WorkerId, items: &[WorkItem]) -> Outcome {
        let (fleet, hosts, alone) = (FleetId::new(), &self.hosts, self.alone);
        let request = Request { worker, fleet, executor: MOCK, hosts, items, alone, launch_follows: false };
        claims::claim(&self.store, &request).await.expect("asked")
    }

    async fn end(&self, tokens: &[Token]) {
        let kind = || ReportKind::Ended(Ended::bare(ReportedOutcome::Exited { exit_code: 0 }));
        let reports: Vec<Report> =
            tokens.iter().map(|token| Report { token: *token, traceparent: None, kind: kind() }).collect();
        reports::apply(&self.store, &reports, &|| 0.5).await.expect("applied");
    }

    /// Hosts above their limit, or with another count than slots are held.
    async fn miscounted(&mut self) -> i64 {
        let sql = "select count(*) from executor_hosts h where h.current_job_count > h.max_concurrent_jobs
            or h.current_job_count <> (select count(*) from container_executions e
                where e.slot_held and e.executor_host_id = h.id)";
        sqlx::query_scalar(sql).fetch_one(&mut self.sql).await.expect("a count")
    }

    /// Every host holds this.
    async fn holds(&mut self, count: &str) {
        let sql = format!("update executor_hosts set current_job_count = {count}");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut self.sql).await.expect("written");
    }

    /// Somebody else, in the middle of a transaction that did this with these hosts.
    async fn other(&self, does: &str, hosts: &[HostId]) -> PgConnection {
        let mut other = PgConnection::connect(&self.db.owner_url()).await.expect("connected");
        sqlx::query("begin").execute(&mut other).await.expect("begun");
        let ids: Vec<Uuid> = hosts.iter().map(|host| host.uuid()).collect();
        let sql = format!("{does} where id = any($1)");
        sqlx::query(AssertSqlSafe(sql)).bind(ids).execute(&mut other).await.expect("done");
        other
    }

    /// Somebody else who makes a limit with room for one more as `limits::make` does, and has not committed it.
    async fn makes_limit(&self, number: u128, kind: &str) -> PgConnection {
        let mut other = PgConnection::connect(&self.db.owner_url()).await.expect("connected");
        let sql = "begin; lock table limits in exclusive mode;
            update container_executions set limits = limits || 'LIMIT'::uuid where slot_held;
            insert into limits (id, tenant_id, kind, name, max_running, running)
            select 'LIMIT', t.id, 'KIND', 'NAME', r.running + 1, r.running
            from tenants t, (select count(*)::int as running from container_executions where slot_held) r";
        let name = if kind == "tenant" { "" } else { "of nobody" };
        let sql =
            sql.replace("LIMIT", &Uuid::from_u128(number).to_string()).replace("KIND", kind).replace("NAME", name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut other).await.expect("made");
        other
    }

    /// Commits what another one did as soon as a claim waits for it.
    async fn commits_when_waited_for(&self, mut other: PgConnection) {
        let mut sql = PgConnection::connect(&self.db.owner_url()).await.expect("connected");
        let waiting = "select exists (select 1 from pg_stat_activity where datname = current_database()
            and application_name = 'test' and wait_event_type = 'Lock')";
        eventually(PATIENCE, async || sqlx::query_scalar(waiting).fetch_one(&mut sql).await.expect("sessions")).await;
        sqlx::query("commit").execute(&mut other).await.expect("committed");
    }
}

/// How often one of the large tables was read from end to end, as soon as nobody but this connection is there to add to it.
async fn sequential_scans(sql: &mut PgConnection) -> i64 {
    let others =
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'test'";
    eventually(PATIENCE, async || {
        sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *sql).await.expect("a count") == 0
    })
    .await;
    let scans = "select sum(seq_scan)::int8 from pg_stat_user_tables
        where relname in ('container_jobs', 'container_job_specs', 'container_executions', 'job_events')";
    sqlx::query_scalar(scans).fetch_one(sql).await.expect("a sum")
}

fn tokens(outcome: &Outcome) -> Vec<Token> {
    outcome.claimed.iter().map(|claimed| claimed.token).collect()
}

/// A plan that is made now is kept while the tables grow.
#[tokio::test]
async fn tables_that_are_nearly_empty_are_not_read_from_end_to_end() {
    let mut fleet = Fleet::new().await;
    let worker = fleet.worker().await;
    let items = fleet.dispatched(3).await;
    fleet.store.close().await;
    let before = sequential_scans(&mut fleet.sql).await;
    fleet.store = Store::new(&Config::new(fleet.db.fleet_url()), "test").expect("an address");
    let running = tokens(&fleet.claim(worker, &items).await);
    assert_eq!(running.len(), items.len());
    fleet.end(&running).await;
    fleet.store.close().await;
    assert_eq!(sequential_scans(&mut fleet.sql).await, before);
}

#[tokio::test]
async fn a_claim_that_could_not_begin_leaves_no_transaction_to_who_comes_next() {
    let mut fleet = Fleet::new().await;
    let worker = fleet.worker().await;
    let items = fleet.dispatched(1).await;
    let config = Config { max_connections: 1, transaction_timeout_millis: 1_000, ..Config::new(fleet.db.fleet_url()) };
    fleet.store = Store::new(&config, "test").expect("an address");
    for sql in ["begin", "lock table limits in exclusive mode"] {
        sqlx::query(sql).execute(&mut fleet.sql).await.expect("done");
    }
    let (name, hosts) = (FleetId::new(), &fleet.hosts);
    let request =
        Request { worker, fleet: name, executor: MOCK, hosts, items: &items, alone: false, launch_follows: false };
    claims::claim(&fleet.store, &request).await.expect_err("the table is locked");
    sqlx::query("commit").execute(&mut fleet.sql).await.expect("committed");
    fleet.store.ping().await.expect("no transaction that failed is open");
    assert_eq!(fleet.claim(worker, &items).await.claimed.len(), 1);
}

#[tokio::test]
async fn the_first_key_of_all_is_a_limit_already() {
    let mut fleet = Fleet::new().await;
    let worker = fleet.worker().await;
    let items = fleet.dispatched(3).await;
    let keyed: Vec<_> = items[..2].iter().map(|item| item.job.uuid()).collect();
    let sql = "update container_jobs set concurrency_key = 'key' where id = any($1)";
    sqlx::query(sql).bind(&keyed).execute(&mut fleet.sql).await.expect("changed");
    let outcome = fleet.claim(worker, &items).await;
    assert_eq!((outcome.claimed.len(), outcome.unplaced), (2, 1), "{outcome:?}");
    let running = "select running from limits";
    assert_eq!(sqlx::query_scalar::<_, i32>(running).fetch_all(&mut fleet.sql).await.expect("read"), [1]);
    fleet.end(&tokens(&outcome)).await;
    assert_eq!(sqlx::query_scalar::<_, i32>(running).fetch_all(&mut fleet.sql).await.expect("read"), [0]);
}

#[tokio::test]
async fn a_limit_that_is_made_while_a_claim_or_an_end_waits_counts() {
    let mut fleet = Fleet::new().await;
    let worker = fleet.worker().await;
    let items = fleet.dispatched(3).await;
    let other = fleet.makes_limit(1, "tenant").await;
    let (outcome, ()) = tokio::join!(fleet.claim(worker, &items), fleet.commits_when_waited_for(other));
    assert_eq!((outcome.claimed.len(), outcome.unplaced), (1, 2), "{outcome:?}");
    let other = fleet.makes_limit(2, "template").await;
    let running = tokens(&outcome);
    tokio::join!(fleet.end(&running), fleet.commits_when_waited_for(other));
    let counts = "select running from limits";
    assert_eq!(sqlx::query_scalar::<_, i32>(counts).fetch_all(&mut fleet.sql).await.expect("read"), [0, 0]);
}

#[tokio::test]
async fn workers_share_the_last_slots_and_nobody_is_parked() {
    const LIST: usize = 10;
    for alone in [false, true] {
        let mut fleet = Fleet::of(alone).await;
        let workers = [fleet.worker().await, fleet.worker().await, fleet.worker().await];
        let slots = SLOTS.iter().sum::<i32>() * i32::try_from(MANY / SLOTS.len()).expect("few");
        let taken = usize::try_from(slots).expect("few") - 2 * workers.len() * LIST;
        let items = fleet.dispatched(taken).await;
        assert_eq!(fleet.claim(workers[0], &items).await.claimed.len(), taken);
        let items = fleet.dispatched(workers.len() * LIST).await;
        let mut running = tokens(&fleet.claim(workers[0], &items).await);
        for _ in 0..20 {
            // As many free slots as there are jobs, and as many again become free meanwhile.
            let items = fleet.dispatched(workers.len() * LIST).await;
            let lists: Vec<&[WorkItem]> = items.chunks(LIST).collect();
            let (first, second, third, ()) = tokio::join!(
                fleet.claim(workers[0], lists[0]),
                fleet.claim(workers[1], lists[1]),
                fleet.claim(workers[2], lists[2]),
                fleet.end(&running)
            );
            running.clear();
            for outcome in [first, second, third] {
                assert_eq!((outcome.claimed.len(), outcome.unplaced, outcome.stale), (LIST, 0, 0), "{outcome:?}");
                running.extend(tokens(&outcome));
            }
            assert_eq!(fleet.miscounted().await, 0);
        }
    }
}

#[tokio::test]
async fn of_many_hosts_each_takes_a_handful_and_the_next_claim_takes_others() {
    for alone in [false, true] {
        let mut fleet = Fleet::of(alone).await;
        sqlx::query("update executor_hosts set max_concurrent_jobs = 8")
            .execute(&mut fleet.sql)
            .await
            .expect("written");
        let worker = fleet.worker().await;
        let mut claimed = Vec::new();
        for round in 1..=2 {
            let items = fleet.dispatched(12).await;
            let outcome = fleet.claim(worker, &items).await;
            assert_eq!((outcome.claimed.len(), outcome.unplaced), (12, 0), "alone: {alone}");
            claimed.extend(tokens(&outcome));
            let sql = "select current_job_count from executor_hosts where current_job_count > 0";
            let counts: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut fleet.sql).await.expect("counts");
            assert_eq!(counts, vec![4; 3 * round], "half of their slots each; alone: {alone}");
        }
        // A host that holds as much as it may is no place for the rest of a hand.
        fleet.holds("case when name = 'mock-1' then 6 else 8 end").await;
        let items = fleet.dispatched(2).await;
        let outcome = fleet.claim(worker, &items).await;
        assert_eq!((outcome.claimed.len(), outcome.unplaced), (2, 0), "alone: {alone}");
        assert!(outcome.claimed.iter().all(|claimed| claimed.host == fleet.hosts[1]));
        claimed.extend(tokens(&outcome));
        fleet
            .holds("(select count(*) from container_executions e where e.slot_held and e.executor_host_id = id)")
            .await;
        fleet.end(&claimed).await;
        assert_eq!(fleet.miscounted().await, 0, "alone: {alone}");
    }
}

#[tokio::test]
async fn hosts_that_others_hold_are_not_waited_for() {
    for alone in [false, true] {
        let mut fleet = Fleet::of(alone).await;
        let worker = fleet.worker().await;
        let items = fleet.dispatched(2).await;
        // Those of three slots are the emptiest.
        let best: Vec<HostId> = fleet.hosts.iter().copied().step_by(SLOTS.len()).collect();
        let rest: Vec<HostId> = fleet.hosts.iter().copied().filter(|host| !best.contains(host)).collect();
        let _other = fleet.other("update executor_hosts set current_job_count = 0", &rest).await;
        let outcome = fleet.claim(worker, &items).await;
        assert!(outcome.claimed.len() == 2 && outcome.claimed.iter().all(|claimed| best.contains(&claimed.host)));
    }
}

#[tokio::test]
async fn what_happened_to_the_chosen_hosts_before_their_locks_counts() {
    for alone in [false, true] {
        for change in [
            "update executor_hosts set current_job_count = max_concurrent_jobs",
            "update executor_hosts set state = 'cordoned'",
            "update executor_hosts set max_concurrent_jobs = 0",
            "delete from executor_hosts",
        ] {
            let mut fleet = Fleet::of(alone).await;
            let worker = fleet.worker().await;
            let items = fleet.dispatched(2).await;
            let chosen: Vec<HostId> = fleet.hosts.iter().copied().step_by(SLOTS.len()).collect();
            let other = fleet.other(change, &chosen).await;
            let (outcome, ()) = tokio::join!(fleet.claim(worker, &items), fleet.commits_when_waited_for(other));
            assert_eq!((outcome.claimed.len(), outcome.unplaced), (2, 0), "{change}: {outcome:?}");
            let on: HashSet<HostId> = outcome.claimed.iter().map(|claimed| claimed.host).collect();
            assert!(chosen.iter().all(|host| !on.contains(host)), "{change}");
        }
    }
}

#[tokio::test]
async fn a_job_is_parked_by_who_holds_every_host() {
    for alone in [false, true] {
        let mut fleet = Fleet::of(alone).await;
        let worker = fleet.worker().await;
        fleet.holds("max_concurrent_jobs").await;
        let items = fleet.dispatched(2).await;
        // An end that is under way frees the only slot.
        let last = *fleet.hosts.last().expect("hosts");
        let other = fleet.other("update executor_hosts set current_job_count = current_job_count - 1", &[last]).await;
        let (outcome, ()) = tokio::join!(fleet.claim(worker, &items), fleet.commits_when_waited_for(other));
        assert_eq!(outcome.claimed.iter().map(|claimed| claimed.host).collect::<Vec<_>>(), [last]);
        assert_eq!((outcome.unplaced, outcome.released.get("host_full")), (1, Some(&1)));
    }
}
