//! A tenant's jobs that wait are counted without reading those of others, whatever the planner has been told of the table.

use std::str::FromStr as _;
use std::time::Duration;

use gantry_core::TenantId;
use gantry_store::{Config, Store, tenants};
use gantry_testkit::{TestDb, eventually};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

/// The measured session is told by this name in `pg_stat_activity`.
const MEASURED: &str = "measured";
/// Jobs of the other tenant in line, in the window and parked: so many each.
const OTHERS: i64 = 5_000;
/// Those of the own one.
const OWN: i64 = 20;
/// `dispatched_at`, `published_at`, `parked_until` and `waiting_reason` of a job in line, in the window and parked.
const PLACES: [&str; 3] =
    ["null, null, null, null", "now(), now(), null, null", "null, null, now() + interval '1 hour', 'retry_backoff'"];

struct Db {
    db: TestDb,
    owner: PgConnection,
    own: TenantId,
    other: TenantId,
}

impl Db {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let owner = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let own = tenants::put_tenant(&store, "own").await.expect("stored");
        let other = tenants::put_tenant(&store, "other").await.expect("stored");
        let mut db = Self { db, owner, own, other };
        // Nobody but the test tells the planner anything.
        db.execute("alter table container_jobs set (autovacuum_enabled = off)").await;
        db
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.owner)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// So many jobs of a tenant in each place.
    async fn put(&mut self, tenant: TenantId, jobs: i64) {
        for place in PLACES {
            self.execute(&format!(
                "insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by,
                    dispatched_at, published_at, parked_until, waiting_reason)
                 select gen_random_uuid(), p.tenant_id, p.id, 'mock', 'j', '', 'test', {place}
                 from generate_series(1, {jobs}), projects p where p.tenant_id = '{tenant}'"
            ))
            .await;
        }
    }

    /// What `sql` counts for the own tenant, in a session of its own.
    async fn count(&mut self, sql: &'static str) -> i64 {
        let options = PgConnectOptions::from_str(&self.db.fleet_url()).expect("an address");
        let mut session = options.application_name(MEASURED).connect().await.expect("connected");
        let counted = sqlx::query_scalar(sql).bind(self.own.uuid()).fetch_one(&mut session).await.expect("a count");
        session.close().await.expect("closed");
        // A server process hands its statistics in at its end, if not before.
        let owner = &mut self.owner;
        eventually(Duration::from_secs(20), async || {
            let left =
                "select count(*) from pg_stat_activity where datname = current_database() and application_name = $1";
            let left: i64 = sqlx::query_scalar(left).bind(MEASURED).fetch_one(&mut *owner).await.expect("a count");
            left == 0
        })
        .await;
        counted
    }

    /// Rows of jobs that statistics say were read.
    async fn rows_read(&mut self) -> i64 {
        sqlx::query_scalar(
            "select (select seq_tup_read from pg_stat_user_tables where relname = 'container_jobs')
                + (select sum(idx_tup_read)::int8 from pg_stat_user_indexes where relname = 'container_jobs')",
        )
        .fetch_one(&mut self.owner)
        .await
        .expect("statistics")
    }
}

#[tokio::test]
async fn whatever_statistics_say_jobs_of_others_are_not_read() {
    let mut db = Db::new().await;
    // As of the first minutes: told that nothing is there.
    db.execute("vacuum analyze container_jobs").await;
    let (own, other) = (db.own, db.other);
    db.put(other, OTHERS).await;
    db.put(own, OWN).await;
    for told in ["of an empty table", "fresh", "fresh, and vacuumed"] {
        match told {
            "fresh" => db.execute("analyze container_jobs").await,
            "fresh, and vacuumed" => db.execute("vacuum analyze container_jobs").await,
            _ => {}
        }
        for sql in ["select gantry_waiting($1, 1000)", "select sum(jobs)::int8 from gantry_backlog($1, 1000)"] {
            let before = db.rows_read().await;
            assert_eq!(db.count(sql).await, 3 * OWN, "{sql}, with statistics {told}");
            let read = db.rows_read().await - before;
            // A bitmap counts an entry twice.
            assert!((3 * OWN..=8 * OWN).contains(&read), "{sql}: {read} entries with statistics {told}");
        }
        // Who has reached its cap before is not counted further.
        assert_eq!(db.count("select gantry_waiting($1, 30)").await, 30);
    }
}
