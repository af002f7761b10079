//! Schedules on a real Postgres: each due time is decided about once, whoever tries and whatever fails in between.

use std::cell::Cell;

use chrono::{DateTime, Duration, DurationRound, Utc};
use gantry_core::problem::{Code, Problem};
use gantry_core::schedule::{Calendar, Missed, Outcome, Overlap, plan};
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::admission::{Idempotency, KeySource, NewJob};
use gantry_store::firing::{self, Decided, Firing, MAX_WAITING, Release, Step};
use gantry_store::schedule_runs::{self, Ready};
use gantry_store::schedules::{self, NewSchedule, ScheduleView};
use gantry_store::{Config, Scope, Store, templates, tenants};
use gantry_testkit::TestDb;
use serde_json::json;
use sqlx::PgPool;

/// More than any test here makes.
const ALL: i64 = 10_000;
const MINUTE: Duration = Duration::minutes(1);

struct Lab {
    store: Store,
    pool: PgPool,
    tenant: TenantId,
    project: gantry_core::ProjectId,
    /// What the dispatchers take for the present: a test may last over the end of a minute.
    now: Cell<DateTime<Utc>>,
    db: TestDb,
}

impl Lab {
    async fn new() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let pool = PgPool::connect(&db.owner_url()).await.expect("connected");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let name = (tenant, tenants::DEFAULT_PROJECT.to_owned());
        let projects = templates::projects(&store, Scope::Fleet, std::slice::from_ref(&name)).await.expect("read");
        Self { project: projects[&name], store, pool, tenant, now: Cell::default(), db }
    }

    /// Another process.
    fn other(&self) -> Store {
        Store::new(&Config::new(self.db.fleet_url()), "test").expect("an address")
    }

    async fn put(&self, name: &str, missed: Missed, overlap: Overlap) {
        self.put_as(name, "* * * * *", missed, overlap).await;
    }

    async fn put_as(&self, name: &str, cron: &str, missed: Missed, overlap: Overlap) -> bool {
        let calendar = Calendar::parse(cron, "UTC").expect("valid");
        let new = NewSchedule {
            tenant: self.tenant,
            name,
            cron,
            time_zone: "UTC",
            calendar: &calendar,
            submission: &json!({ "spec": { "image": "i" } }),
            missed,
            overlap,
            created_by: "test",
        };
        schedules::put(&self.store, Scope::Fleet, &new).await.expect("stored")
    }

    async fn get(&self, name: &str) -> ScheduleView {
        schedules::get(&self.store, Scope::Fleet, name).await.expect("read").expect("a schedule")
    }

    /// Makes every schedule due since so many `units` ago, at a whole one; it is half a unit later then.
    async fn due_since(&self, ago: i32, unit: Duration) -> DateTime<Utc> {
        let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&self.pool).await.expect("a time");
        let whole = now.duration_trunc(unit).expect("a time");
        self.now.set(whole + unit / 2);
        let due = whole - unit * ago;
        sqlx::query("update schedules set next_due_at = $1").bind(due).execute(&self.pool).await.expect("set");
        due
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("a count")
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.expect("executed");
    }

    async fn outcomes(&self, name: &str) -> Vec<Outcome> {
        let id = self.get(name).await.id;
        let runs = schedule_runs::list(&self.store, Scope::Fleet, id, None, ALL).await.expect("read");
        runs.into_iter().rev().map(|run| run.outcome).collect()
    }

    fn job(&self, ready: &Ready, at: DateTime<Utc>) -> NewJob {
        NewJob {
            id: JobId::new(),
            tenant: ready.tenant,
            project: self.project,
            name: ready.name.clone(),
            template: None,
            spec: serde_json::from_value(json!({ "image": "i", "timeout_seconds": 60 })).expect("a spec"),
            executor_type: ExecutorType::Mock,
            preferred_executor: None,
            routing_reason: "the test says so".to_owned(),
            routing: Default::default(),
            override_command: None,
            override_environment: Default::default(),
            priority: 0,
            not_before: None,
            queue_timeout_seconds: None,
            idempotency: Some(Idempotency {
                source: KeySource::Key,
                key: format!("{}:{at}", ready.schedule),
                body_hash: [7; 32],
            }),
            created_by: format!("schedule:{}", ready.schedule),
            schedule: Some(ready.schedule),
            at_once: false,
            concurrency_key: None,
        }
    }

    fn step(&self, ready: &Ready) -> Step {
        let calendar = Calendar::parse(&ready.cron, &ready.time_zone).expect("valid");
        let plan = plan(&calendar, ready.missed, ready.due_at, self.now.get(), 200);
        Step {
            schedule: ready.schedule,
            tenant: ready.tenant,
            revision: ready.revision,
            from: ready.due_at,
            due: plan.due.into_iter().map(|at| Firing { at, job: Ok(self.job(ready, at)) }).collect(),
            skipped: plan.skipped,
            next: plan.next,
        }
    }

    /// What a dispatcher would do about what is due.
    async fn steps(&self) -> Vec<Step> {
        let ready = schedule_runs::due(&self.store, ALL).await.expect("read");
        ready.iter().map(|ready| self.step(ready)).collect()
    }

    async fn fire(&self) -> Vec<Decided> {
        firing::fire(&self.store, &self.steps().await).await.expect("fired")
    }

    async fn release(&self) -> Vec<Decided> {
        let ready = schedule_runs::waiting(&self.store, ALL).await.expect("read");
        firing::release(&self.store, &self.releases(&ready)).await.expect("released")
    }

    fn releases(&self, ready: &[Ready]) -> Vec<Release> {
        let release = |ready: &Ready| Release {
            schedule: ready.schedule,
            tenant: ready.tenant,
            revision: ready.revision,
            firing: Firing { at: ready.due_at, job: Ok(self.job(ready, ready.due_at)) },
        };
        ready.iter().map(release).collect()
    }

    async fn end_all_jobs(&self) {
        self.execute(
            "update container_jobs set status = 'cancelled', failure_class = 'cancelled', completed_at = now(),
                waiting_reason = null, parked_until = null, dispatched_at = null
             where status = 'pending'",
        )
        .await;
    }
}

#[tokio::test]
async fn three_dispatchers_make_one_job_for_each_of_500_due_times() {
    let lab = Lab::new().await;
    for index in 0..500 {
        lab.put(&format!("s{index:03}"), Missed::One, Overlap::Allow).await;
    }
    lab.due_since(0, MINUTE).await;
    // All of them have prepared the same, and try it at once.
    let steps = lab.steps().await;
    assert_eq!(steps.len(), 500);
    let others = [lab.other(), lab.other(), lab.other()];
    let dispatcher = async |store: &Store| {
        let mut decided = 0;
        for some in steps.chunks(50) {
            decided += firing::fire(store, some).await.expect("fired").len();
        }
        decided
    };
    let (a, b, c) = tokio::join!(dispatcher(&others[0]), dispatcher(&others[1]), dispatcher(&others[2]));
    assert_eq!(a + b + c, 500);
    assert_eq!(lab.count("select count(*) from container_jobs").await, 500);
    assert_eq!(
        lab.count("select count(distinct schedule_id) from schedule_runs where outcome = 'submitted'").await,
        500
    );
    assert_eq!(
        lab.count("select count(*) from schedules where next_due_at > now() and last_job_id is not null").await,
        500
    );
    assert_eq!(lab.count("select count(*) from schedule_runs r join container_jobs j on j.id = r.job_id and j.schedule_id = r.schedule_id").await, 500);
    assert!(schedule_runs::due(&lab.store, ALL).await.expect("read").is_empty());
}

#[tokio::test]
async fn a_transaction_that_fails_neither_loses_nor_doubles() {
    let lab = Lab::new().await;
    lab.put("s", Missed::One, Overlap::Allow).await;
    let due = lab.due_since(0, MINUTE).await;
    // The last statement fails, behind everything that was written.
    lab.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '23514'; end $$;
         create trigger refuse before update on schedules for each row execute function refuse()",
    )
    .await;
    let steps = lab.steps().await;
    let error = firing::fire(&lab.store, &steps).await.expect_err("refused");
    assert!(!error.is_transient(), "{error}");
    assert_eq!((lab.count("select count(*) from container_jobs").await, lab.outcomes("s").await), (0, vec![]));
    assert_eq!(lab.get("s").await.next_due_at, Some(due));
    lab.execute("drop trigger refuse on schedules").await;

    let decided = firing::fire(&lab.store, &steps).await.expect("fired");
    assert_eq!((decided.len(), decided[0].at, decided[0].outcome), (1, due, Outcome::Submitted));
    // Its reply was lost, and it is tried again; then somebody even turns the schedule back.
    assert!(firing::fire(&lab.store, &steps).await.expect("fired").is_empty());
    sqlx::query("update schedules set next_due_at = $1").bind(due).execute(&lab.pool).await.expect("set");
    assert!(lab.fire().await.is_empty());
    assert_eq!((lab.count("select count(*) from container_jobs").await, lab.outcomes("s").await.len()), (1, 1));
    assert!(lab.get("s").await.next_due_at > Some(due), "it goes on");
}

#[tokio::test]
async fn missed_due_times_go_by_policy() {
    let lab = Lab::new().await;
    for missed in [Missed::Skip, Missed::One, Missed::All] {
        lab.put_as(&missed.to_string(), "0 * * * *", missed, Overlap::Allow).await;
    }
    lab.due_since(3, Duration::hours(1)).await;
    lab.fire().await;
    assert_eq!(lab.outcomes("skip").await, [Outcome::SkippedMissed]);
    assert_eq!(lab.outcomes("one").await, [Outcome::SkippedMissed, Outcome::Submitted]);
    assert_eq!(lab.outcomes("all").await, [Outcome::Submitted; 4]);
    let skipped = lab.get("skip").await;
    assert_eq!((skipped.last_job, skipped.last_error), (None, None));
    assert!(skipped.next_due_at.is_some_and(|next| next > skipped.read_at));
}

#[tokio::test]
async fn overlap_skip_makes_no_job_beside_an_open_one() {
    let lab = Lab::new().await;
    lab.put("s", Missed::All, Overlap::Skip).await;
    lab.due_since(2, MINUTE).await;
    lab.fire().await;
    let [first, rest @ ..] = &lab.outcomes("s").await[..] else { panic!("nothing was decided") };
    assert_eq!((first, rest), (&Outcome::Submitted, &[Outcome::SkippedOverlap; 2][..]));
    lab.execute("delete from schedule_runs").await;
    lab.due_since(0, MINUTE).await;
    lab.fire().await;
    assert_eq!(lab.outcomes("s").await, [Outcome::SkippedOverlap]);
    lab.end_all_jobs().await;
    lab.execute("delete from schedule_runs; delete from idempotency_keys").await;
    lab.due_since(0, MINUTE).await;
    lab.fire().await;
    assert_eq!(lab.outcomes("s").await, [Outcome::Submitted]);
}

#[tokio::test]
async fn overlap_queue_runs_one_after_the_other() {
    let lab = Lab::new().await;
    lab.put("s", Missed::All, Overlap::Queue).await;
    lab.due_since(2, MINUTE).await;
    lab.fire().await;
    assert_eq!(lab.outcomes("s").await, [Outcome::Submitted, Outcome::QueuedOverlap, Outcome::QueuedOverlap]);
    assert_eq!((lab.get("s").await.waiting, lab.release().await), (2, vec![]));

    for left in [1, 0] {
        lab.end_all_jobs().await;
        let ready = schedule_runs::waiting(&lab.store, ALL).await.expect("read");
        let releases = lab.releases(&ready);
        let (a, b) = (lab.other(), lab.other());
        let (a, b) = tokio::join!(firing::release(&a, &releases), firing::release(&b, &releases));
        assert_eq!(a.expect("released").len() + b.expect("released").len(), 1);
        assert_eq!(lab.get("s").await.waiting, left);
        // One is open again, so that the next one waits.
        assert_eq!(lab.release().await, []);
    }
    assert_eq!(lab.outcomes("s").await, [Outcome::Submitted; 3]);
    assert_eq!(lab.count("select count(*) from container_jobs").await, 3);
    lab.end_all_jobs().await;
    assert_eq!(lab.release().await, []);
}

#[tokio::test]
async fn no_more_than_so_many_due_times_wait() {
    let lab = Lab::new().await;
    lab.put("s", Missed::All, Overlap::Queue).await;
    lab.due_since(150, MINUTE).await;
    lab.fire().await;
    let outcomes = lab.outcomes("s").await;
    let of = |outcome| outcomes.iter().filter(|got| **got == outcome).count();
    assert_eq!((of(Outcome::Submitted), of(Outcome::QueuedOverlap)), (1, MAX_WAITING as usize));
    assert_eq!(of(Outcome::SkippedOverlap), outcomes.len() - 101);
    // What waits goes with the schedule.
    assert!(schedules::delete(&lab.store, Scope::Fleet, "s").await.expect("deleted"));
    assert_eq!(lab.count("select count(*) from schedule_runs where outcome = 'queued_overlap'").await, 0);
    assert!(lab.count("select count(*) from schedule_runs").await > 0);
}

#[tokio::test]
async fn a_refused_submission_is_told_and_stops_no_other() {
    let lab = Lab::new().await;
    lab.put("bad", Missed::One, Overlap::Queue).await;
    lab.put("good", Missed::One, Overlap::Skip).await;
    lab.put("taken", Missed::One, Overlap::Allow).await;
    lab.due_since(0, MINUTE).await;
    let gone = Problem::field(Code::UnknownTemplate, "template", "there is no template `t`");
    let mut steps = lab.steps().await;
    let ids = [lab.get("bad").await.id, lab.get("taken").await.id];
    for firing in steps.iter_mut().filter(|step| step.schedule == ids[0]).flat_map(|step| &mut step.due) {
        firing.job = Err(gone.clone());
    }
    // Somebody used the key for something else.
    let taken =
        steps.iter().find(|step| step.schedule == ids[1]).and_then(|step| step.due[0].job.clone().ok()).expect("a job");
    let other = Idempotency { body_hash: [8; 32], ..taken.idempotency.clone().expect("a key") };
    let other = NewJob { id: JobId::new(), idempotency: Some(other), schedule: None, ..taken };
    gantry_store::admission::insert(&lab.store, Scope::Fleet, &[other]).await.expect("stored");

    assert_eq!(firing::fire(&lab.store, &steps).await.expect("fired").len(), 3);
    assert_eq!(lab.outcomes("good").await, [Outcome::Submitted]);
    assert_eq!(
        (lab.outcomes("bad").await, lab.outcomes("taken").await),
        (vec![Outcome::Refused], vec![Outcome::Refused])
    );
    let bad = lab.get("bad").await;
    assert_eq!((bad.last_error.as_deref(), bad.last_job), (Some(gone.to_string().as_str()), None));
    assert!(bad.next_due_at > Some(bad.read_at), "it is not tried in a loop");
    assert!(lab.get("taken").await.last_error.is_some_and(|error| error.contains("key was used before")));
    // The next one that works clears it.
    lab.execute("delete from schedule_runs").await;
    lab.due_since(0, MINUTE).await;
    lab.fire().await;
    assert_eq!(lab.get("bad").await.last_error, None);
}

#[tokio::test]
async fn what_was_prepared_before_an_edit_is_dropped() {
    let lab = Lab::new().await;
    lab.put("edited", Missed::One, Overlap::Allow).await;
    lab.put("paused", Missed::One, Overlap::Allow).await;
    lab.put("deleted", Missed::One, Overlap::Allow).await;
    let due = lab.due_since(0, MINUTE).await;
    let steps = lab.steps().await;
    assert!(!lab.put_as("edited", "* * * * *", Missed::All, Overlap::Allow).await, "it was there before");
    assert!(schedules::set_paused(&lab.store, Scope::Fleet, "paused", true).await.expect("paused"));
    assert!(schedules::delete(&lab.store, Scope::Fleet, "deleted").await.expect("deleted"));
    assert!(firing::fire(&lab.store, &steps).await.expect("fired").is_empty());
    // The same calendar keeps what it waits for; a pause forgets it.
    assert_eq!(lab.get("edited").await.next_due_at, Some(due));
    assert_eq!(lab.get("paused").await.next_due_at, None);
    assert_eq!(lab.fire().await.len(), 1);
    assert!(schedules::set_paused(&lab.store, Scope::Fleet, "paused", false).await.expect("resumed"));
    let resumed = lab.get("paused").await;
    assert!(resumed.paused_at.is_none() && resumed.next_due_at > Some(resumed.read_at));
    assert!(!schedules::set_paused(&lab.store, Scope::Fleet, "nobody", true).await.expect("read"));
    // Another calendar begins anew.
    lab.due_since(60, MINUTE).await;
    lab.put_as("edited", "*/2 * * * *", Missed::All, Overlap::Allow).await;
    assert!(lab.get("edited").await.next_due_at > Some(due));
}
