//! What a tenant cannot see or do, asked of Postgres itself as the API's role: no code of Gantry's in between.

use gantry_core::TenantId;
use gantry_tests::{Fleet, jobs};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

/// Fills every table for two tenants.
async fn two_tenants() -> (Fleet, TenantId, TenantId) {
    let (fleet, parts) = Fleet::simulated(4).await;
    let other = fleet.other_tenant("globex").await;
    let producer = fleet.producer().await;
    let talk = jobs::mock(&[("stdout", "hello")]);
    for key in [None, Some("globex".to_owned())] {
        let mut message = producer.message(&talk);
        message.api_key = key.or(message.api_key);
        let answer = producer.ask(message).await;
        assert_eq!(answer["result"], "accepted", "{answer}");
    }
    fleet.count_reaches("completed", 2).await;
    for sql in [
        "insert into environment_variable_templates (id, tenant_id, name, created_by)
         select gen_random_uuid(), id, 'e', 'test' from tenants",
        "insert into container_templates (id, tenant_id, name, docker_image, created_by)
         select gen_random_uuid(), id, 't', 'i', 'test' from tenants",
        "insert into executor_hosts (id, tenant_id, name, executor_type)
         select gen_random_uuid(), id, 'own', 'docker' from tenants",
        "insert into audit_log (id, tenant_id, actor, action, subject)
         select gen_random_uuid(), id, 'test', 'host_cordoned', 'own' from tenants",
        "insert into schedules (id, tenant_id, name, cron, time_zone, submission, created_by)
         select gen_random_uuid(), id, 's', '@daily', 'UTC', '{}', 'test' from tenants",
        "insert into schedule_runs (schedule_id, due_at, tenant_id, outcome) select id, now(), tenant_id, 'refused' from schedules",
        "insert into bulk_operations (id, tenant_id, actor, action, filter) select gen_random_uuid(), id, 'test', 'cancel', '{}' from tenants",
        "insert into bulk_changes (job_id, operation_id, tenant_id, detail)
         select j.id, b.id, j.tenant_id, '{}' from container_jobs j join bulk_operations b on b.tenant_id = j.tenant_id",
        "insert into limits (id, tenant_id, kind, name) select gen_random_uuid(), id, 'tenant', '' from tenants",
        "insert into dead_letters (id, letter_key, tenant_id, origin, reason, body, body_bytes)
         select gen_random_uuid(), sha256(id::text::bytea), id, 'test', 'test', '', 0 from tenants",
        "insert into dead_letters (id, letter_key, tenant_id, origin, reason, body, body_bytes)
         values (gen_random_uuid(), sha256('nobody'), null, 'test', 'test', '', 0)",
    ] {
        fleet.execute(sql).await;
    }
    for part in parts {
        part.stop().await;
    }
    let tenant = fleet.tenant;
    (fleet, tenant, other)
}

/// Every table with a tenant's rows, found in the catalog so that no table to come is forgotten. `api_keys` is
/// closed altogether.
async fn tenant_tables(fleet: &Fleet) -> Vec<String> {
    let tables: String = fleet
        .scalar(
            "select string_agg(table_name::text, ',' order by table_name) from information_schema.columns
             where table_schema = 'public' and column_name = 'tenant_id' and table_name <> 'api_keys'",
        )
        .await;
    tables.split(',').map(str::to_owned).collect()
}

async fn as_tenant(fleet: &Fleet, tenant: Option<TenantId>) -> PgConnection {
    let mut connection = PgConnection::connect(&fleet.api_database()).await.expect("the role may connect");
    if let Some(tenant) = tenant {
        sqlx::query("select set_config('gantry.tenant', $1, false)")
            .bind(tenant.to_string())
            .execute(&mut connection)
            .await
            .expect("set");
    }
    connection
}

async fn owners(connection: &mut PgConnection, table: &str) -> Vec<Option<Uuid>> {
    let sql = format!("select distinct tenant_id from {table} order by tenant_id");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.expect("the role may read it")
}

fn sqlstate(error: sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).expect("refused by Postgres").into_owned()
}

#[tokio::test]
async fn rows_are_seen_by_their_tenant_alone() {
    let (fleet, tenant, other) = two_tenants().await;
    let tables = tenant_tables(&fleet).await;
    assert!(tables.len() >= 10, "{tables:?}");
    let mut nobody = as_tenant(&fleet, None).await;
    let mut somebody = as_tenant(&fleet, Some(TenantId::new())).await;
    for table in &tables {
        // Hosts without an owner are everybody's.
        let shared: Vec<Option<Uuid>> = if table == "executor_hosts" { vec![None] } else { vec![] };
        assert_eq!(owners(&mut nobody, table).await, shared, "{table} without a tenant");
        assert_eq!(owners(&mut somebody, table).await, shared, "{table} with a tenant that has nothing");
        for own in [tenant, other] {
            let mut connection = as_tenant(&fleet, Some(own)).await;
            let expected: Vec<Option<Uuid>> = [vec![Some(own.uuid())], shared.clone()].concat();
            assert_eq!(owners(&mut connection, table).await, expected, "{table} with its tenant");
        }
    }
    let seen = async |connection: &mut PgConnection| -> Vec<Uuid> {
        sqlx::query_scalar("select id from tenants").fetch_all(connection).await.expect("may be read")
    };
    assert!(seen(&mut nobody).await.is_empty());
    assert_eq!(seen(&mut as_tenant(&fleet, Some(tenant)).await).await, [tenant.uuid()]);
}

#[tokio::test]
async fn keys_cannot_be_read() {
    let (fleet, tenant, _) = two_tenants().await;
    let mut connection = as_tenant(&fleet, Some(tenant)).await;
    let refused = sqlx::query("select * from api_keys").fetch_all(&mut connection).await.expect_err("refused");
    assert_eq!(sqlstate(refused), "42501");
    let refused = sqlx::query("select key_hash from api_keys limit 0").execute(&mut connection).await;
    assert_eq!(sqlstate(refused.expect_err("refused")), "42501");
}

/// It names jobs of every tenant.
#[tokio::test]
async fn the_outbox_takes_what_names_own_jobs_and_shows_nothing() {
    let (fleet, tenant, other) = two_tenants().await;
    let mut connection = as_tenant(&fleet, Some(tenant)).await;
    let job = async |owner: TenantId| -> Uuid {
        let mut connection = as_tenant(&fleet, Some(owner)).await;
        sqlx::query_scalar("select id from container_jobs").fetch_one(&mut connection).await.expect("a job")
    };
    let (own, others) = (job(tenant).await, job(other).await);
    let mut insert = async |jobs: Vec<Uuid>| {
        let sql = "insert into outbox (id, jobs, sequences)
            select gen_random_uuid(), $1::uuid[], array_fill(7, array[cardinality($1::uuid[])])";
        sqlx::query(sql).bind(jobs).execute(&mut connection).await
    };
    for jobs in [vec![others], vec![own, others]] {
        assert_eq!(sqlstate(insert(jobs).await.expect_err("refused")), "42501");
    }
    insert(vec![own]).await.expect("its own");
    for sql in ["select id from outbox", "update outbox set created_at = now()", "delete from outbox"] {
        let refused = sqlx::query(sql).execute(&mut connection).await.expect_err(sql);
        assert_eq!(sqlstate(refused), "42501", "{sql}");
    }
}

#[tokio::test]
async fn nothing_is_written_for_another_tenant() {
    let (fleet, tenant, other) = two_tenants().await;
    let mut connection = as_tenant(&fleet, Some(tenant)).await;
    let insert =
        "insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by)
         values (gen_random_uuid(), $1, $2, 'mock', 'n', 'r', 'c')";
    let project = async |owner: TenantId| -> Uuid {
        let mut connection = as_tenant(&fleet, Some(owner)).await;
        sqlx::query_scalar("select id from projects").fetch_one(&mut connection).await.expect("a project")
    };
    let (own_project, other_project) = (project(tenant).await, project(other).await);
    let mut write = async |owner: TenantId, project: Uuid| {
        sqlx::query(insert).bind(owner.uuid()).bind(project).execute(&mut connection).await
    };
    // Where the row is another's, and where only its project is, or is nobody's.
    for (owner, project) in [(other, other_project), (tenant, other_project), (tenant, Uuid::now_v7())] {
        assert_eq!(sqlstate(write(owner, project).await.expect_err("refused")), "42501");
    }
    write(tenant, own_project).await.expect("its own");

    let changed = sqlx::query("update container_jobs set cancel_requested_at = now() where tenant_id = $1")
        .bind(other.uuid())
        .execute(&mut connection)
        .await
        .expect("may update");
    assert_eq!(changed.rows_affected(), 0);
    for (moved, to) in [("tenant_id", other.uuid()), ("project_id", other_project)] {
        let sql = format!("update container_jobs set {moved} = $1");
        let refused = sqlx::query(AssertSqlSafe(sql)).bind(to).execute(&mut connection).await.expect_err(moved);
        assert_eq!(sqlstate(refused), "42501", "{moved}");
    }
    for sql in [
        "delete from container_jobs",
        "update container_executions set exit_code = 0",
        "insert into tenants (id, name) values (gen_random_uuid(), 'x')",
        "update fleet set id = gen_random_uuid()",
        "create table t ()",
    ] {
        let refused = sqlx::query(sql).execute(&mut connection).await.expect_err(sql);
        assert_eq!(sqlstate(refused), "42501", "{sql}");
    }
    // Hosts are an operator's: a tenant's own key changes none, not even its own.
    let changed =
        sqlx::query("update executor_hosts set weight = 2").execute(&mut connection).await.expect("may update");
    assert_eq!(changed.rows_affected(), 0);
}

/// The same through the API: another tenant's job is not there.
#[tokio::test]
async fn another_tenants_job_is_not_there() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    fleet.other_tenant("globex").await;
    let (_api, client) = fleet.api().await;
    let other = client.with_key(Some("globex"));
    let id = client.submit(&jobs::mock(&[("duration", "1s")])).await;
    for path in [format!("/v1/jobs/{id}"), format!("/v1/jobs/{id}/logs"), format!("/v1/jobs/{id}?wait=1s")] {
        let answer = other.get(&path).await;
        assert_eq!((answer.status, answer.body["code"].as_str()), (404, Some("not_found")), "{answer:?}");
    }
    assert_eq!(other.cancel(id).await.status, 404);
    assert_eq!(other.get("/v1/jobs").await.body["jobs"], serde_json::json!([]));
    fleet.all_complete(&[id]).await;
}
