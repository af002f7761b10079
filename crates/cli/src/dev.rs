//! `gantry dev`: every part in one process, over private servers in a folder. The same code as in production;
//! only the supervision differs.

mod clouds;
mod fleet;
mod folder;
mod parts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gantry_runtime::process::{self, Threads};
use gantry_runtime::{Shutdown, telemetry};
use gantry_servers::{Postgres, RabbitMq};

use clouds::{Cloud, Clouds};
use folder::Folder;

/// Run everything on this machine: private servers, every part, no setup
#[derive(Args)]
pub(crate) struct Dev {
    /// Where the servers, their data and the key are kept
    #[arg(long, value_name = "DIR", default_value_os_t = folder::default_path())]
    data_dir: PathBuf,
    /// The address of the API; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The Docker Engine that jobs run on, if it answers
    #[arg(long, value_name = "URL", env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    docker_host: String,
    /// Jobs that may run at once on the Docker host, when it is first added
    #[arg(long, value_name = "N", default_value_t = 8)]
    docker_slots: u16,
    /// A directory that containers on the Docker host may see, read-only, when it is first added; may be given more
    /// than once
    #[arg(long, value_name = "DIR")]
    allow_mount: Vec<PathBuf>,
    /// Jobs that may run at once on the mock host, when it is first added
    #[arg(long, value_name = "N", default_value_t = 1000)]
    mock_slots: u16,
    /// Clouds to imitate: each gets a double that speaks its protocol, with containers on the Docker Engine
    #[arg(long, value_name = "CLOUD", value_enum, value_delimiter = ',')]
    with: Vec<Cloud>,
}

impl Dev {
    /// Runs until Ctrl-C or SIGTERM.
    pub(crate) fn main(self) -> ExitCode {
        let telemetry =
            telemetry::Config { filter: "warn,gantry=info,lapin=off".to_owned(), ..telemetry::Config::default() };
        process::run("gantry dev", Threads::Many, &telemetry, |shutdown| self.run(shutdown))
    }

    async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let folder = Folder::open(self.data_dir.clone())?;
        let data = folder.path().to_owned();
        let (postgres, rabbitmq) = tokio::join!(Postgres::start(&data), RabbitMq::start(&data));
        // Whichever came up is stopped in order even if the other one did not.
        let (postgres, rabbitmq) = match (postgres, rabbitmq) {
            (Ok(postgres), Ok(rabbitmq)) => (postgres, rabbitmq),
            (Ok(postgres), Err(error)) => {
                postgres.stop().await?;
                return Err(error.into());
            }
            (Err(error), Ok(rabbitmq)) => {
                rabbitmq.stop().await?;
                return Err(error.into());
            }
            (Err(error), Err(_)) => return Err(error.into()),
        };
        let result = self.serve(&folder, &postgres, &rabbitmq, shutdown).await;
        // Containers run on; the next start on this folder adopts them.
        let (postgres, rabbitmq) = tokio::join!(postgres.stop(), rabbitmq.stop());
        result?;
        postgres?;
        rabbitmq?;
        Ok(())
    }

    async fn serve(
        &self,
        folder: &Folder,
        postgres: &Postgres,
        rabbitmq: &RabbitMq,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let clouds = Clouds::start(&self.with, folder, &self.docker_host).await?;
        let served = self.serve_with(&clouds, folder, postgres, rabbitmq, shutdown).await;
        let stopped = clouds.stop().await;
        served.and(stopped)
    }

    async fn serve_with(
        &self,
        clouds: &Clouds,
        folder: &Folder,
        postgres: &Postgres,
        rabbitmq: &RabbitMq,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let fleet = fleet::prepare(self, folder, postgres, clouds).await?;
        let urls = parts::Urls {
            fleet: postgres.url("gantry_fleet", fleet::DATABASE),
            api: postgres.url("gantry_api", fleet::DATABASE),
            broker: rabbitmq.amqp_url("/"),
        };
        let (parts, address) = parts::start(&urls, self.listen, &fleet, folder, &shutdown).await?;
        let ready = tokio::select! {
            ready = fleet.served() => ready,
            () = shutdown.requested() => Ok(()),
        };
        if ready.is_ok() && !shutdown.is_requested() {
            let owner = postgres.url("postgres", fleet::DATABASE);
            folder.write_environment(&address, &fleet.key, &urls.broker, &owner, &clouds.hosts())?;
            // One line, for people and for scripts that wait for it.
            println!("gantry is ready: http://{address}");
        }
        if ready.is_err() {
            shutdown.request();
        }
        parts.join().await?;
        ready
    }
}
