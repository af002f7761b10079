//! A tenant's jobs are listed by their specs: newest first, its own alone, and without reading those of others, whatever the
//! planner has been told of the tables.

use gantry_core::{JobId, Status, TenantId};
use gantry_store::jobs::{self, Filter};
use gantry_store::{Config, Scope, Store, tenants};
use gantry_testkit::{TestDb, eventually};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The measured store is told by this name in `pg_stat_activity`.
const MEASURED: &str = "measured";
/// Jobs of the other tenant, before and behind those of the own one.
const OTHERS: i64 = 20_000;

struct Db {
    db: TestDb,
    owner: PgConnection,
    own: TenantId,
    other: TenantId,
}

impl Db {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let mut owner = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let own = tenants::put_tenant(&store, "own").await.expect("stored");
        let other = tenants::put_tenant(&store, "other").await.expect("stored");
        // Nobody but the test tells the planner anything.
        for table in ["container_jobs", "container_job_specs"] {
            let sql = format!("alter table {table} set (autovacuum_enabled = off)");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.expect("set");
        }
        Self { db, owner, own, other }
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.owner)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Jobs with these numbers, one in ten of which failed and the rest of which wait.
    async fn put(&mut self, tenant: TenantId, numbers: std::ops::Range<i64>) {
        let (first, last) = (numbers.start, numbers.end - 1);
        self.execute(&format!(
            "with j as (
                insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by, status, failure_class, completed_at)
                select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, p.tenant_id, p.id, 'mock', 'j', '', 'test',
                    case when n % 10 = 0 then 'failed' else 'pending' end::job_status,
                    case when n % 10 = 0 then 'lost' end::failure_class, case when n % 10 = 0 then now() end
                from generate_series({first}, {last}) n, projects p where p.tenant_id = '{tenant}' returning id, tenant_id)
             insert into container_job_specs select id, tenant_id, '{{\"image\": \"i\"}}' from j"
        ))
        .await;
    }

    /// The numbers of what is listed.
    async fn list(&self, tenant: TenantId, filter: Filter) -> Vec<i64> {
        let store = Store::new(&Config::new(self.db.api_url()), MEASURED).expect("an address");
        let scope = Scope::Tenant { id: tenant, operator: false };
        let listed = jobs::list(&store, scope, &filter).await.expect("listed");
        store.close().await;
        listed.iter().map(|view| view.id.to_string()[24..].parse().expect("a number")).collect()
    }

    /// Rows of jobs and of specs that statistics say were read.
    async fn rows_read(&mut self) -> i64 {
        // A server process hands its counts in at its end, if not before.
        let owner = &mut self.owner;
        eventually(std::time::Duration::from_secs(20), async || {
            let left: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where application_name = $1")
                .bind(MEASURED)
                .fetch_one(&mut *owner)
                .await
                .expect("a count");
            left == 0
        })
        .await;
        sqlx::query_scalar(
            "select (select sum(seq_tup_read)::int8 from pg_stat_user_tables where relname in ('container_jobs', 'container_job_specs'))
                + (select sum(idx_tup_read)::int8 from pg_stat_user_indexes where relname in ('container_jobs', 'container_job_specs'))",
        )
        .fetch_one(&mut self.owner)
        .await
        .expect("statistics")
    }
}

fn job(number: i64) -> JobId {
    format!("00000000-0000-7000-8000-{number:012}").parse().expect("an id")
}

#[tokio::test]
async fn pages_are_newest_first_and_of_one_tenant() {
    let mut db = Db::new().await;
    let (own, other) = (db.own, db.other);
    db.put(own, 1..30).await;
    db.put(other, 30..60).await;
    db.put(own, 60..80).await;
    let page = |before: Option<i64>| Filter { limit: 10, before: before.map(job), ..Filter::default() };
    assert_eq!(db.list(own, page(None)).await, Vec::from_iter((70..80).rev()));
    assert_eq!(db.list(own, page(Some(65))).await, [64, 63, 62, 61, 60, 29, 28, 27, 26, 25]);
    assert_eq!(db.list(own, page(Some(3))).await, [2, 1]);
    assert_eq!(db.list(other, page(None)).await, Vec::from_iter((50..60).rev()));
    let failed = Filter { statuses: vec![Status::Failed], limit: 3, ..Filter::default() };
    assert_eq!(db.list(own, failed.clone()).await, [70, 60, 20]);
    assert_eq!(db.list(own, Filter { before: Some(job(20)), ..failed }).await, [10]);
    let api = Store::new(&Config::new(db.db.api_url()), "test").expect("an address");
    let scope = Scope::Tenant { id: own, operator: false };
    assert_eq!(jobs::get(&api, scope, job(7)).await.expect("read").expect("its own").id, job(7));
    assert!(jobs::get(&api, scope, job(40)).await.expect("read").is_none(), "another tenant's");
}

#[tokio::test]
async fn whatever_statistics_say_jobs_of_others_are_not_read() {
    let mut db = Db::new().await;
    let (own, other) = (db.own, db.other);
    // As of the first minutes: told that nothing is there.
    db.execute("vacuum analyze container_jobs").await;
    db.execute("vacuum analyze container_job_specs").await;
    db.put(other, 1..OTHERS).await;
    db.put(own, OTHERS..OTHERS + 200).await;
    db.put(other, OTHERS + 200..2 * OTHERS).await;
    for told in ["of empty tables", "fresh", "fresh, and vacuumed"] {
        match told {
            "fresh" => db.execute("analyze container_jobs, container_job_specs").await,
            "fresh, and vacuumed" => {
                db.execute("vacuum analyze container_jobs").await;
                db.execute("vacuum analyze container_job_specs").await;
            }
            _ => {}
        }
        let before = db.rows_read().await;
        let newest = db.list(own, Filter { limit: 50, ..Filter::default() }).await;
        assert_eq!(newest.len(), 50);
        let none = Filter { statuses: vec![Status::Running], limit: 50, ..Filter::default() };
        assert!(db.list(own, none).await.is_empty());
        // Of each job an entry of its spec and one of its own. The planner looks a few up.
        let read = db.rows_read().await - before;
        assert!((500..=550).contains(&read), "{read} entries with statistics {told}");
    }
}
