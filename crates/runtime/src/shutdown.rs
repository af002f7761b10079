//! How a process is asked to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A wish to stop, handed to everything that runs. Clones share it; children
/// can be stopped on their own.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    insisted: CancellationToken,
}

impl Shutdown {
    /// One that only [`Shutdown::request`] triggers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that the first SIGTERM or SIGINT triggers. A second one insists: see
    /// [`Shutdown::insisted`].
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            for token in [&told.requested, &told.insisted] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                tracing::info!(signal = name, "asked to stop");
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Asks everything that holds this token, or a child of it, to stop.
    pub fn request(&self) {
        self.requested.cancel();
    }

    /// Resolves when it is time to stop.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Whether it is time to stop.
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Resolves when somebody lost patience with an orderly stop.
    pub async fn insisted(&self) {
        self.insisted.cancelled().await;
    }

    /// Does `work`, which ends by itself when it is time to stop, but waits for that no longer than `patience`.
    /// True if it ended by itself.
    pub async fn bounded(&self, patience: std::time::Duration, work: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = work => true,
            () = async {
                self.requested().await;
                tokio::time::sleep(patience).await;
            } => false,
        }
    }

    /// A token that stops with this one, and can be stopped without it.
    pub fn child(&self) -> Self {
        Self { requested: self.requested.child_token(), insisted: self.insisted.child_token() }
    }

    /// The token itself, for libraries that take one.
    pub fn token(&self) -> &CancellationToken {
        &self.requested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_other_way() {
        let parent = Shutdown::new();
        let (first, second) = (parent.child(), parent.child());
        first.request();
        first.requested().await;
        assert!(!parent.is_requested() && !second.is_requested());
        parent.request();
        second.requested().await;
    }
}
