//! Every kind of drift is named, and nothing else is.

use std::future::Future;

use gantry_store::validate::{self, Drift, Kind, validate};
use gantry_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("the role may connect");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn drift_after(mutation: &str) -> Vec<Drift> {
    let db = TestDb::create().await;
    execute(&db.owner_url(), mutation).await;
    validate(&db.owner_url()).await.expect("comparable")
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Missing,
    Unexpected,
    Different,
}

fn summary(drifts: &[Drift]) -> Vec<(Kind, &str, Verdict)> {
    let verdict = |drift: &Drift| match (&drift.expected, &drift.found) {
        (_, None) => Verdict::Missing,
        (None, _) => Verdict::Unexpected,
        _ => Verdict::Different,
    };
    drifts.iter().map(|drift| (drift.kind, drift.name.as_str(), verdict(drift))).collect()
}

macro_rules! mutations {
    ($($test:ident: $sql:literal => $(($kind:ident, $name:literal, $verdict:ident)),+;)+) => {$(
        #[tokio::test]
        async fn $test() {
            let drifts = drift_after($sql).await;
            assert_eq!(summary(&drifts), [$((Kind::$kind, $name, Verdict::$verdict)),+], "{drifts:#?}");
        }
    )+};
}

mutations! {
    a_dropped_table: "drop table job_events" => (Table, "job_events", Missing);
    an_added_table: "create table notes (id integer primary key)" => (Table, "notes", Unexpected);
    an_unlogged_table: "alter table idempotency_keys set unlogged" => (Table, "idempotency_keys", Different);
    a_storage_parameter: "alter table workers reset (fillfactor)" => (Table, "workers", Different);
    an_added_view: "create view everything as select * from container_jobs" => (Table, "everything", Unexpected);
    an_added_column: "alter table tenants add column note text" => (Column, "tenants.note", Unexpected);
    a_dropped_column: "alter table tenants drop column created_at" => (Column, "tenants.created_at", Missing);
    a_changed_type: "alter table workers alter column name type varchar(10)" => (Column, "workers.name", Different);
    a_changed_default: "alter table workers alter column started_at set default 'epoch'" => (Column, "workers.started_at", Different);
    a_dropped_default: "alter table workers alter column started_at drop default" => (Column, "workers.started_at", Different);
    another_compression: "alter table container_log_chunks alter column data set compression default"
        => (Column, "container_log_chunks.data", Different);
    a_dropped_not_null: "alter table workers alter column version drop not null" => (Column, "workers.version", Different);
    a_dropped_check: "alter table tenants drop constraint tenants_name_length" => (Constraint, "tenants.tenants_name_length", Missing);
    a_dropped_foreign_key: "alter table container_jobs drop constraint container_jobs_template"
        => (Constraint, "container_jobs.container_jobs_template", Missing);
    a_dropped_primary_key: "alter table worker_hosts drop constraint worker_hosts_pkey"
        => (Constraint, "worker_hosts.worker_hosts_pkey", Missing);
    a_constraint_made_anew_unchecked: "alter table tenants drop constraint tenants_name_length;
        alter table tenants add constraint tenants_name_length check (char_length(name) between 1 and 255) not valid"
        => (Constraint, "tenants.tenants_name_length", Different);
    a_dropped_index: "drop index container_jobs_line" => (Index, "container_jobs_line", Missing);
    an_index_without_its_predicate: "drop index schedules_due; create index schedules_due on schedules (next_due_at)"
        => (Index, "schedules_due", Different);
    an_added_label: "alter type job_status add value 'paused'" => (Type, "job_status", Different);
    a_label_in_another_place: "alter type log_stream rename value 'stdout' to 'x';
        alter type log_stream rename value 'stderr' to 'stdout'; alter type log_stream rename value 'x' to 'stderr'"
        => (Type, "log_stream", Different);
    an_added_type: "create type mood as enum ('calm')" => (Type, "mood", Unexpected);
    a_dropped_policy: "drop policy tenant on container_jobs" => (Policy, "container_jobs.tenant", Missing);
    an_altered_policy: "alter policy tenant on container_jobs using (true)" => (Policy, "container_jobs.tenant", Different);
    a_policy_for_everybody: "alter policy fleet on job_events to public" => (Policy, "job_events.fleet", Different);
    row_security_disabled: "alter table container_jobs disable row level security" => (RowSecurity, "container_jobs", Different);
    row_security_not_forced: "alter table container_jobs no force row level security" => (RowSecurity, "container_jobs", Different);
    a_revoked_grant: "revoke update on container_jobs from gantry_api" => (Grant, "UPDATE on container_jobs to gantry_api", Missing);
    an_added_grant: "grant select on api_keys to gantry_api" => (Grant, "SELECT on api_keys to gantry_api", Unexpected);
    a_grant_that_may_be_passed_on: "grant select on fleet to gantry_api with grant option"
        => (Grant, "SELECT on fleet to gantry_api", Different);
    a_grant_on_a_column: "grant update (name) on tenants to gantry_api" => (Grant, "UPDATE on tenants.name to gantry_api", Unexpected);
    a_function_for_everybody: "grant execute on function gantry_authenticate(bytea) to public"
        => (Grant, "EXECUTE on gantry_authenticate(hash bytea) to PUBLIC", Unexpected);
    a_revoked_function: "revoke execute on function gantry_authenticate(bytea) from gantry_api"
        => (Grant, "EXECUTE on gantry_authenticate(hash bytea) to gantry_api", Missing);
    a_revoked_schema: "revoke usage on schema public from gantry_api" => (Grant, "USAGE on schema public to gantry_api", Missing);
    an_added_trigger: "create trigger quiet before update on tenants for each row execute function suppress_redundant_updates_trigger()"
        => (Trigger, "tenants.quiet", Unexpected);
    a_dropped_trigger: "drop trigger projects_stay on projects" => (Trigger, "projects.projects_stay", Missing);
    a_changed_function: "create or replace function gantry_tenant() returns uuid language sql stable as $$ select null::uuid $$"
        => (Function, "gantry_tenant()", Different);
    a_function_with_another_search_path: "alter function gantry_authenticate(bytea) reset search_path"
        => (Function, "gantry_authenticate(hash bytea)", Different);
    an_added_function: "create function two() returns integer language sql as 'select 2'" => (Function, "two()", Unexpected);
    two_at_once: "drop index tenants_name; alter table tenants add column note text"
        => (Column, "tenants.note", Unexpected), (Index, "tenants_name", Missing);
}

/// The scratch databases of one role: other tests make theirs beside this one.
async fn scratch_databases_of(url: &str, role: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("the role may connect");
    sqlx::query_scalar(
        "select count(*) from pg_database where datname like 'gantry\\_validate\\_%' and pg_get_userbyid(datdba) = $1",
    )
    .bind(role)
    .fetch_one(&mut connection)
    .await
    .expect("answers")
}

/// Runs `check` with the address of `db` for a new role with these attributes.
async fn as_role<F: Future<Output = ()>>(db: &TestDb, attributes: &str, check: impl FnOnce(String, String) -> F) {
    let owner = db.owner_url();
    // Roles are the whole server's: the database's unique name keeps this one apart.
    let role = owner.rsplit('/').next().expect("it has a path").replace("gantry_test_", "validator_");
    execute(&owner, &format!("create role {role} login {attributes}")).await;
    let (_, place) = owner.split_once('@').expect("it names the superuser");
    check(format!("postgres://{role}@{place}"), role.clone()).await;
    execute(&owner, &format!("drop role {role}")).await;
}

#[tokio::test]
async fn what_the_migration_makes_has_no_drift_whoever_looks_and_nothing_is_left_behind() {
    let db = TestDb::create().await;
    execute(&db.owner_url(), "create extension btree_gist; create extension pg_trgm").await;
    assert_eq!(validate(&db.owner_url()).await.expect("comparable"), []);
    as_role(&db, "createdb createrole", async |url, role| {
        assert_eq!(validate(&url).await.expect("comparable"), []);
        assert_eq!(scratch_databases_of(&url, &role).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_schema_made_anew_has_no_drift() {
    let db = TestDb::create().await;
    gantry_store::schema::reset(&db.owner_url()).await.expect("resets");
    assert_eq!(validate(&db.owner_url()).await.expect("comparable"), []);
}

#[tokio::test]
async fn a_database_without_the_schema_lacks_each_table_and_each_of_their_parts_is_told_with_them() {
    let drifts = drift_after("drop schema public cascade; create schema public").await;
    let lacks = |kind, name: &str| drifts.iter().any(|d| d.kind == kind && d.name == name && d.found.is_none());
    assert!(
        lacks(Kind::Table, "container_jobs")
            && lacks(Kind::Type, "job_status")
            && lacks(Kind::Function, "gantry_tenant()")
    );
    assert!(drifts.iter().all(|drift| !matches!(drift.kind, Kind::Column | Kind::Index | Kind::Policy)), "{drifts:#?}");
}

#[tokio::test]
async fn a_role_that_may_not_create_databases_is_told_what_to_do() {
    let db = TestDb::create().await;
    as_role(&db, "nocreatedb", async |url, role| {
        let error = validate(&url).await.expect_err("may not");
        assert!(matches!(&error, validate::Error::MayNotCreateDatabase { role: named } if *named == role), "{error}");
        assert!(error.to_string().contains(&format!("ALTER ROLE \"{role}\" CREATEDB")), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_reference_that_cannot_be_made_leaves_no_database_behind() {
    let db = TestDb::create().await;
    as_role(&db, "createdb nocreaterole", async |url, role| {
        let error = validate(&url).await.expect_err("the migration makes roles");
        assert!(matches!(error, validate::Error::Reference(_)), "{error}");
        assert_eq!(scratch_databases_of(&url, &role).await, 0);
    })
    .await;
}
