//! What leaves a line and in which order, what stays there, and what a dispatch touches, counted by Postgres itself: not what
//! has left the line before.

use std::collections::BTreeSet;

use gantry_core::limits::{Kind, Subject};
use gantry_core::message::WorkItem;
use gantry_core::{ExecutorType, JobId};
use gantry_store::audit::Actor;
use gantry_store::lines::{self, Ask, Entered, Entrance};
use gantry_store::windows::Windows;
use gantry_store::{Config, Scope, Store, limits, tenants};
use gantry_testkit::{TestDb, eventually};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

const EXECUTOR: ExecutorType = ExecutorType::Mock;
/// The measured store is told by this name in `pg_stat_activity`.
const MEASURED: &str = "measured";

struct Line {
    db: TestDb,
    sql: PgConnection,
    tenant: gantry_core::TenantId,
}

impl Line {
    /// A line of so many jobs of one tenant; returns its head too.
    async fn of(jobs: usize) -> (Self, JobId) {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let mut sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let ids: Vec<Uuid> = (0..jobs).map(|_| JobId::new().uuid()).collect();
        sqlx::query(
            "insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by)
             select id, $2, (select p.id from projects p where p.tenant_id = $2), 'mock', 'job', 'test', 'test' from unnest($1::uuid[]) as n(id)",
        )
        .bind(&ids)
        .bind(tenant.uuid())
        .execute(&mut sql)
        .await
        .expect("stored");
        (Self { db, sql, tenant }, ids[0].into())
    }

    fn store(&self) -> Store {
        Store::new(&Config::new(self.db.fleet_url()), "test").expect("an address")
    }

    fn ask(&self, from: JobId, jobs: usize) -> [Ask; 1] {
        [Ask { at: Entrance { tenant: self.tenant, priority: 0, from }, jobs, look: jobs }]
    }

    /// Who stands in it, in its order.
    async fn standing(&mut self) -> Vec<JobId> {
        let sql = "select id from container_jobs where dispatched_at is null and parked_until is null order by id";
        let ids: Vec<Uuid> = sqlx::query_scalar(sql).fetch_all(&mut self.sql).await.expect("ids");
        ids.into_iter().map(JobId::from).collect()
    }

    async fn limit(&self, kind: Kind, name: &str, most: Option<i32>) {
        let subject = Subject { tenant: self.tenant, kind, name: name.to_owned() };
        let actor = Actor { tenant: self.tenant, name: "test".to_owned() };
        limits::set(&self.store(), Scope::Fleet, &actor, &subject, most).await.expect("stored");
    }

    async fn has_key(&mut self, job: JobId, key: &str) {
        let sql = "update container_jobs set concurrency_key = $2 where id = $1";
        sqlx::query(sql).bind(job.uuid()).bind(key).execute(&mut self.sql).await.expect("changed");
    }

    /// Gives the job a template, and returns that one's id.
    async fn has_template(&mut self, job: JobId) -> Uuid {
        let sql = "insert into container_templates (id, tenant_id, name, docker_image, created_by)
                   select $1, tenant_id, 'template', 'image', 'test' from container_jobs where id = $1";
        sqlx::query(sql).bind(job.uuid()).execute(&mut self.sql).await.expect("stored");
        let sql = "update container_jobs set template = id where id = $1 returning template";
        sqlx::query_scalar(sql).bind(job.uuid()).fetch_one(&mut self.sql).await.expect("changed")
    }

    /// A transaction that holds its snapshot for as long as it lives: nothing that leaves an index is swept out of it.
    async fn hold_snapshot(&self) -> PgConnection {
        let mut held = PgConnection::connect(&self.db.owner_url()).await.expect("connected");
        for statement in ["begin isolation level repeatable read", "select count(*) from container_jobs"] {
            sqlx::query(statement).execute(&mut held).await.expect("a snapshot");
        }
        held
    }

    /// Entries of an index that `work` passed.
    async fn reads(&mut self, index: &str, work: impl AsyncFnOnce(&Store)) -> i64 {
        let before = self.tally(index).await;
        let store = Store::new(&Config { max_connections: 1, ..Config::new(self.db.fleet_url()) }, MEASURED);
        let store = store.expect("an address");
        work(&store).await;
        // A server process hands its counts in at its end, if not before.
        store.close().await;
        let sql = &mut self.sql;
        eventually(std::time::Duration::from_secs(20), async || {
            let left: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where application_name = $1")
                .bind(MEASURED)
                .fetch_one(&mut *sql)
                .await
                .expect("a count");
            left == 0
        })
        .await;
        self.tally(index).await - before
    }

    async fn tally(&mut self, index: &str) -> i64 {
        sqlx::query_scalar("select idx_tup_read from pg_stat_user_indexes where indexrelname = $1")
            .bind(index)
            .fetch_one(&mut self.sql)
            .await
            .expect("there is such an index")
    }
}

#[tokio::test]
async fn under_a_held_snapshot_a_dispatch_does_not_pass_what_has_left() {
    const ROUNDS: i64 = 200;
    let (mut line, head) = Line::of(2 * 10 * ROUNDS as usize).await;
    let _held = line.hold_snapshot().await;

    let tenant = line.tenant;
    let at = |from| [Ask { at: Entrance { tenant, priority: 0, from }, jobs: 10, look: 10 }];
    // As a dispatcher does: each time from where the last one ended.
    let followed = line
        .reads("container_jobs_line", async |store| {
            let mut from = head;
            for _ in 0..ROUNDS {
                let served = lines::dispatch(store, EXECUTOR, &at(from)).await.expect("dispatched").remove(0);
                assert_eq!(served.items.len(), 10);
                from = served.last.expect("jobs were found");
            }
        })
        .await;
    assert!(followed <= 12 * ROUNDS, "{followed} entries were passed for {} jobs", 10 * ROUNDS);

    // The control: whoever begins at the head passes everything that has left, every time.
    let from_the_head = line
        .reads("container_jobs_line", async |store| {
            for _ in 0..ROUNDS {
                lines::dispatch(store, EXECUTOR, &at(head)).await.expect("dispatched");
            }
        })
        .await;
    assert!(
        from_the_head > 100 * followed,
        "{from_the_head} against {followed}: no entry was kept, so this shows nothing"
    );
}

#[tokio::test]
async fn under_a_held_snapshot_the_windows_do_not_count_what_has_left() {
    let (mut line, _) = Line::of(3_000).await;
    let _held = line.hold_snapshot().await;
    // Dispatched an hour ago, and gone since.
    for statement in [
        "update container_jobs set dispatched_at = now() - interval '1 hour', published_at = now() - interval '1 hour', publishes = 1",
        "update container_jobs set status = 'cancelled', dispatched_at = null, published_at = null, completed_at = now(), failure_class = 'cancelled'",
    ] {
        sqlx::query(statement).execute(&mut line.sql).await.expect("changed");
    }
    let read = async |store: &Store, times: usize| {
        let mut windows = Windows::default();
        for _ in 0..times {
            assert!(windows.read(store).await.expect("read").is_empty(), "there is no host");
        }
    };
    let once = line.reads("container_jobs_window", async |store| read(store, 1).await).await;
    assert!(once >= 3_000, "{once}: no entry was kept, so this shows nothing");
    // The whole is not looked at again until it was left alone for many times as long.
    let five_times = line.reads("container_jobs_window", async |store| read(store, 5).await).await;
    assert!(five_times < 2 * once, "{five_times} against {once}");
}

/// What is published of jobs that entered the window for the first time.
fn items(jobs: &[JobId]) -> Vec<WorkItem> {
    jobs.iter().map(|job| WorkItem { job: *job, attempt: 1, sequence: 1 }).collect()
}

fn jobs(items: &[WorkItem]) -> Vec<JobId> {
    items.iter().map(|item| item.job).collect()
}

#[tokio::test]
async fn those_enter_who_stand_behind_the_entrance_in_the_order_of_their_line() {
    let (mut line, _) = Line::of(5).await;
    let (store, ids) = (line.store(), line.standing().await);
    let ask = line.ask(ids[1], 3);
    let first = lines::enter(&store, EXECUTOR, &ask).await.expect("moved");
    assert_eq!(first, Entered { items: items(&ids[1..4]), limited: BTreeSet::new() });
    assert_eq!(line.standing().await, [ids[0], ids[4]]);
    // Those who were named have left: others of their line go.
    let second = lines::enter(&store, EXECUTOR, &ask).await.expect("moved");
    assert_eq!(second, Entered { items: items(&ids[4..]), limited: BTreeSet::new() });
    assert_eq!(lines::enter(&store, EXECUTOR, &ask).await.expect("moved"), Entered::default(), "nobody is there");
    assert_eq!(line.standing().await, [ids[0]]);
}

#[tokio::test]
async fn who_is_held_by_another_is_skipped_and_nobody_enters_twice() {
    let (mut line, _) = Line::of(3).await;
    let (store, ids) = (line.store(), line.standing().await);
    let mut held = PgConnection::connect(&line.db.owner_url()).await.expect("connected");
    sqlx::query("begin").execute(&mut held).await.expect("begun");
    let lock = "select 1 from container_jobs where id = $1 for no key update";
    sqlx::query(lock).bind(ids[0].uuid()).execute(&mut held).await.expect("locked");
    let others = lines::enter(&store, EXECUTOR, &line.ask(ids[0], 3)).await.expect("moved");
    assert_eq!(others, Entered { items: items(&ids[1..]), limited: BTreeSet::new() });
    sqlx::query("rollback").execute(&mut held).await.expect("given back");

    let ask = line.ask(ids[0], 1);
    let both = tokio::join!(lines::enter(&store, EXECUTOR, &ask), lines::enter(&store, EXECUTOR, &ask));
    let moved = [both.0, both.1].map(|entered| entered.expect("moved").items);
    assert_eq!(moved.concat(), items(&ids[..1]), "one of two dispatchers has it");
}

/// Others of its line may be parked for the limit, whether it has room now or not.
#[tokio::test]
async fn what_a_limit_counts_does_not_enter_at_once() {
    let (mut line, _) = Line::of(5).await;
    let (store, ids, limited) = (line.store(), line.standing().await, BTreeSet::from([line.tenant]));
    // Not of itself: its first claim makes the row.
    line.has_key(ids[1], "key").await;
    let template = line.has_template(ids[3]).await;
    line.limit(Kind::Template, &template.to_string(), None).await;
    let entered = lines::enter(&store, EXECUTOR, &line.ask(ids[0], 4)).await.expect("moved");
    assert_eq!(entered, Entered { items: items(&[ids[0], ids[2]]), limited: limited.clone() });
    line.limit(Kind::Tenant, "", Some(9)).await;
    let entered = lines::enter(&store, EXECUTOR, &line.ask(ids[0], 4)).await.expect("moved");
    assert_eq!(entered, Entered { items: Vec::new(), limited });
    assert_eq!(line.standing().await, [ids[1], ids[3], ids[4]]);
}

#[tokio::test]
async fn limits_with_room_change_no_order_and_without_it_only_their_own_are_parked() {
    let (mut line, _) = Line::of(6).await;
    let (store, ids) = (line.store(), line.standing().await);
    line.has_key(ids[1], "open").await;
    line.has_key(ids[2], "full").await;
    line.has_key(ids[4], "new").await;
    line.limit(Kind::Key, "open", Some(1)).await;
    line.limit(Kind::Key, "full", Some(0)).await;
    let served = lines::dispatch(&store, EXECUTOR, &line.ask(ids[0], 5)).await.expect("dispatched").remove(0);
    assert_eq!(served.items, items(&[ids[0], ids[1], ids[3], ids[4]]));
    assert_eq!((served.parked, served.last, served.is_empty), (1, Some(ids[4]), false));
    assert_eq!(line.standing().await, [ids[5]]);
}

/// Of a line of which many were held back more is looked at than is wanted.
#[tokio::test]
async fn no_more_leave_than_are_wanted() {
    let (mut line, _) = Line::of(6).await;
    let (store, ids) = (line.store(), line.standing().await);
    line.has_key(ids[0], "full").await;
    line.limit(Kind::Key, "full", Some(0)).await;
    let [ask] = line.ask(ids[0], 2);
    let served = lines::dispatch(&store, EXECUTOR, &[Ask { look: 5, ..ask }]).await.expect("dispatched").remove(0);
    assert_eq!((jobs(&served.items), served.parked, served.is_empty), (ids[1..3].to_vec(), 1, false));
    assert_eq!(line.standing().await, ids[3..]);
}
