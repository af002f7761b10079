//! What a dispatch touches, counted by Postgres itself: not what has left the line before.

use gantry_core::{ExecutorType, JobId};
use gantry_store::lines::{self, Ask, Entrance};
use gantry_store::windows::Windows;
use gantry_store::{Config, Store, tenants};
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
