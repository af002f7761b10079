//! What refers to what, where the migration has triggers and locks instead of foreign keys: what is referred to stays, or takes
//! along what refers to it.

use std::time::Duration;

use gantry_core::{ExecutorType, JobId, ProjectId, TenantId};
use gantry_store::admission::{self, Idempotency, Inserted, KeySource, NewJob};
use gantry_store::{Config, Error, Scope, Store, schema, tenants};
use gantry_testkit::{TestDb, eventually};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

/// A database in which one attempt has run and ended, and a connection of the fleet's role.
async fn one_attempt() -> (TestDb, PgConnection) {
    let db = TestDb::create().await;
    let fleet = PgConnection::connect(&db.fleet_url()).await.expect("connected");
    fill(&db).await;
    (db, fleet)
}

async fn fill(db: &TestDb) {
    let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
    tenants::put_tenant(&store, "acme").await.expect("stored");
    let mut sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
    sqlx::raw_sql(
        "insert into workers (id, executor_type, name, version, reads_version, lease_seconds)
            values (gen_random_uuid(), 'mock', 'w', '0', 1, 15);
         insert into executor_hosts (id, name, executor_type) values (gen_random_uuid(), 'h', 'mock');
         insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by, status, attempt,
            executor_host_id, exit_code, completed_at)
            select gen_random_uuid(), p.tenant_id, p.id, 'mock', 'job', '', 'test', 'completed', 1, h.id, 0, now()
            from projects p, executor_hosts h;
         insert into container_job_specs (job_id, tenant_id, spec) select id, tenant_id, '{}' from container_jobs;
         insert into container_executions (job_id, attempt, tenant_id, executor_host_id, worker_id, slot_held, external_name, ended_at)
            select j.id, 1, j.tenant_id, j.executor_host_id, w.id, false, 'gantry-1', now() from container_jobs j, workers w;
         insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
            select id, 7, tenant_id, 'mock', 'completed', '{}' from container_jobs",
    )
    .execute(&mut sql)
    .await
    .expect("stored");
}

async fn run(sql: &mut PgConnection, statement: &'static str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query(statement).execute(sql).await?.rows_affected())
}

async fn is_refused(sql: &mut PgConnection, statement: &'static str) {
    is_refused_as(sql, statement, "23503").await;
}

async fn is_refused_as(sql: &mut PgConnection, statement: &'static str, expected: &str) {
    let refused = run(sql, statement).await.expect_err(statement);
    let code = refused.as_database_error().and_then(|error| error.code().map(String::from));
    assert_eq!(code.as_deref(), Some(expected), "{statement}: {refused}");
}

#[tokio::test]
async fn a_host_and_a_worker_stay_as_long_as_an_attempt_names_them() {
    let (_db, mut sql) = one_attempt().await;
    for delete in ["delete from executor_hosts", "delete from workers"] {
        is_refused(&mut sql, delete).await;
    }
    assert_eq!(run(&mut sql, "delete from container_jobs").await.expect("deleted"), 1);
    for delete in ["delete from executor_hosts", "delete from workers"] {
        assert_eq!(run(&mut sql, delete).await.expect("nothing names it"), 1, "{delete}");
    }
}

#[tokio::test]
async fn a_job_that_is_deleted_takes_its_spec_its_attempts_and_its_events_along() {
    let (_db, mut sql) = one_attempt().await;
    assert_eq!(run(&mut sql, "delete from container_jobs").await.expect("deleted"), 1);
    for left in ["select * from container_job_specs", "select * from container_executions", "select * from job_events"]
    {
        assert_eq!(run(&mut sql, left).await.expect("read"), 0, "{left}");
    }
}

/// Row-level security is forced on it, and the guard must see attempts all the same.
#[tokio::test]
async fn the_owner_of_the_schema_cannot_delete_such_a_worker_either() {
    let db = TestDb::create().await;
    let url = db.owner_url();
    let name = url.rsplit('/').next().expect("it has a path");
    let role = name.replace("gantry_test_", "owner_");
    let mut sql = PgConnection::connect(&url).await.expect("connected");
    let owned = format!("create role {role} login createrole; alter database {name} owner to {role}");
    sqlx::raw_sql(AssertSqlSafe(owned)).execute(&mut sql).await.expect("made");
    let (_, place) = url.split_once('@').expect("it names the superuser");
    let as_owner = format!("postgres://{role}@{place}");
    schema::reset(&as_owner).await.expect("made anew");
    fill(&db).await;
    let mut owner = PgConnection::connect(&as_owner).await.expect("connected");
    is_refused(&mut owner, "delete from workers").await;
    owner.close().await.expect("closed");
    let left = format!("reassign owned by {role} to current_user; drop owned by {role}; drop role {role}");
    sqlx::raw_sql(AssertSqlSafe(left)).execute(&mut sql).await.expect("gone");
}

/// Two tenants with a project each, and nothing else.
struct Two {
    db: TestDb,
    fleet: Store,
    api: Store,
    /// As the fleet's role.
    sql: PgConnection,
    acme: (TenantId, ProjectId),
    globex: (TenantId, ProjectId),
}

impl Two {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let fleet = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let api = Store::new(&Config::new(db.api_url()), "test").expect("an address");
        let mut sql = PgConnection::connect(&db.fleet_url()).await.expect("connected");
        let acme = tenant(&fleet, &mut sql, "acme").await;
        let globex = tenant(&fleet, &mut sql, "globex").await;
        Self { db, fleet, api, sql, acme, globex }
    }

    /// Both doors, as they are for acme.
    fn doors(&self) -> [(&Store, Scope); 2] {
        [(&self.fleet, Scope::Fleet), (&self.api, Scope::Tenant { id: self.acme.0, operator: false })]
    }

    /// What admission has stored: jobs, specs and keys.
    async fn stored(&mut self) -> i64 {
        let count = "select (select count(*) from container_jobs) + (select count(*) from container_job_specs)
            + (select count(*) from idempotency_keys)";
        sqlx::query_scalar(count).fetch_one(&mut self.sql).await.expect("a count")
    }

    /// Somebody else, in the middle of a transaction that did this.
    async fn other(&self, did: String) -> PgConnection {
        let mut other = PgConnection::connect(&self.db.fleet_url()).await.expect("connected");
        sqlx::raw_sql(AssertSqlSafe(format!("begin; {did}"))).execute(&mut other).await.expect("done");
        other
    }

    /// Commits what another one did as soon as somebody waits for it.
    async fn commits_when_waited_for(&self, mut other: PgConnection) {
        let mut sql = PgConnection::connect(&self.db.owner_url()).await.expect("connected");
        let waiting = "select exists (select 1 from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock')";
        eventually(PATIENCE, async || sqlx::query_scalar(waiting).fetch_one(&mut sql).await.expect("sessions")).await;
        sqlx::query("commit").execute(&mut other).await.expect("committed");
    }
}

async fn tenant(store: &Store, sql: &mut PgConnection, name: &str) -> (TenantId, ProjectId) {
    let tenant = tenants::put_tenant(store, name).await.expect("stored");
    let project: Uuid = sqlx::query_scalar("select id from projects where tenant_id = $1")
        .bind(tenant.uuid())
        .fetch_one(sql)
        .await
        .expect("a project");
    (tenant, project.into())
}

/// With a key, so that it has all that admission stores.
fn job((tenant, project): (TenantId, ProjectId)) -> NewJob {
    let id = JobId::new();
    NewJob {
        id,
        tenant,
        project,
        name: "job".to_owned(),
        template: None,
        spec: serde_json::from_value(json!({ "image": "i", "timeout_seconds": 60 })).expect("a spec"),
        executor_type: ExecutorType::Mock,
        preferred_executor: None,
        routing_reason: "the test says so".to_owned(),
        routing: Default::default(),
        override_command: None,
        override_environment: Default::default(),
        concurrency_key: None,
        priority: 0,
        not_before: None,
        queue_timeout_seconds: None,
        idempotency: Some(Idempotency { source: KeySource::Key, key: id.to_string(), body_hash: [7; 32] }),
        created_by: "test".to_owned(),
        schedule: None,
        at_once: false,
    }
}

#[tokio::test]
async fn a_project_that_a_job_names_stays_and_keeps_its_id_and_its_tenant() {
    let mut two = Two::new().await;
    let other_tenant =
        "update projects set name = 'taken over', tenant_id = (select id from tenants where name = 'globex')
        where tenant_id = (select id from tenants where name = 'acme')";
    let new = [job(two.acme)];
    admission::insert(&two.fleet, Scope::Fleet, &new).await.expect("stored");
    for change in ["delete from projects", "update projects set id = gen_random_uuid()", other_tenant] {
        is_refused(&mut two.sql, change).await;
    }
    // What names nobody's jobs may be given any name.
    assert_eq!(run(&mut two.sql, "update projects set name = name || ' 2'").await.expect("renamed"), 2);
    assert_eq!(run(&mut two.sql, "delete from container_jobs").await.expect("deleted"), 1);
    assert_eq!(run(&mut two.sql, other_tenant).await.expect("no job names it"), 1);
    assert_eq!(run(&mut two.sql, "delete from projects").await.expect("no job names them"), 2);
}

#[tokio::test]
async fn a_project_whose_jobs_may_not_be_seen_stays() {
    let mut two = Two::new().await;
    run(&mut two.sql, "begin isolation level repeatable read").await.expect("begun");
    is_refused_as(&mut two.sql, "delete from projects", "25000").await;
    run(&mut two.sql, "rollback").await.expect("rolled back");
    run(&mut two.sql, "begin isolation level repeatable read").await.expect("begun");
    assert_eq!(run(&mut two.sql, "update projects set name = name || ' 2'").await.expect("renamed"), 2);
    run(&mut two.sql, "commit").await.expect("committed");
}

#[tokio::test]
async fn a_job_whose_project_its_tenant_does_not_have_is_not_stored_nor_is_its_batch() {
    let mut two = Two::new().await;
    let (acme, globex) = (two.acme, two.globex);
    for door in 0..2 {
        for project in [globex.1, ProjectId::new()] {
            let (store, scope) = two.doors()[door];
            let batch = [job(acme), job((acme.0, project)), job(acme)];
            let error = admission::insert(store, scope, &batch).await.expect_err("refused");
            assert!(matches!(error, Error::NoProject(1)) && !error.is_transient(), "{error}");
            assert_eq!(two.stored().await, 0);
        }
    }
    // The fleet's batches are of all tenants.
    let crossed = [job((acme.0, globex.1)), job((globex.0, acme.1))];
    let error = admission::insert(&two.fleet, Scope::Fleet, &crossed).await.expect_err("refused");
    assert!(matches!(error, Error::NoProject(2)), "{error}");
    assert_eq!(two.stored().await, 0);
    let own = [job(acme), job(globex), job(acme)];
    let stored = admission::insert(&two.fleet, Scope::Fleet, &own).await.expect("stored");
    assert_eq!(stored, own.each_ref().map(|job| Inserted::New(job.id)));
    assert_eq!(two.stored().await, 9);
}

#[tokio::test]
async fn who_changes_a_project_first_is_waited_for() {
    for door in 0..2 {
        for (change, stored) in [
            ("delete from projects", 0),
            ("update projects set id = gen_random_uuid()", 0),
            ("update projects set name = 'taken over', tenant_id = (select id from tenants where name = 'globex')", 0),
            ("update projects set name = 'renamed'", 3),
        ] {
            let mut two = Two::new().await;
            let other = two.other(format!("{change} where id = '{}'", two.acme.1)).await;
            let new = [job(two.acme)];
            let (store, scope) = two.doors()[door];
            let (inserted, ()) =
                tokio::join!(admission::insert(store, scope, &new), two.commits_when_waited_for(other));
            match inserted {
                Ok(inserted) => assert_eq!(inserted, [Inserted::New(new[0].id)], "{change}"),
                Err(error) => assert!(matches!(error, Error::NoProject(1)), "{change}: {error}"),
            }
            assert_eq!(two.stored().await, stored, "{change}");
        }
    }
}

#[tokio::test]
async fn who_changes_a_project_waits_for_those_who_insert_its_jobs() {
    for change in [
        "delete from projects",
        "update projects set id = gen_random_uuid()",
        "update projects set name = 'taken over', tenant_id = (select id from tenants where name = 'globex')
            where tenant_id = (select id from tenants where name = 'acme')",
    ] {
        let two = Two::new().await;
        // As admission does: it cannot be stopped in the middle.
        let (tenant, project) = two.acme;
        let other = two
            .other(format!(
                "select from projects where id = '{project}' for key share;
                 insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by)
                 values (gen_random_uuid(), '{tenant}', '{project}', 'mock', 'job', '', 'test')"
            ))
            .await;
        let mut sql = PgConnection::connect(&two.db.fleet_url()).await.expect("connected");
        tokio::join!(is_refused(&mut sql, change), two.commits_when_waited_for(other));
    }
}
