//! What Postgres holds, read as its owner and not through Gantry.

use gantry_core::HostId;
use gantry_core::JobId;
use gantry_testkit::{eventually, eventually_some};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{Fleet, PATIENCE};

impl Fleet {
    /// A job's row, with its columns by name.
    pub async fn job(&self, id: JobId) -> Value {
        sqlx::query_scalar("select to_jsonb(j) from container_jobs j where id = $1")
            .bind(id.uuid())
            .fetch_one(&self.pool)
            .await
            .expect("a job")
    }

    /// The rows of a job's attempts, first to last.
    pub async fn attempts(&self, id: JobId) -> Vec<Value> {
        sqlx::query_scalar("select to_jsonb(e) from container_executions e where job_id = $1 order by attempt")
            .bind(id.uuid())
            .fetch_all(&self.pool)
            .await
            .expect("attempts")
    }

    /// Everything that one stream of an attempt printed.
    pub async fn log(&self, id: JobId, attempt: i32, stream: &str) -> Vec<u8> {
        let chunks: Vec<Vec<u8>> = sqlx::query_scalar(
            "select data from container_log_chunks
             where job_id = $1 and attempt = $2 and stream = $3::log_stream order by byte_offset",
        )
        .bind(id.uuid())
        .bind(attempt)
        .bind(stream)
        .fetch_all(&self.pool)
        .await
        .expect("chunks");
        chunks.concat()
    }

    /// The stored chunks of one stream of the first attempt, in the order in which they were stored: where each begins,
    /// how many bytes were left out right before it, and its bytes.
    pub async fn chunks(&self, id: JobId, stream: &str) -> Vec<(i64, i64, Vec<u8>)> {
        sqlx::query_as(
            "select byte_offset, omitted_bytes, data from container_log_chunks
             where job_id = $1 and attempt = 1 and stream = $2::log_stream order by sequence",
        )
        .bind(id.uuid())
        .bind(stream)
        .fetch_all(&self.pool)
        .await
        .expect("chunks")
    }

    /// Waits for a job's end, and returns its row.
    pub async fn ended(&self, id: JobId) -> Value {
        eventually_some(PATIENCE, async || {
            let job = self.job(id).await;
            (!matches!(job["status"].as_str(), Some("pending" | "running"))).then_some(job)
        })
        .await
    }

    /// Waits until a job has this status.
    pub async fn reaches(&self, id: JobId, status: &str) {
        eventually(PATIENCE, async || self.job(id).await["status"] == status).await;
    }

    /// Waits until so many jobs have this status.
    pub async fn count_reaches(&self, status: &str, jobs: usize) {
        eventually(PATIENCE, async || self.count(status).await == jobs).await;
    }

    /// Jobs that have this status.
    pub async fn count(&self, status: &str) -> usize {
        let jobs: i64 = sqlx::query_scalar("select count(*) from container_jobs where status = $1::job_status")
            .bind(status)
            .fetch_one(&self.pool)
            .await
            .expect("a count");
        usize::try_from(jobs).expect("a count is not negative")
    }

    /// Waits until all these jobs have ended, and requires that they completed in their first attempt. The limit is on
    /// standing still: many jobs on a busy machine take their time.
    pub async fn all_complete(&self, jobs: &[JobId]) {
        let mut ended = 0;
        while ended < jobs.len() {
            ended = eventually_some(PATIENCE, async || {
                let now = self.count_ended(jobs).await;
                (now > ended).then_some(now)
            })
            .await;
        }
        for job in jobs {
            let row = self.job(*job).await;
            assert_eq!((&row["status"], &row["attempt"]), (&"completed".into(), &1.into()), "{row}");
        }
    }

    async fn count_ended(&self, jobs: &[JobId]) -> usize {
        let ids: Vec<_> = jobs.iter().map(|job| job.uuid()).collect();
        let ended: i64 = sqlx::query_scalar(
            "select count(*) from container_jobs where id = any($1) and status not in ('pending', 'running')",
        )
        .bind(&ids)
        .fetch_one(&self.pool)
        .await
        .expect("a count");
        usize::try_from(ended).expect("a count is not negative")
    }

    /// The slots of a host that are in use, by its own count.
    pub async fn slots_used(&self, host: HostId) -> i32 {
        sqlx::query_scalar("select current_job_count from executor_hosts where id = $1")
            .bind(host.uuid())
            .fetch_one(&self.pool)
            .await
            .expect("a host")
    }

    /// A statement of the test's own that gives one value.
    pub async fn scalar<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("a value")
    }

    /// A transaction of the test's own that has executed this, and ends when it is dropped.
    pub async fn hold(&self, sql: &'static str) -> PgConnection {
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await.expect("Postgres answers");
        for sql in ["begin", sql] {
            sqlx::query(sql).execute(&mut connection).await.expect("executed");
        }
        connection
    }

    /// Keeps everybody from committing this column of an attempt, until the session is dropped.
    pub async fn hold_up(&self, column: &str) -> PgConnection {
        self.execute(
            "create function wait_for_test() returns trigger language plpgsql as
             $$ begin perform pg_advisory_xact_lock(7); return new; end $$",
        )
        .await;
        self.execute_text(format!(
            "create trigger wait_for_test before update of {column} on container_executions
             for each row execute function wait_for_test()"
        ))
        .await;
        self.hold("select pg_advisory_xact_lock(7)").await
    }

    /// Waits until somebody is kept from it by [`Self::hold_up`].
    pub async fn is_held_up(&self) {
        let waiting = "select count(*) from pg_locks join pg_database d on d.oid = database
            where d.datname = current_database() and locktype = 'advisory' and not granted";
        eventually(PATIENCE, async || self.scalar::<i64>(waiting).await == 1).await;
    }

    /// A session that sees the database as it is now, for as long as it is held.
    pub async fn hold_snapshot(&self) -> sqlx::PgConnection {
        let mut session = self.pool.acquire().await.expect("a connection").detach();
        for sql in ["begin isolation level repeatable read", "select count(*) from container_jobs"] {
            sqlx::raw_sql(sql).execute(&mut session).await.expect("executed");
        }
        session
    }

    /// A statement of the test's own that changes something.
    pub async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.expect("executed");
    }

    /// The same, put together by the test from what it trusts.
    pub async fn execute_text(&self, sql: String) {
        sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await.expect("executed");
    }
}
