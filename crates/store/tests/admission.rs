//! Which jobs enter the window with their admission: those that neither a limit nor a time holds back.

use gantry_core::limits::{Kind, Subject};
use gantry_core::message::WorkItem;
use gantry_core::{ExecutorType, JobId, ProjectId, TemplateId, TenantId};
use gantry_store::admission::{self, Idempotency, Inserted, KeySource, NewJob};
use gantry_store::audit::Actor;
use gantry_store::reach::Reach;
use gantry_store::{Config, Scope, Store, limits, lines, queue, tenants};
use gantry_testkit::TestDb;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const MOCK: ExecutorType = ExecutorType::Mock;

/// A tenant whose jobs all have a place in the window.
struct Lab {
    store: Store,
    sql: PgConnection,
    tenant: TenantId,
    project: ProjectId,
    db: TestDb,
}

impl Lab {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let mut sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let project: uuid::Uuid =
            sqlx::query_scalar("select id from projects").fetch_one(&mut sql).await.expect("a project");
        Self { store, sql, tenant, project: project.into(), db }
    }

    fn job(&self) -> NewJob {
        NewJob {
            id: JobId::new(),
            tenant: self.tenant,
            project: self.project,
            name: "job".to_owned(),
            template: None,
            spec: serde_json::from_value(json!({ "image": "i", "timeout_seconds": 60 })).expect("a spec"),
            executor_type: MOCK,
            preferred_executor: None,
            routing_reason: "the test says so".to_owned(),
            routing: Default::default(),
            override_command: None,
            override_environment: Default::default(),
            concurrency_key: None,
            priority: 0,
            not_before: None,
            queue_timeout_seconds: None,
            idempotency: None,
            created_by: "test".to_owned(),
            schedule: None,
            at_once: true,
        }
    }

    /// One with an idempotency key.
    fn keyed(&self, key: &str) -> NewJob {
        let key = Idempotency { source: KeySource::Key, key: key.to_owned(), body_hash: [7; 32] };
        NewJob { idempotency: Some(key), ..self.job() }
    }

    async fn insert(&self, jobs: &[NewJob]) -> Vec<Inserted> {
        admission::insert(&self.store, Scope::Fleet, jobs).await.expect("stored")
    }

    async fn limit(&self, kind: Kind, name: &str, most: Option<i32>) {
        let subject = Subject { tenant: self.tenant, kind, name: name.to_owned() };
        let actor = Actor { tenant: self.tenant, name: "test".to_owned() };
        limits::set(&self.store, Scope::Fleet, &actor, &subject, most).await.expect("stored");
    }

    async fn cap(&self, most: i32) {
        let settings = tenants::Settings { max_pending: Some(Some(most)), ..tenants::Settings::default() };
        tenants::set(&self.store, "acme", &settings).await.expect("stored").expect("a tenant");
    }

    /// The first in line.
    async fn heads(&self) -> Vec<JobId> {
        let lines = lines::standing(&self.store, MOCK).await.expect("read");
        lines.into_iter().map(|line| line.first).collect()
    }

    async fn row(&mut self, job: JobId) -> Value {
        sqlx::query_scalar("select to_jsonb(j) from container_jobs j where id = $1")
            .bind(job.uuid())
            .fetch_one(&mut self.sql)
            .await
            .expect("a job")
    }

    async fn count(&mut self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.sql).await.expect("a count")
    }

    async fn execute(&mut self, sql: String) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.sql).await.expect("executed");
    }
}

/// What the window has of a job that entered it with its admission.
fn item(job: &NewJob) -> WorkItem {
    WorkItem { job: job.id, attempt: 1, sequence: 1 }
}

fn entered(job: &NewJob) -> Inserted {
    Inserted::Dispatched(item(job))
}

#[tokio::test]
async fn a_job_with_a_place_enters_the_window_with_its_admission() {
    let mut lab = Lab::new().await;
    let jobs = [lab.job(), NewJob { at_once: false, ..lab.job() }, lab.job()];
    assert_eq!(lab.insert(&jobs).await, [entered(&jobs[0]), Inserted::New(jobs[1].id), entered(&jobs[2])]);
    let row = lab.row(jobs[0].id).await;
    assert_eq!(row["status"], "pending", "{row}");
    assert_eq!((&row["dispatched_at"], &row["published_at"]), (&row["created_at"], &row["created_at"]), "{row}");
    assert_eq!((&row["publishes"], &row["dispatch_sequence"]), (&json!(1), &json!(1)), "{row}");
    assert_eq!(lab.heads().await, [jobs[1].id], "the one without a place");

    // Nobody told a worker. It is told later, with the same sequence.
    lab.execute("update container_jobs set published_at = published_at - interval '3 seconds'".to_owned()).await;
    let mut told = queue::republishable(&lab.store, MOCK, Reach::All, true, 10).await.expect("asked");
    told.sort_unstable_by_key(|item| item.job);
    assert_eq!(told, [item(&jobs[0]), item(&jobs[2])]);
}

#[tokio::test]
async fn what_a_limit_counts_stays_in_line() {
    let mut lab = Lab::new().await;
    let template = TemplateId::new();
    lab.execute(format!(
        "insert into container_templates (id, tenant_id, name, docker_image, created_by)
         values ('{template}', '{}', 'nightly', 'i', 'test')",
        lab.tenant
    ))
    .await;
    let of_the_template = NewJob { template: Some(template), ..lab.job() };
    assert_eq!(lab.insert(std::slice::from_ref(&of_the_template)).await, [entered(&of_the_template)], "no limit yet");

    lab.limit(Kind::Template, &template.to_string(), Some(100)).await;
    let jobs = [
        NewJob { template: Some(template), ..lab.job() },
        // Nobody has set a limit for it: it has one of its own.
        NewJob { concurrency_key: Some("alone".to_owned()), ..lab.job() },
        lab.job(),
    ];
    let inserted = lab.insert(&jobs).await;
    assert_eq!(inserted, [Inserted::New(jobs[0].id), Inserted::New(jobs[1].id), entered(&jobs[2])]);

    // Any number may run, and they are counted all the same.
    lab.limit(Kind::Tenant, "", None).await;
    let limited = lab.job();
    assert_eq!(lab.insert(std::slice::from_ref(&limited)).await, [Inserted::New(limited.id)]);
    let in_line = "select count(*) from container_jobs where dispatched_at is null and parked_until is null";
    assert_eq!(lab.count(in_line).await, 3);
}

#[tokio::test]
async fn what_has_a_time_to_start_at_never_enters() {
    let mut lab = Lab::new().await;
    let from = |time: &str| Some(time.parse().expect("a time"));
    let jobs = [
        NewJob { not_before: from("2999-01-01T00:00:00Z"), ..lab.job() },
        NewJob { not_before: from("2000-01-01T00:00:00Z"), ..lab.job() },
    ];
    assert_eq!(lab.insert(&jobs).await, [Inserted::New(jobs[0].id), Inserted::New(jobs[1].id)]);
    let row = lab.row(jobs[0].id).await;
    assert_eq!((&row["waiting_reason"], &row["dispatched_at"]), (&json!("not_before"), &Value::Null), "{row}");
    assert_eq!(lab.heads().await, [jobs[1].id]);
}

#[tokio::test]
async fn beyond_the_cap_nothing_enters_and_nothing_is_left() {
    let mut lab = Lab::new().await;
    lab.cap(1).await;
    let jobs = [lab.keyed("first"), lab.keyed("second")];
    assert_eq!(lab.insert(&jobs).await, [entered(&jobs[0]), Inserted::Full { cap: 1 }]);
    for rows in [
        "select count(*) from container_jobs",
        "select count(*) from container_job_specs",
        "select count(*) from idempotency_keys",
    ] {
        assert_eq!(lab.count(rows).await, 1, "{rows}");
    }
    // What is in the window still waits.
    assert_eq!(lab.insert(&[lab.keyed("second")]).await, [Inserted::Full { cap: 1 }]);
    lab.cap(2).await;
    let again = lab.keyed("second");
    assert_eq!(lab.insert(std::slice::from_ref(&again)).await, [entered(&again)]);
}

#[tokio::test]
async fn the_cap_counts_all_that_wait_wherever_they_do_and_nobody_elses() {
    let mut lab = Lab::new().await;
    lab.cap(4).await;
    let jobs = [
        lab.job(),
        NewJob { at_once: false, ..lab.job() },
        NewJob { at_once: false, executor_type: ExecutorType::Docker, ..lab.job() },
        NewJob { not_before: Some("2999-01-01T00:00:00Z".parse().expect("a time")), ..lab.job() },
    ];
    lab.insert(&jobs).await;
    assert_eq!(lab.insert(&[lab.job()]).await, [Inserted::Full { cap: 4 }], "in the window, in two lines, and parked");

    // The api's role counts the same, and only its own tenant's.
    let other = tenants::put_tenant(&lab.store, "other").await.expect("stored");
    let api = Store::new(&Config::new(lab.db.api_url()), "test").expect("an address");
    let as_tenant = Scope::Tenant { id: lab.tenant, operator: false };
    let full = admission::insert(&api, as_tenant, &[lab.job()]).await.expect("asked");
    assert_eq!(full, [Inserted::Full { cap: 4 }]);
    for (asks, counted) in [(lab.tenant, 4), (other, 0)] {
        let mut sql = PgConnection::connect(&lab.db.api_url()).await.expect("connected");
        let scope = format!("begin; set local gantry.tenant = '{asks}'");
        sqlx::raw_sql(AssertSqlSafe(scope)).execute(&mut sql).await.expect("a tenant");
        let waiting: i64 = sqlx::query_scalar("select gantry_waiting($1, 10)")
            .bind(lab.tenant.uuid())
            .fetch_one(&mut sql)
            .await
            .expect("a count");
        assert_eq!(waiting, counted);
    }

    // What ended waits no more.
    lab.execute(format!(
        "update container_jobs set status = 'cancelled', failure_class = 'cancelled', completed_at = now() where id = '{}'",
        jobs[1].id
    ))
    .await;
    let last = lab.job();
    assert_eq!(lab.insert(std::slice::from_ref(&last)).await, [entered(&last)]);
}

#[tokio::test]
async fn the_same_key_again_enters_nothing() {
    let mut lab = Lab::new().await;
    let jobs = [lab.keyed("once"), lab.keyed("once"), lab.keyed("another")];
    assert_eq!(lab.insert(&jobs).await, [entered(&jobs[0]), Inserted::Existing(jobs[0].id), entered(&jobs[2])]);
    // The submission comes again, because its answer was lost.
    assert_eq!(lab.insert(&[lab.keyed("once")]).await, [Inserted::Existing(jobs[0].id)]);
    assert_eq!(lab.count("select count(*) from container_jobs").await, 2);
}
