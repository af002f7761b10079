//! What every Gantry process needs, whatever its part: configuration,
//! telemetry, shutdown, the health and metrics endpoint, a `main`, and when
//! a stage takes its next batch.
//!
//! A part's binary is then a few lines:
//!
//! ```no_run
//! use gantry_runtime::{process, process::Threads, telemetry};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     #[serde(default)]
//!     telemetry: telemetry::Config,
//! }
//!
//! impl process::Config for Config {
//!     fn telemetry(&self) -> &telemetry::Config {
//!         &self.telemetry
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     process::run_configured("gantry-example", Threads::Many, |_config: Config, shutdown| async move {
//!         shutdown.requested().await;
//!         Ok(())
//!     })
//! }
//! ```

pub mod clock;
pub mod config;
pub mod linger;
pub mod metrics;
pub mod process;
pub mod serve;
pub mod shutdown;
pub mod telemetry;

pub use linger::Linger;
pub use shutdown::Shutdown;

/// A part makes many small values for each job on one thread and frees them on another, among others that stay for as long as
/// the job runs: glibc's allocator takes more of the processor for them, and keeps twice the memory for each job. How soon
/// memory is given back is set where it is built (`.cargo/config.toml`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
