//! What refers to what, where the migration has triggers instead of foreign keys: what is referred to stays, or takes along
//! what refers to it.

use gantry_store::{Config, Store, schema, tenants};
use gantry_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

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

async fn is_refused(sql: &mut PgConnection, delete: &'static str) {
    let refused = run(sql, delete).await.expect_err("an attempt names it");
    let code = refused.as_database_error().and_then(|error| error.code().map(String::from));
    assert_eq!(code.as_deref(), Some("23503"), "{delete}: {refused}");
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
