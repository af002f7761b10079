//! The tests' Docker Engine, one for all tests.

use crate::environment;

/// A Docker Engine of the test run's own, and an image on it.
///
/// Unlike a database and a vhost it is shared by all tests: tell containers apart by the fleet's
/// id, and remove what you made.
#[derive(Debug, Clone)]
pub struct TestDocker {
    host: String,
    image: String,
}

impl TestDocker {
    /// Finds the engine.
    #[must_use]
    pub fn find() -> Self {
        Self {
            host: environment::variable("GANTRY_TEST_DOCKER_HOST"),
            image: environment::variable("GANTRY_TEST_IMAGE"),
        }
    }

    /// The engine's address, as in `DOCKER_HOST`: `unix:///...`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A static busybox with a link for every applet; there is nothing to pull it from.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }
}
