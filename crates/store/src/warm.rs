//! Connections that stay out of the pool while there is work for them.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

/// A connection that answered so shortly ago is not asked again before it is used.
pub(crate) const GOOD_FOR: Duration = Duration::from_millis(100);

/// Connections whose transaction has just ended well: whoever comes next takes the latest of them. The pool hands out whichever
/// has rested longest, so that each process of Postgres gets its turn while its plans and maps are cold, and asks twice whether
/// it is good when it comes back. They still count as the pool's; half of those stay there, for whoever asks the pool itself.
#[derive(Debug)]
pub(crate) struct Warm {
    pool: PgPool,
    connections: Mutex<Vec<Lent>>,
    most: usize,
}

impl Warm {
    /// For a pool of so many.
    pub(crate) fn new(pool: PgPool, connections: u32) -> Self {
        Self { pool, connections: Mutex::new(Vec::new()), most: usize::try_from(connections / 2).unwrap_or(0) }
    }

    /// All of them go back to the pool.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Whether who asks the pool now has to wait.
    fn is_exhausted(&self) -> bool {
        self.pool.num_idle() == 0 && self.pool.size() >= self.pool.options().get_max_connections()
    }

    /// Gives the pool back what nobody uses, if it needs it.
    pub(crate) fn relieve(&self) {
        if self.is_exhausted() {
            self.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lent>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest, if it is known to be good. The others go back to the pool, which asks them.
    pub(crate) fn take(&self) -> Option<Lent> {
        let mut warm = self.lock();
        let latest = warm.pop()?;
        if latest.since.elapsed() < GOOD_FOR {
            return Some(latest);
        }
        let cold = std::mem::take(&mut *warm);
        drop(warm);
        drop((latest, cold));
        None
    }

    /// Of a connection that has just answered. Whoever waits for one waits in the pool.
    pub(crate) fn put(&self, connection: Lent) {
        let mut warm = self.lock();
        if warm.len() < self.most && !self.pool.is_closed() && !self.is_exhausted() {
            warm.push(Lent { since: Instant::now(), ..connection });
        }
    }
}

/// A connection of the pool. Dropped it goes back there, and is asked whether it is good.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) connection: PoolConnection<Postgres>,
    /// When it last answered.
    pub(crate) since: Instant,
    /// When it last forgot its plans.
    pub(crate) planned: Instant,
}

impl Deref for Lent {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
