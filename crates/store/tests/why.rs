//! Explanations cost the same whatever waits, and tell nobody of another tenant's jobs.

use gantry_core::{JobId, TenantId, WaitingReason, why};
use gantry_store::{Config, Scope, Store, tenants};
use gantry_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Jobs of each line, which is more than is ever counted.
const LINE: i64 = 100_000;

struct Db {
    db: TestDb,
    owner: PgConnection,
    /// As the fleet.
    store: Store,
}

impl Db {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let owner = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        Self { db, owner, store }
    }

    async fn tenant(&self, name: &str) -> TenantId {
        tenants::put_tenant(&self.store, name).await.expect("stored")
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.owner)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Puts jobs in line; their numbers, which are unique, tell their ages.
    async fn line(&mut self, tenant: TenantId, priority: i16, numbers: std::ops::Range<i64>) {
        let (first, last) = (numbers.start, numbers.end - 1);
        self.execute(&format!(
            "with j as (
                insert into container_jobs (id, tenant_id, project_id, executor_type, priority, name, routing_reason, created_by)
                select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, p.tenant_id, p.id, 'mock', {priority}, 'j', '', 'test'
                from generate_series({first}, {last}) n, projects p where p.tenant_id = '{tenant}' returning id, tenant_id)
             insert into container_job_specs select id, tenant_id, '{{\"image\": \"i\"}}' from j"
        ))
        .await;
    }

    /// Rows of jobs that statistics say were read; of sessions that have ended.
    async fn rows_read(&mut self) -> i64 {
        sqlx::query_scalar(
            "select (select seq_tup_read from pg_stat_user_tables where relname = 'container_jobs')
                + (select sum(idx_tup_read)::int8 from pg_stat_user_indexes where relname = 'container_jobs')",
        )
        .fetch_one(&mut self.owner)
        .await
        .expect("statistics")
    }

    async fn why(&self, tenant: TenantId, job: JobId) -> Option<why::Why> {
        let store = Store::new(&Config::new(self.db.api_url()), "test").expect("an address");
        let scope = Scope::Tenant { id: tenant, operator: false };
        let facts = gantry_store::why::facts(&store, scope, job).await.expect("read");
        // So that what it has read is in the statistics.
        store.close().await;
        facts.map(|facts| why::explain(&facts))
    }

    /// The place of a job in line.
    async fn ahead(&self, tenant: TenantId, job: JobId) -> why::Ahead {
        let why = self.why(tenant, job).await.expect("a job");
        why.waiting.and_then(|waiting| waiting.ahead).expect("it is in line")
    }
}

fn job(number: i64) -> JobId {
    format!("00000000-0000-7000-8000-{number:012}").parse().expect("an id")
}

#[tokio::test]
async fn the_place_follows_priority_age_and_shares() {
    let mut db = Db::new().await;
    let (own, other, heavy) = (db.tenant("own").await, db.tenant("other").await, db.tenant("heavy").await);
    db.execute("update tenants set weight = 2 where name = 'heavy'").await;
    db.line(own, 0, 100..200).await;
    db.line(own, 5, 200..210).await;
    db.line(own, -5, 300..310).await;
    // Younger, and all the same before those of whom they are as far on.
    db.line(other, 0, 1_000..1_050).await;
    db.line(heavy, 0, 2_000..2_030).await;
    db.line(heavy, 1, 3_000..3_007).await;
    let ahead = |jobs, own| why::Ahead { jobs, own, more: false };
    // The first of its line: ten of its own of a higher priority, seven of another tenant's.
    assert_eq!(db.ahead(own, job(100)).await, ahead(17, 10));
    // The fifth: four of its own, four turns of the other one, eight of the heavy one.
    assert_eq!(db.ahead(own, job(104)).await, ahead(17 + 4 + 4 + 8, 14));
    // The last: nobody's line is longer than it is.
    assert_eq!(db.ahead(own, job(199)).await, ahead(17 + 99 + 50 + 30, 109));
    assert_eq!(db.ahead(own, job(204)).await, ahead(4, 4), "nobody else has its priority");
    assert_eq!(db.ahead(own, job(300)).await, ahead(110 + 87, 110), "everything that matters more");
    assert_eq!(db.ahead(heavy, job(2_003)).await, ahead(7 + 3 + 10 + 2 + 2, 10), "half of its turns each");
}

#[tokio::test]
async fn among_a_hundred_thousand_a_bounded_number_of_rows_is_read() {
    let mut db = Db::new().await;
    let (own, other) = (db.tenant("own").await, db.tenant("other").await);
    db.line(own, 0, 1..LINE + 1).await;
    db.line(other, 0, LINE + 1..2 * LINE + 1).await;
    db.execute("vacuum analyze").await;
    for (number, most, place) in [
        (LINE / 2, 40_000, why::Ahead { jobs: why::COUNTED, own: why::COUNTED, more: true }),
        (11, 200, why::Ahead { jobs: 20, own: 10, more: false }),
    ] {
        let before = db.rows_read().await;
        assert_eq!(db.ahead(own, job(number)).await, place);
        gantry_testkit::eventually(std::time::Duration::from_secs(10), async || db.rows_read().await > before).await;
        let read = db.rows_read().await - before;
        assert!(read < most, "{read} rows were read for the job at place {number}");
    }
}

#[tokio::test]
async fn a_job_of_another_tenant_is_none() {
    let mut db = Db::new().await;
    let (own, other) = (db.tenant("own").await, db.tenant("other").await);
    db.line(own, 0, 1..3).await;
    assert!(db.why(other, job(1)).await.is_none());
    assert!(db.why(own, job(9)).await.is_none());
    let why = db.why(own, job(2)).await.expect("a job");
    assert_eq!(why.waiting.expect("it waits").reason, WaitingReason::NoHost);
    // Nor can the API's role ask for the line of another tenant.
    let mut api = PgConnection::connect(&db.db.api_url()).await.expect("connected");
    let asked = format!(
        "begin; set local gantry.tenant = '{other}'; \
         do $$ begin if exists (select from gantry_line('{own}', 'mock', 0::smallint, '{}', 10)) then raise 'told'; end if; end $$",
        job(2)
    );
    sqlx::raw_sql(AssertSqlSafe(asked)).execute(&mut api).await.expect("nothing is told");
}

/// As in production, where the owner of the schema is no superuser: what the functions tell must not depend on it.
#[tokio::test]
async fn an_owner_without_superuser_rights_will_do() {
    let mut db = Db::new().await;
    let own = db.tenant("own").await;
    db.line(own, 0, 1..6).await;
    // The test's own owner, as far as this database goes.
    let role = format!("gantry_owner_{}", uuid());
    db.execute(&format!(
        "create role {role}; grant create, usage on schema public to {role}; grant gantry_fleet, gantry_api to {role};
         alter function gantry_line(uuid, executor_type, smallint, uuid, integer) owner to {role};
         alter table container_jobs owner to {role}; alter table tenants owner to {role};
         alter policy owner on container_jobs to {role}; alter policy owner on tenants to {role}"
    ))
    .await;
    let place = db.ahead(own, job(5)).await;
    db.execute(&format!("reassign owned by {role} to postgres; drop owned by {role}; drop role {role}")).await;
    assert_eq!(place.jobs, 4);
}

fn uuid() -> String {
    JobId::new().to_string().replace('-', "")
}
