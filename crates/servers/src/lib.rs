//! Private servers as child processes in a folder.
//!
//! [`Postgres`], [`RabbitMq`] (or a [`RabbitCluster`]), [`DockerEngine`] and [`Ministack`] run the installed programs with their own
//! ports, their own data and nothing outside a data folder, listening on 127.0.0.1 only.
//! `gantry dev` uses them as its embedded default, the test suite and the benchmarks as their
//! surroundings.
//!
//! Each server keeps to a subfolder of the data folder, so that all can share one:
//!
//! ```no_run
//! # async fn example() -> gantry_servers::Result<()> {
//! let data = std::path::Path::new("/var/tmp/gantry");
//! let (postgres, rabbitmq) = tokio::try_join!(
//!     gantry_servers::Postgres::start(data),
//!     gantry_servers::RabbitMq::start(data),
//! )?;
//! println!("{}", postgres.url("postgres", "postgres"));
//! println!("{}", rabbitmq.amqp_url("/"));
//! rabbitmq.stop().await?;
//! postgres.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What holds for all of them:
//! - A second start on the same folder goes on with the same data. A server left running by a
//!   supervisor that was killed is stopped in an orderly way first; a folder that a living
//!   supervisor holds is refused ([`Error::InUse`]).
//! - Children are in process groups of their own, so that Ctrl-C on the supervisor does not
//!   reach them before it stops them in its own order. A value that is dropped without `stop`
//!   asks its server to stop and does not wait.
//! - They have no passwords worth the name and no TLS: they trust every user of this machine.
//!   They are for development and tests, not for production.
//! - Linux only: what still runs in a folder is read from `/proc`.

mod docker;
mod error;
mod folder;
mod http;
mod leftover;
mod ministack;
mod ports;
mod postgres;
mod process;
mod program;
mod rabbitmq;

pub use docker::{DockerEngine, TEST_IMAGE};
pub use error::{Error, Result};
pub use ministack::Ministack;
pub use ports::kept_port;
pub use postgres::Postgres;
pub use rabbitmq::{RabbitCluster, RabbitMq};
