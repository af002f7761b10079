//! Operations on many jobs come to the same whoever dies or works beside whom: each job is changed once.

use gantry_core::bulk::{Deed, Filter, State};
use gantry_core::{BulkId, Status, TenantId};
use gantry_store::audit::Actor;
use gantry_store::bulk::{self, Operation, work};
use gantry_store::{Config, Scope, Store, tenants};
use gantry_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// More than two batches.
const JOBS: i64 = 1_200;

struct Db {
    db: TestDb,
    owner: PgConnection,
    store: Store,
    tenant: TenantId,
}

impl Db {
    /// One with pending jobs.
    async fn new() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let owner = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let mut db = Self { db, owner, store, tenant };
        db.execute(&format!(
            "with j as (
                insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by)
                select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, p.tenant_id, p.id, 'mock', 'j' || n, '', 'test'
                from generate_series(1, {JOBS}) n, projects p returning id, tenant_id)
             insert into container_job_specs select id, tenant_id, '{{\"image\": \"i\"}}' from j"
        ))
        .await;
        db
    }

    /// Every job has failed.
    async fn fail_all(&mut self) {
        self.execute(
            "update container_jobs set status = 'failed', failure_class = 'exit_nonzero', exit_code = 1, completed_at = now()",
        )
        .await;
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.owner)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn count(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.owner).await.expect("a count")
    }

    async fn start(&self, deed: Deed) -> BulkId {
        let actor = Actor { tenant: self.tenant, name: "key:test".to_owned() };
        let scope = Scope::Tenant { id: self.tenant, operator: false };
        let api = Store::new(&Config::new(self.db.api_url()), "test").expect("an address");
        bulk::put(&api, scope, &actor, deed, &Filter::default()).await.expect("stored")
    }

    async fn operation(&self, id: BulkId) -> Operation {
        bulk::get(&self.store, Scope::Fleet, id).await.expect("read").expect("an operation")
    }
}

/// A dispatcher of its own, until nothing is left to do.
async fn dispatcher(url: String) {
    let config = Config { transaction_timeout_millis: 1_000, ..Config::new(url) };
    let store = Store::new(&config, "test").expect("an address");
    // Others may work on the only operation just now.
    let mut idle = 0;
    while idle < 20 {
        match work::batch(&store).await.expect("a batch") {
            Some(_) => idle = 0,
            None => {
                idle += 1;
                // Until the one that works on it has done its batch.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test]
async fn dispatchers_side_by_side_retry_each_job_once() {
    let mut db = Db::new().await;
    db.fail_all().await;
    let ids = [db.start(Deed::Retry).await, db.start(Deed::Prioritise(7)).await];
    let url = db.db.fleet_url();
    tokio::join!(dispatcher(url.clone()), dispatcher(url.clone()), dispatcher(url));
    let retried = db.operation(ids[0]).await;
    assert_eq!((retried.state, retried.tally.matched, retried.tally.changed), (State::Done, JOBS, JOBS));
    assert_eq!(db.count("select count(*) from container_jobs").await, 2 * JOBS);
    assert_eq!(db.count("select count(*) from container_jobs where status = 'failed'").await, JOBS, "an end is final");
    let linked = "select count(*) from bulk_changes n join bulk_changes o on o.job_id = (n.detail->>'retry_of')::uuid
        where o.detail->>'retried_as' = n.job_id::text";
    assert_eq!(db.count(linked).await, JOBS);
    // The jobs that the retry made came after the other operation was asked for, or at least after the retry.
    let other = db.operation(ids[1]).await;
    assert_eq!((other.state, other.tally.matched), (State::Done, 0), "no pending job was there when it was asked for");
}

#[tokio::test]
async fn a_batch_that_dies_has_done_nothing_and_the_next_goes_on() {
    let mut db = Db::new().await;
    let id = db.start(Deed::Cancel).await;
    let config = Config { transaction_timeout_millis: 500, ..Config::new(db.db.fleet_url()) };
    let store = Store::new(&config, "test").expect("an address");
    let first = work::batch(&store).await.expect("a batch").expect("something to do");
    assert_eq!(first.changed, 500);

    // The second one changes some jobs and then waits in vain for one that somebody holds.
    let mut holder = PgConnection::connect(&db.db.owner_url()).await.expect("connected");
    let hold = "begin; insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
        select id, s.n, tenant_id, 'mock', 'cancelled', '{}' from container_jobs,
            (select max(sequence) as n from job_events) s where name = 'j700'";
    sqlx::raw_sql(hold).execute(&mut holder).await.expect("held");
    assert!(work::batch(&store).await.is_err(), "it cannot be done");
    let between = db.operation(id).await;
    assert_eq!((between.state, between.tally.changed), (State::Running, 500), "nothing of it was done");
    assert_eq!(db.count("select count(*) from container_jobs where status = 'cancelled'").await, 500);
    assert_eq!(db.count("select count(*) from bulk_changes").await, 500);

    sqlx::raw_sql("rollback").execute(&mut holder).await.expect("let go");
    while work::batch(&store).await.expect("a batch").is_some() {}
    let done = db.operation(id).await;
    assert_eq!((done.state, done.tally.matched, done.tally.changed), (State::Done, JOBS, JOBS));
    assert_eq!(db.count("select count(*) from bulk_changes").await, JOBS);
    assert_eq!(db.count("select count(*) from job_events where kind = 'cancelled'").await, JOBS, "one end each");
}

#[tokio::test]
async fn what_is_stopped_goes_no_further() {
    let mut db = Db::new().await;
    let id = db.start(Deed::Prioritise(9)).await;
    work::batch(&db.store).await.expect("a batch").expect("something to do");
    let actor = Actor { tenant: db.tenant, name: "key:test".to_owned() };
    assert!(bulk::stop(&db.store, Scope::Fleet, &actor, id).await.expect("stopped"));
    assert!(!bulk::stop(&db.store, Scope::Fleet, &actor, id).await.expect("asked again"));
    assert_eq!(work::batch(&db.store).await.expect("a look"), None);
    assert_eq!(db.count("select count(*) from container_jobs where priority = 9").await, 500);
    let audited = "select count(*) from audit_log where action in ('bulk_started', 'bulk_stopped')";
    assert_eq!(db.count(audited).await, 2);
}

#[tokio::test]
async fn a_dry_run_counts_what_the_operation_then_does() {
    let mut db = Db::new().await;
    db.execute("update container_jobs set dispatched_at = now(), dispatch_sequence = 1 where name < 'j2'").await;
    let api = Store::new(&Config::new(db.db.api_url()), "test").expect("an address");
    let filter = Filter { statuses: vec![Status::Pending], ..Filter::default() };
    let (deed, within) = (Deed::Prioritise(3), std::time::Duration::from_secs(60));
    let count = bulk::count(&api, db.tenant, deed, &filter, within).await.expect("counted");
    assert!(count.complete && count.tally.skips.get("is_next").is_some_and(|jobs| *jobs > 0), "{count:?}");
    assert_eq!(count.tally.matched, JOBS);
    let id = db.start(deed).await;
    while work::batch(&db.store).await.expect("a batch").is_some() {}
    assert_eq!(db.operation(id).await.tally, count.tally);
}
