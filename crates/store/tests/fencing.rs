//! Fencing: what a worker writes that has lost an attempt, or was declared dead, changes nothing; and what a frozen one
//! holds, Postgres takes from it.

mod window;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_core::lost::Abandon;
use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome, Token, WorkItem};
use gantry_core::output::Outputs;
use gantry_core::state::StopReason;
use gantry_core::{ExecutorType, FleetId, HostId, TenantId, WorkerId};
use gantry_store::attempts::{self, Differences, LaunchSent, Output, Owned, Preparing, Started};
use gantry_store::audit::Actor;
use gantry_store::claims::{self, Outcome, Request};
use gantry_store::hosts::{self, NewHost};
use gantry_store::logs::{self, Append, NewChunk, Position, Stream};
use gantry_store::lost::{self, Abandoned};
use gantry_store::reports::{self, Applied};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Config, Error, Result, Scope, Store, tenants};
use gantry_testkit::{Proxy, TestDb, eventually};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const MOCK: ExecutorType = ExecutorType::Mock;
const LEASE_SECONDS: i32 = 600;
/// Longer than that lease: whoever has reached Postgres for so long may judge it.
const REACHED_FOR: Duration = Duration::from_secs(3_600);
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a worker writes about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    LaunchSent,
    Preparing,
    Started,
    StopReason,
    Outputs,
    Log,
}

impl Write {
    const ALL: [Self; 6] =
        [Self::LaunchSent, Self::Preparing, Self::Started, Self::StopReason, Self::Outputs, Self::Log];
}

struct Fleet {
    store: Store,
    sql: PgConnection,
    tenant: TenantId,
    host: HostId,
    db: TestDb,
}

impl Fleet {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let host = NewHost {
            tenant: None,
            name: "mock",
            executor_type: MOCK,
            connection_config: json!({}),
            executor_config: json!({}),
            max_concurrent_jobs: 100,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        let host = hosts::insert(&store, Scope::Fleet, &host).await.expect("stored");
        Self { store, sql, tenant, host, db }
    }

    /// A live worker that serves the host.
    async fn worker(&self) -> WorkerId {
        let id = WorkerId::new();
        let (name, version) = ("w", "1");
        let new = NewWorker { id, executor_type: MOCK, name, version, reads_version: 1, lease_seconds: LEASE_SECONDS };
        workers::register(&self.store, &new).await.expect("registered");
        workers::put_checks(&self.store, id, &[self.check(true)]).await.expect("stored");
        id
    }

    fn check(&self, healthy: bool) -> HostCheck {
        HostCheck { host: self.host, answered: healthy, healthy, detail: String::new() }
    }

    /// So many new jobs, as their work items.
    async fn dispatched(&mut self, jobs: usize) -> Vec<WorkItem> {
        window::dispatched(&self.store, &mut self.sql, self.tenant, jobs).await
    }

    async fn claim(&self, worker: WorkerId, items: &[WorkItem]) -> Result<Outcome> {
        let (fleet, hosts) = (FleetId::new(), &[self.host]);
        claims::claim(
            &self.store,
            &Request { worker, fleet, executor: MOCK, hosts, items, alone: false, launch_follows: false },
        )
        .await
    }

    /// So many new jobs that this worker owns.
    async fn claimed(&mut self, worker: WorkerId, jobs: usize) -> Vec<Token> {
        let items = self.dispatched(jobs).await;
        let claimed = self.claim(worker, &items).await.expect("asked").claimed;
        assert_eq!(claimed.len(), jobs);
        claimed.into_iter().map(|claimed| claimed.token).collect()
    }

    async fn adopt(&self, worker: WorkerId) -> Result<Vec<Token>> {
        attempts::adopt(&self.store, worker, &[self.host], 100).await
    }

    /// Its last beat was long ago.
    async fn overdue(&mut self, worker: WorkerId) {
        let sql = "update workers set last_beat_at = now() - interval '1 day' where id = $1";
        sqlx::query(sql).bind(worker.uuid()).execute(&mut self.sql).await.expect("written");
    }

    async fn declared_dead(&mut self, worker: WorkerId) {
        self.overdue(worker).await;
        assert_eq!(self.mark_overdue_dead().await, [worker]);
    }

    async fn mark_overdue_dead(&self) -> Vec<WorkerId> {
        workers::mark_overdue_dead(&self.store, REACHED_FOR).await.expect("asked")
    }

    /// Writes, and returns which tokens are said to have held, where that is told.
    async fn write(&self, write: Write, worker: WorkerId, token: Token) -> Result<Option<HashSet<Token>>> {
        let store = &self.store;
        let second = Duration::from_secs(1);
        match write {
            Write::LaunchSent => {
                let launch = LaunchSent { token, sent: true };
                attempts::put_launch_sent(store, worker, &[launch]).await.map(Some)
            }
            Write::Preparing => {
                let preparing = Preparing { token, lasts: second, over: false };
                attempts::put_preparing(store, worker, &[preparing]).await.map(|()| None)
            }
            Write::Started => {
                let started =
                    Started { token, execution_id: "container".to_owned(), ago: second, startup: Some(second) };
                attempts::put_started(store, worker, &[started]).await.map(|()| None)
            }
            Write::StopReason => {
                attempts::put_stop_reason(store, worker, &[(token, StopReason::Timeout)]).await.map(Some)
            }
            Write::Outputs => {
                let outputs = Outputs { stdout: "out".to_owned(), ..Default::default() };
                let output = Arc::new(Output { token, outputs, backend_log: String::new() });
                attempts::put_outputs(store, worker, &[output]).await.map(|()| None)
            }
            Write::Log => {
                let chunk = NewChunk {
                    stream: Stream::Stdout,
                    byte_offset: 0,
                    sequence: 1,
                    omitted_bytes: 0,
                    data: "out".into(),
                };
                let position = Position { cursor: Some("3".to_owned()), sequence: 1, stdout_bytes: 3, stderr_bytes: 0 };
                let append = Arc::new(Append { token, tenant: self.tenant, chunks: vec![chunk], position });
                logs::append(store, worker, &[append]).await.map(|()| None)
            }
        }
    }

    /// Every row of every table.
    async fn rows(&mut self) -> Value {
        let tables: Vec<String> = sqlx::query_scalar(
            "select relname::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace",
        )
        .fetch_all(&mut self.sql)
        .await
        .expect("tables");
        let pairs: Vec<String> = tables
            .iter()
            .map(|table| format!("'{table}', (select jsonb_agg(to_jsonb(t) order by to_jsonb(t)) from {table} t)"))
            .collect();
        let sql = format!("select jsonb_build_object({})", pairs.join(", "));
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.sql).await.expect("rows")
    }

    /// The tables that are not as they were.
    async fn changed_since(&mut self, before: &Value) -> Vec<String> {
        let now = self.rows().await;
        let tables = now.as_object().expect("tables");
        assert!(tables.contains_key("container_executions"), "{tables:?}");
        tables.iter().filter(|(table, rows)| before[table.as_str()] != **rows).map(|(table, _)| table.clone()).collect()
    }

    async fn attempt(&mut self, token: Token) -> Value {
        sqlx::query_scalar("select to_jsonb(e) from container_executions e where job_id = $1 and attempt = $2")
            .bind(token.job.uuid())
            .bind(token.attempt)
            .fetch_one(&mut self.sql)
            .await
            .expect("an attempt")
    }

    /// How many sessions of this part there are of which this holds.
    async fn sessions(&mut self, part: &str, condition: &str) -> i64 {
        let sql = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and application_name = '{part}' and {condition}"
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.sql).await.expect("sessions")
    }

    /// Somebody else who holds the row of an attempt, for as long as this lives or until it rolls back.
    async fn held(&self, token: Token) -> PgConnection {
        let mut holder = PgConnection::connect(&self.db.owner_url()).await.expect("connected");
        sqlx::query("begin").execute(&mut holder).await.expect("begun");
        let sql = "select 1 from container_executions where job_id = $1 and attempt = $2 for update";
        sqlx::query(sql)
            .bind(token.job.uuid())
            .bind(token.attempt)
            .execute(&mut holder)
            .await
            .expect("nobody else holds it");
        holder
    }

    /// Another store of the same fleet, whose transactions last no longer than this.
    fn hasty(&self, url: &str, part: &str, transaction_timeout_millis: u32) -> Store {
        Store::new(&Config { transaction_timeout_millis, ..Config::new(url) }, part).expect("an address")
    }
}

async fn let_go(mut holder: PgConnection) {
    sqlx::query("rollback").execute(&mut holder).await.expect("rolled back");
}

async fn launch_sent(store: &Store, worker: WorkerId, token: Token) -> Result<HashSet<Token>> {
    attempts::put_launch_sent(store, worker, &[LaunchSent { token, sent: true }]).await
}

async fn report(store: &Store, token: Token, kind: ReportKind) -> Applied {
    let report = Report { token, traceparent: None, kind };
    reports::apply(store, &[report], &|| 0.5).await.expect("applied")
}

fn ended() -> ReportKind {
    ReportKind::Ended(Ended::bare(ReportedOutcome::Exited { exit_code: 0 }))
}

#[tokio::test]
async fn a_stale_epoch_writes_nothing() {
    let mut fleet = Fleet::new().await;
    let first = fleet.worker().await;
    let stale = fleet.claimed(first, Write::ALL.len()).await;
    fleet.declared_dead(first).await;
    let second = fleet.worker().await;
    let current: Vec<Token> = stale.iter().map(|token| Token { epoch: 2, ..*token }).collect();
    let adopted: HashSet<Token> = fleet.adopt(second).await.expect("adopted").into_iter().collect();
    assert_eq!(adopted, current.iter().copied().collect());

    let mut came_through = Vec::new();
    for (write, token) in Write::ALL.into_iter().zip(&stale) {
        let before = fleet.rows().await;
        assert!(matches!(fleet.write(write, first, *token).await, Err(Error::NotAlive(id)) if id == first));
        // In the name of a live worker too, even of the owner: nothing but the epoch is in its way.
        let held = fleet.write(write, second, *token).await.expect("a live worker");
        let changed = fleet.changed_since(&before).await;
        if !changed.is_empty() || held.is_some_and(|held| !held.is_empty()) {
            came_through.push((write, changed));
        }
    }
    assert_eq!(came_through, [], "with the stale epoch");

    for (write, token) in Write::ALL.into_iter().zip(current) {
        let before = fleet.rows().await;
        let held = fleet.write(write, second, token).await.expect("a live worker");
        assert!(held.is_none_or(|held| held == HashSet::from([token])), "{write:?} with the current epoch");
        assert_ne!(fleet.changed_since(&before).await, [""; 0], "{write:?} with the current epoch");
    }
}

#[tokio::test]
async fn a_live_worker_writes_nothing_about_what_was_given_up() {
    let mut fleet = Fleet::new().await;
    let worker = fleet.worker().await;
    let tokens = fleet.claimed(worker, Write::ALL.len()).await;
    let actor = Actor { tenant: fleet.tenant, name: "key:test".to_owned() };
    for token in &tokens {
        let done = lost::abandon(&fleet.store, Scope::Fleet, token.job, Abandon::Fail, &actor).await.expect("asked");
        assert_eq!(done, Some(Abandoned::Marked(1)));
    }
    let before = fleet.rows().await;
    for (write, token) in Write::ALL.into_iter().zip(tokens) {
        let held = fleet.write(write, worker, token).await.expect("a live worker");
        assert!(held.is_none_or(|held| held.is_empty()), "{write:?}");
        assert_eq!(report(&fleet.store, token, ended()).await.superseded, 1);
        assert_eq!(fleet.changed_since(&before).await, [""; 0], "{write:?}");
    }
}

#[tokio::test]
async fn a_policy_gives_up_what_was_out_of_reach_for_as_long_as_it_waits() {
    let mut fleet = Fleet::new().await;
    let (alive, dead) = (fleet.worker().await, fleet.worker().await);
    let kept = fleet.claimed(alive, 2).await;
    let left = fleet.claimed(dead, 4).await;
    // The last of each waits for ever.
    for (token, action, after_seconds) in
        [(kept[0], "fail", 10), (left[0], "retry", 10), (left[1], "fail", 20), (left[2], "retry", 7_200)]
    {
        let policy = json!({ "on_lost": { "action": action, "after_seconds": after_seconds } });
        let sql = "update container_job_specs set spec = spec::jsonb || $2 where job_id = $1";
        sqlx::query(sql).bind(token.job.uuid()).bind(policy).execute(&mut fleet.sql).await.expect("written");
    }
    let store = fleet.store.clone();
    let mark = async |reached_for, limit| lost::mark_by_policy(&store, reached_for, limit).await.expect("asked");
    assert_eq!(mark(REACHED_FOR, 10).await, 0, "all of it is looked after");

    fleet.declared_dead(dead).await;
    assert_eq!(mark(REACHED_FOR, 10).await, 0, "not long enough");
    let sql = "update workers set ended_at = now() - interval '1 hour' where state = 'dead'";
    sqlx::query(sql).execute(&mut fleet.sql).await.expect("written");
    assert_eq!(mark(Duration::from_secs(10), 10).await, 0, "who has not reached Postgres for longer judges nobody");
    // Somebody else has the first one: the second is not behind the limit.
    let holder = fleet.held(left[0]).await;
    assert_eq!(mark(REACHED_FOR, 1).await, 1);
    assert_eq!(fleet.attempt(left[1]).await["abandoned_as"], "fail");
    let_go(holder).await;
    assert_eq!((mark(REACHED_FOR, 10).await, mark(REACHED_FOR, 10).await), (1, 0));
    assert_eq!(fleet.attempt(left[0]).await["abandoned_as"], "retry");

    workers::put_checks(&store, alive, &[fleet.check(false)]).await.expect("stored");
    assert_eq!(mark(REACHED_FOR, 10).await, 0, "not long enough");
    let sql = "update worker_hosts set unhealthy_since = now() - interval '1 hour' where not healthy";
    sqlx::query(sql).execute(&mut fleet.sql).await.expect("written");
    assert_eq!((mark(REACHED_FOR, 10).await, mark(REACHED_FOR, 10).await), (1, 0));
    let given_up = fleet.attempt(kept[0]).await;
    assert_eq!((&given_up["abandoned_by"], &given_up["epoch"]), (&json!("on_lost"), &json!(2)));
    for token in [kept[1], left[2], left[3]] {
        assert_eq!(fleet.attempt(token).await["abandoned_at"], Value::Null);
    }
}

#[tokio::test]
async fn a_beat_learns_what_differs_and_nothing_else() {
    let mut fleet = Fleet::new().await;
    let (worker, other) = (fleet.worker().await, fleet.worker().await);
    let mut tokens = fleet.claimed(worker, 4).await;
    let theirs = fleet.claimed(other, 1).await[0];
    let differing = async |known: &[Token]| attempts::differing(&fleet.store, worker, known).await.expect("read");
    let owned = |token, cancel_requested, moves| Owned { token, cancel_requested, moves };
    assert_eq!(differing(&tokens).await, Differences::default());
    assert_eq!(differing(&[]).await.owned.len(), 4);

    // What is not known here, what is another's, and what is known under another epoch.
    let unknown = tokens.pop().expect("four");
    let stale = Token { epoch: tokens[0].epoch + 1, ..tokens[0] };
    let differences = differing(&[stale, tokens[1], tokens[2], theirs]).await;
    assert_eq!(differences.gone, HashSet::from([stale, theirs]));
    assert_eq!(differences.owned.len(), 2);
    for token in [unknown, tokens[0]] {
        assert!(differences.owned.contains(&owned(token, false, false)));
    }

    // What is over, what is given up, and what somebody wants to end.
    report(&fleet.store, unknown, ended()).await;
    let actor = Actor { tenant: fleet.tenant, name: "key:test".to_owned() };
    lost::abandon(&fleet.store, Scope::Fleet, tokens[0].job, Abandon::Fail, &actor).await.expect("asked");
    let mut sql = PgConnection::connect(&fleet.db.owner_url()).await.expect("connected");
    let cancel = "update container_jobs set cancel_requested_at = now() where id = $1";
    sqlx::query(cancel).bind(tokens[1].job.uuid()).execute(&mut sql).await.expect("written");
    let known = [unknown, tokens[0], tokens[1], tokens[2]];
    let differences = differing(&known).await;
    assert_eq!(differences.gone, HashSet::from([unknown, tokens[0]]));
    assert_eq!(differences.owned, [owned(tokens[1], true, false)]);
    // What is over is told of to nobody who does not ask for it.
    let differences = differing(&tokens[1..]).await;
    assert_eq!((differences.gone.len(), &differences.owned[..]), (0, &[owned(tokens[1], true, false)][..]));

    let drain = "update executor_hosts set state = 'draining', moves = true where id = $1";
    sqlx::query(drain).bind(fleet.host.uuid()).execute(&mut sql).await.expect("written");
    let mut moved = differing(&known).await.owned;
    moved.sort_by_key(|owned| owned.token != tokens[1]);
    assert_eq!(moved, [owned(tokens[1], true, true), owned(tokens[2], false, true)]);
}

#[tokio::test]
async fn a_report_of_a_stale_epoch_is_superseded() {
    let mut fleet = Fleet::new().await;
    let first = fleet.worker().await;
    let stale = fleet.claimed(first, 1).await[0];
    workers::hand_over(&fleet.store, first).await.expect("handed over");
    let second = fleet.worker().await;
    let current = Token { epoch: 2, ..stale };
    assert_eq!(fleet.adopt(second).await.expect("adopted"), [current]);

    let before = fleet.rows().await;
    for kind in [ReportKind::Started { execution_id: "container".to_owned() }, ended()] {
        let applied = report(&fleet.store, stale, kind).await;
        assert_eq!(applied, Applied { superseded: 1, ..Default::default() });
    }
    assert_eq!(fleet.changed_since(&before).await, [""; 0]);

    let applied = report(&fleet.store, current, ended()).await;
    assert_eq!((applied.superseded, applied.events.len(), applied.freed), (0, 1, vec![MOCK]));
    let attempt = fleet.attempt(current).await;
    assert!(!attempt["ended_at"].is_null(), "{attempt}");
    assert_eq!((&attempt["slot_held"], &attempt["exit_code"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn a_worker_that_is_not_alive_writes_nothing() {
    for handed_over in [false, true] {
        let mut fleet = Fleet::new().await;
        let (worker, gone) = (fleet.worker().await, fleet.worker().await);
        let owned = fleet.claimed(worker, Write::ALL.len()).await;
        // Something to adopt, and something to claim.
        fleet.claimed(gone, 1).await;
        fleet.declared_dead(gone).await;
        let items = fleet.dispatched(1).await;
        if handed_over {
            workers::hand_over(&fleet.store, worker).await.expect("handed over");
        } else {
            fleet.declared_dead(worker).await;
        }

        let before = fleet.rows().await;
        let mut told = Vec::new();
        for (write, token) in Write::ALL.into_iter().zip(owned) {
            // It is still the owner, and the epoch is the current one.
            let attempt = fleet.attempt(token).await;
            assert_eq!((&attempt["worker_id"], &attempt["epoch"]), (&json!(worker.to_string()), &json!(1)));
            told.push((format!("{write:?}"), fleet.write(write, worker, token).await.map(drop)));
        }
        told.push(("claim".to_owned(), fleet.claim(worker, &items).await.map(drop)));
        told.push(("adopt".to_owned(), fleet.adopt(worker).await.map(drop)));
        let checks = [fleet.check(false)];
        told.push(("put_checks".to_owned(), workers::put_checks(&fleet.store, worker, &checks).await));
        told.push(("beat".to_owned(), workers::beat(&fleet.store, worker).await));
        let other: Vec<_> =
            told.iter().filter(|(_, told)| !matches!(told, Err(Error::NotAlive(id)) if *id == worker)).collect();
        assert!(other.is_empty(), "not told that the worker is not alive: {other:?}");
        assert_eq!(fleet.changed_since(&before).await, [""; 0]);

        let next = fleet.worker().await;
        assert_eq!(fleet.adopt(next).await.expect("adopted").len(), Write::ALL.len() + 1, "there was something");
        assert_eq!(fleet.claim(next, &items).await.expect("asked").claimed.len(), 1, "there was something");
    }
}

#[tokio::test]
async fn a_frozen_worker_holds_nothing_for_long() {
    /// The time in which the test must see the write wait for its lock.
    const TIMEOUT_MILLIS: u32 = 2_000;
    let mut fleet = Fleet::new().await;
    let proxy = Proxy::start(&fleet.db.fleet_url()).await;
    let worker = fleet.worker().await;
    let token = fleet.claimed(worker, 1).await[0];
    fleet.overdue(worker).await;

    let holder = fleet.held(token).await;
    let frozen = fleet.hasty(proxy.url(), "frozen", TIMEOUT_MILLIS);
    let write = tokio::spawn(async move { launch_sent(&frozen, worker, token).await });
    eventually(PATIENCE, async || fleet.sessions("frozen", "wait_event_type = 'Lock'").await == 1).await;
    proxy.stall();
    let_go(holder).await;
    // The statement is through, and nobody commits it.
    eventually(PATIENCE, async || fleet.sessions("frozen", "state = 'idle in transaction'").await == 1).await;
    assert_eq!(fleet.mark_overdue_dead().await, [], "nobody is declared dead in the middle of a write");

    // It locks the worker's row for update.
    let few = Duration::from_millis(TIMEOUT_MILLIS.into()) * 5;
    eventually(few, async || fleet.mark_overdue_dead().await == [worker]).await;
    assert_eq!(fleet.sessions("frozen", "true").await, 0, "Postgres has ended the session");
    let next = fleet.worker().await;
    assert_eq!(fleet.adopt(next).await.expect("adopted"), [Token { epoch: 2, ..token }]);
    proxy.resume();
    let written = write.await.expect("no panic");
    assert!(written.is_err(), "{written:?}");
    assert_eq!(fleet.attempt(token).await["launch_sent_at"], Value::Null);
}

#[tokio::test]
async fn a_write_waits_for_a_lock_only_so_long() {
    const TIMEOUT_MILLIS: u32 = 1_000;
    let timeout = Duration::from_millis(TIMEOUT_MILLIS.into());
    let mut fleet = Fleet::new().await;
    let worker = fleet.worker().await;
    let token = fleet.claimed(worker, 1).await[0];
    let hasty = fleet.hasty(&fleet.db.fleet_url(), "hasty", TIMEOUT_MILLIS);

    let holder = fleet.held(token).await;
    let began = Instant::now();
    let refused = launch_sent(&hasty, worker, token).await.expect_err("somebody else holds the row");
    let waited = began.elapsed();
    assert!(waited >= timeout && waited < 5 * timeout, "{waited:?}");
    // Postgres itself gave up: lock_not_available or query_canceled.
    let Error::Database { source: sqlx::Error::Database(said), .. } = &refused else { panic!("{refused:?}") };
    assert!(matches!(said.code().as_deref(), Some("55P03" | "57014")), "{said:?}");
    assert!(refused.is_transient(), "the worker tries again");

    // And holds nothing of its own any more.
    fleet.overdue(worker).await;
    eventually(PATIENCE, async || fleet.mark_overdue_dead().await == [worker]).await;
    let_go(holder).await;
    assert_eq!(fleet.attempt(token).await["launch_sent_at"], Value::Null);
}
