//! The pool and the only way to open a transaction.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use gantry_core::{TenantId, WorkerId};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgTransactionManager};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, SqlSafeStr as _};
use sqlx_core::transaction::TransactionManager as _;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::warm::{GOOD_FOR, Lent, Warm};

/// How long this side waits for a transaction or a statement. Postgres ends them sooner; this is for a server
/// that vanished without closing its connections.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of transactions on the path of a job. A statement over arrays is planned anew each time otherwise, because a plan for an
/// array of any length looks dearer than one for its own few elements; for a single job that takes longer than running it.
/// A kept plan may be for a table that was empty when it was made: so it reads none from end to end, which is how an empty one is
/// read best, and is not kept for long: see [`Renewal`].
const KEPT_PLANS: &str = "; set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off";

/// Compiling a statement takes a quarter of a second and more, and no statement here runs so long. Postgres goes by a plan's
/// estimate, which is in the millions where a plan is [told to keep to an index](IN_ORDER), or a table has many rows. Told to each new
/// connection, for statements that are sent alone, and to each transaction, whose connection a pooler may have handed on.
const NOT_COMPILED: &str = "set local jit = off";
const NEVER_COMPILED: &str = "set jit = off";

/// A statement follows an index in its order and stops. It marks the entries of dead rows that it meets, so that the next one passes
/// them; one by a bitmap would meet them all each time.
const IN_ORDER: &str = "; set local enable_bitmapscan = off; set local enable_sort = off";

/// A commit that need not be on disk before the next step: the moves between line and window. Whoever starts a job by them commits
/// a claim, which is on disk only with all that was written before it. If Postgres fails before any such, the row stands in line
/// as before, and what was published for it is for a later dispatch of it, or finds nothing.
const NOT_FLUSHED: &str = "; set local synchronous_commit = off";

/// How old a plan gets on average while there is work. As often as that goes into it a connection that is given back forgets its plans,
/// whichever comes back next.
const PLANS_LAST: Duration = Duration::from_secs(20);

/// How long a connection that is given back may take to answer.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

fn silent() -> Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()
}

/// Where Postgres is and how a process uses it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `postgres://user:password@host:5432/database`. A secret, because it may carry the password.
    pub url: SecretString,
    /// The most connections that this process opens. Default 10. Each is a process of Postgres with plans and maps of
    /// its own: fewer are faster, and more get along with statements that hang.
    #[serde(default = "default_connections")]
    pub max_connections: u32,
    /// How many milliseconds a statement, a wait for a lock or an idle transaction may last. Less than a third of a
    /// worker's lease, so that a frozen client holds nothing for long. Default 5,000.
    #[serde(default = "default_transaction_timeout")]
    pub transaction_timeout_millis: u32,
}

fn default_transaction_timeout() -> u32 {
    5_000
}

fn default_connections() -> u32 {
    10
}

impl Config {
    /// The defaults, for a database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            max_connections: default_connections(),
            transaction_timeout_millis: default_transaction_timeout(),
        }
    }
}

/// Whose rows a connection of the API role may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The fleet's own role: every tenant.
    Fleet,
    /// One tenant, by the row-level policy.
    Tenant {
        /// The tenant.
        id: TenantId,
        /// Whether hosts may be managed too.
        operator: bool,
    },
}

impl Scope {
    fn settings(self) -> String {
        let Self::Tenant { id, operator } = self else { return String::new() };
        let operator = if operator { "on" } else { "off" };
        format!("; set local gantry.tenant = '{id}'; set local gantry.operator = '{operator}'")
    }
}

/// A pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    warm: Arc<Warm>,
    begin: String,
    timeout: Duration,
    /// There was a limit. Their rows stay, so nobody looks again: one that changes often has many versions to pass.
    limited: Arc<AtomicBool>,
}

impl Store {
    /// A pool; connects when it is first used, so that a process can start before Postgres does. `part` is
    /// shown in `pg_stat_activity`.
    pub fn new(config: &Config, part: &str) -> Result<Self> {
        let timeout = Duration::from_millis(config.transaction_timeout_millis.into());
        let connect = PgConnectOptions::from_str(config.url.expose_secret())?.application_name(part);
        let renewal = Renewal::new(PLANS_LAST / config.max_connections.max(1));
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(timeout)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(NEVER_COMPILED).await.map(drop) }))
            // sqlx asks a connection that comes back whether it is good, and waits for the answer as long as TCP does:
            // a server that vanished would keep the places of all connections for a quarter of an hour.
            .after_release(move |connection, _| Box::pin(answers(connection, renewal.is_due())))
            // One that comes back and goes out again at once has just answered.
            .test_before_acquire(false)
            .before_acquire(|connection, found| {
                let is_good = found.idle_for < GOOD_FOR;
                Box::pin(async move { if is_good { Ok(true) } else { answers(connection, false).await } })
            })
            .connect_lazy_with(connect);
        let millis = config.transaction_timeout_millis;
        let begin = format!(
            "begin; set local statement_timeout = {millis}; set local lock_timeout = {millis}; \
             set local idle_in_transaction_session_timeout = {millis}; {NOT_COMPILED}"
        );
        let warm = Arc::new(Warm::new(pool.clone(), config.max_connections));
        Ok(Self { pool, warm, begin, timeout, limited: Arc::default() })
    }

    /// How long a transaction of this store may hold anything.
    pub fn transaction_timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<()> {
        let one = sqlx::query!("/* tx::ping */ select 1 as one");
        self.read("tx::ping", one.fetch_one(&self.pool)).await.map(drop)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        // First: it waits for those that are lent.
        let closing = self.pool.close();
        self.warm.clear();
        closing.await;
    }

    /// For single statements that need no transaction of their own.
    pub(crate) fn pool(&self) -> &PgPool {
        self.warm.relieve();
        &self.pool
    }

    /// Runs `step`, again if it lost against another transaction (serialization failure, deadlock). `step`
    /// opens its own transaction with one of the `begin` functions and commits it; it publishes nothing.
    pub(crate) async fn run<T, F, Fut>(&self, operation: &'static str, mut step: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let pauses =
            ExponentialBuilder::default().with_min_delay(Duration::from_millis(5)).with_jitter().with_max_times(5);
        let bounded = || {
            // Boxed: transactions nest deep in the futures of the parts, deeper than the compiler likes.
            let step = Box::pin(step());
            async { timeout(CLIENT_TIMEOUT, step).await.unwrap_or_else(|_| Err(silent())) }
        };
        bounded
            .retry(pauses)
            .when(Error::is_conflict)
            .notify(|error, _| tracing::debug!(db.operation = operation, %error, "the transaction is run again"))
            .await
            .map_err(|error| error.during(operation))
    }

    /// Bounds `work`, a transaction of its own that is not run again: a server that vanished without a word answers nothing.
    pub(crate) async fn bounded<T>(&self, operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        // Boxed, as in `run`.
        let done = timeout(CLIENT_TIMEOUT, Box::pin(work)).await;
        done.unwrap_or_else(|_| Err(silent())).map_err(|error| error.during(operation))
    }

    /// A transaction with the timeouts set.
    pub(crate) async fn begin(&self, operation: &'static str) -> Result<Tx> {
        self.open(operation, "").await
    }

    /// The same on the path of a job, with [plans that are kept](KEPT_PLANS).
    pub(crate) async fn begin_kept(&self, operation: &'static str) -> Result<Tx> {
        self.open(operation, KEPT_PLANS).await
    }

    /// A transaction whose statements follow an index in its order and stop: never by collecting and sorting all that
    /// is there, which looks as cheap to the planner as long as its statistics are older than a backlog.
    pub(crate) async fn begin_in_order(&self, operation: &'static str) -> Result<Tx> {
        self.open(operation, IN_ORDER).await
    }

    /// The same for the lines, on the path of a job, with [plans that are kept](KEPT_PLANS) and [no wait for the
    /// disk](NOT_FLUSHED).
    pub(crate) async fn begin_in_line(&self, operation: &'static str) -> Result<Tx> {
        self.open(operation, &format!("{IN_ORDER}{KEPT_PLANS}{NOT_FLUSHED}")).await
    }

    /// A transaction that sees what `scope` may see.
    pub(crate) async fn begin_scoped(&self, operation: &'static str, scope: Scope) -> Result<Tx> {
        self.open(operation, &scope.settings()).await
    }

    /// The same [in the order of an index](Self::begin_in_order).
    pub(crate) async fn begin_scoped_in_order(&self, operation: &'static str, scope: Scope) -> Result<Tx> {
        self.open(operation, &format!("{}{IN_ORDER}", scope.settings())).await
    }

    /// A scoped one on the path of a job, with [plans that are kept](KEPT_PLANS).
    pub(crate) async fn begin_scoped_kept(&self, operation: &'static str, scope: Scope) -> Result<Tx> {
        self.open(operation, &format!("{}{KEPT_PLANS}", scope.settings())).await
    }

    /// One round trip, whatever is set: all of it local to the transaction, so that it holds behind a pooler that hands
    /// connections on.
    async fn open(&self, operation: &'static str, settings: &str) -> Result<Tx> {
        let mut beginning = Beginning(Some(self.lend().await?));
        let begin = AssertSqlSafe(format!("{}{settings}", self.begin)).into_sql_str();
        if let Some(lent) = &mut beginning.0 {
            PgTransactionManager::begin(lent, Some(begin)).await?;
        }
        Ok(Tx { lent: beginning.0.take(), warm: self.warm.clone(), operation })
    }

    /// A connection for a statement that is a transaction of its own, and is sent often. Whoever has its answer gives it
    /// [back](Self::give_back).
    pub(crate) async fn lend(&self) -> Result<Lent> {
        if let Some(mut lent) = self.warm.take() {
            if lent.planned.elapsed() < PLANS_LAST {
                return Ok(lent);
            }
            if answers(&mut lent, true).await.is_ok() {
                lent.planned = Instant::now();
                return Ok(lent);
            }
        }
        let connection = self.pool.acquire().await?;
        Ok(Lent { connection, since: Instant::now(), planned: Instant::now() })
    }

    /// One that has just answered.
    pub(crate) fn give_back(&self, lent: Lent) {
        self.warm.put(lent);
    }

    /// A transaction of a worker: it begins with the worker's own row, locked so that nobody can declare the
    /// worker dead before the transaction ends. `KEY SHARE` is enough for that, because whoever ends a worker
    /// locks its row `FOR UPDATE`; and it lets the beat, an ordinary update, pass the busiest worker's writes.
    pub(crate) async fn begin_as(&self, operation: &'static str, worker: WorkerId) -> Result<Tx> {
        let tx = self.begin(operation).await?;
        Self::alive(tx, worker).await
    }

    /// The same [in the order of an index](Self::begin_in_order).
    pub(crate) async fn begin_in_order_as(&self, operation: &'static str, worker: WorkerId) -> Result<Tx> {
        let tx = self.open(operation, IN_ORDER).await?;
        Self::alive(tx, worker).await
    }

    /// The same on the path of a job, with [plans that are kept](KEPT_PLANS).
    pub(crate) async fn begin_kept_as(&self, operation: &'static str, worker: WorkerId) -> Result<Tx> {
        let tx = self.begin_kept(operation).await?;
        Self::alive(tx, worker).await
    }

    /// The same for a claim, and whether there are any limits. While it is under way, none of a tenant or a template is made; one of a
    /// key may be.
    pub(crate) async fn begin_claim(&self, operation: &'static str, worker: WorkerId) -> Result<(Tx, bool)> {
        let mut tx = self.open(operation, &format!("{KEPT_PLANS}; lock table limits in row share mode")).await?;
        let is_limited = sqlx::query_scalar!(
            r#"/* tx::begin_claim */
            select ($2 or (select exists (select from limits))) as "is_limited!"
            from workers where id = $1 and state = 'alive' for key share"#,
            worker.uuid(),
            self.limited.load(Ordering::Relaxed)
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(Error::NotAlive(worker))?;
        self.limited.fetch_or(is_limited, Ordering::Relaxed);
        Ok((tx, is_limited))
    }

    async fn alive(mut tx: Tx, worker: WorkerId) -> Result<Tx> {
        let alive = sqlx::query!(
            "/* tx::begin_as */ select 1 as one from workers where id = $1 and state = 'alive' for key share",
            worker.uuid()
        )
        .fetch_optional(&mut *tx)
        .await?;
        match alive {
            Some(_) => Ok(tx),
            None => Err(Error::NotAlive(worker)),
        }
    }

    /// A statement that writes and is a transaction of its own.
    pub(crate) async fn single<T>(
        &self,
        operation: &'static str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T> {
        gantry_failpoint::around("commit", operation, self.read(operation, statement)).await
    }

    /// A statement that only reads.
    pub(crate) async fn read<T>(
        &self,
        operation: &'static str,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T> {
        let answered = timeout(CLIENT_TIMEOUT, statement).await.map_err(|_| silent().during(operation))?;
        answered.map_err(|error| Error::from(error).during(operation))
    }
}

/// Whose turn it is to forget its plans: of all connections that come back, one in each such time.
#[derive(Clone, Debug)]
struct Renewal {
    every: Duration,
    last: Arc<Mutex<Instant>>,
}

impl Renewal {
    fn new(every: Duration) -> Self {
        Self { every, last: Arc::new(Mutex::new(Instant::now())) }
    }

    fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.elapsed() >= self.every;
        if is_due {
            *last = Instant::now();
        }
        is_due
    }
}

/// Whether a connection still answers, in time, or it is closed. The question may be that it forget its plans.
async fn answers(connection: &mut PgConnection, forgets: bool) -> std::result::Result<bool, sqlx::Error> {
    let asked =
        async { if forgets { connection.execute("discard plans").await.map(drop) } else { connection.ping().await } };
    timeout(RELEASE_TIMEOUT, asked).await.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))??;
    Ok(true)
}

/// An open transaction; dropped without [`Tx::commit`] it is rolled back.
pub(crate) struct Tx {
    /// Until it is over.
    lent: Option<Lent>,
    warm: Arc<Warm>,
    operation: &'static str,
}

/// A connection on which a transaction begins. If it fails, or is not waited for, nobody knows whether one is open there: sqlx counts
/// only those that have begun, and rolls back no other.
struct Beginning(Option<Lent>);

impl Drop for Beginning {
    fn drop(&mut self) {
        if let Some(lent) = &mut self.0 {
            lent.connection.close_on_drop();
        }
    }
}

/// There is a connection for as long as there is a transaction.
const OPEN: &str = "a transaction that is over was used";

impl Tx {
    /// Ends it without a trace, and before anything else is done.
    pub(crate) async fn leave(mut self) -> Result<()> {
        PgTransactionManager::rollback(&mut self).await?;
        self.over();
        Ok(())
    }

    /// Makes it durable.
    pub(crate) async fn commit(mut self) -> Result<()> {
        let operation = self.operation;
        let commit = PgTransactionManager::commit(&mut self);
        gantry_failpoint::around("commit", operation, commit).await?;
        self.over();
        Ok(())
    }

    fn over(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.warm.put(lent);
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(lent) = &mut self.lent {
            // Sent before anything else on this connection: by the question whether it is good.
            PgTransactionManager::start_rollback(lent);
        }
    }
}

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        self.lent.as_ref().expect(OPEN)
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.lent.as_mut().expect(OPEN)
    }
}
