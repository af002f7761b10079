//! A part of the fleet as a real process: its metrics, its log and its use of the processor are seen from outside.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gantry_testkit::eventually_some;

use crate::http::Client;
use crate::{Fleet, PATIENCE};

/// Which part a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `gantry-dispatcher`.
    Dispatcher,
    /// `gantry-recorder`.
    Recorder,
    /// `gantry-worker-mock`.
    Worker,
    /// `gantry-worker-docker`.
    DockerWorker,
    /// `gantry-api`.
    Api,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Recorder => "recorder",
            Self::Worker => "worker",
            Self::DockerWorker => "docker-worker",
            Self::Api => "api",
        }
    }
}

/// A running process. It must not end by itself; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    role: Role,
    child: Child,
    log: PathBuf,
    address: SocketAddr,
    /// Whether the test ended it.
    killed: bool,
}

/// Clock ticks of `/proc` in a second: the same on every Linux that runs these tests.
const TICKS: u64 = 100;

impl Fleet {
    /// Starts a part as a process of `binary` (`gantry-part`), with these settings besides: `("DISPATCHER__POLL_MILLIS", "50")`.
    pub async fn process(&self, binary: &str, role: Role, settings: &[(&str, &str)]) -> Process {
        let (database, broker) = self.addresses();
        let database = if role == Role::Api { self.api_database() } else { database.to_owned() };
        self.process_at(binary, role, &database, broker, settings).await
    }

    /// The same, with Postgres and RabbitMQ somewhere else: behind a proxy.
    pub async fn process_at(
        &self,
        binary: &str,
        role: Role,
        database: &str,
        broker: &str,
        settings: &[(&str, &str)],
    ) -> Process {
        let log = unused(self.folder(), role);
        let output = File::create(&log).expect("a log file");
        let listen = if role == Role::Api { "GANTRY_HTTP__LISTEN" } else { "GANTRY_SERVE__LISTEN" };
        let mut command = Command::new(binary);
        command
            .env("GANTRY_TEST_PART", role.name())
            .env("GANTRY_DATABASE__URL", database)
            .env("GANTRY_BROKER__URL", broker)
            .env(listen, "127.0.0.1:0")
            .envs(settings.iter().map(|(name, value)| (format!("GANTRY_{name}"), value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        let child = command.spawn().expect("the part starts");
        let mut process = Process { role, child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)), killed: false };
        process.address = eventually_some(PATIENCE, async || process.told_address()).await;
        process
    }
}

/// A log file that nobody has yet.
fn unused(folder: &Path, role: Role) -> PathBuf {
    (1..).map(|n| folder.join(format!("{}-{n}.log", role.name()))).find(|path| !path.exists()).expect("endless")
}

impl Process {
    fn told_address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let address = log.split("http.addr=").nth(1)?.split_whitespace().next()?;
        address.parse().ok()
    }

    /// Which part it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many lines it has logged.
    pub fn lines(&self) -> usize {
        self.log().lines().count()
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1_000 / TICKS)
    }

    /// The memory that it holds and has held at most, in bytes: now, and the peak.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let of = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells");
            line.split_whitespace().next().and_then(|kib| kib.parse().ok()).map(|kib: u64| kib << 10).expect("a number")
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// The value of a metric on its `/metrics`: the sum over all series that bear these labels; none without any.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.metrics().await;
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
        });
        let values = series.map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a value"));
        values.fold(None, |sum: Option<f64>, value: f64| Some(sum.unwrap_or(0.0) + value))
    }

    /// All of its `/metrics`.
    pub async fn metrics(&self) -> String {
        let answer = self.client().get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.as_str().expect("text").to_owned()
    }

    /// Where its HTTP listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client of its HTTP, with the tenant's key.
    pub fn client(&self) -> Client {
        Client::new(self.address, crate::fleet::KEY)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_some()
    }

    /// Ends it as SIGKILL does.
    pub fn kill(mut self) {
        self.killed = true;
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        self.end();
        if std::thread::panicking() {
            println!("--- the log of the {} ends so:", self.role.name());
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| println!("{line}"));
        } else if ended && !self.killed {
            panic!("the {} ended by itself:\n{}", self.role.name(), self.log());
        }
    }
}
