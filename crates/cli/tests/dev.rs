//! `gantry dev` and the command line against it, as a person uses them: real processes, real signals, a real
//! Docker Engine.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gantry_testkit::TestDocker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running `gantry dev`.
struct Dev {
    process: Child,
    url: String,
}

impl Dev {
    fn start(data: &Path) -> Self {
        let docker = TestDocker::find();
        let mut process = Command::new(env!("CARGO_BIN_EXE_gantry"))
            .args(["dev", "--listen", "127.0.0.1:0", "--docker-host", docker.host(), "--data-dir"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gantry dev starts");
        let mut errors = process.stderr.take().expect("piped");
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            let _ = errors.read_to_string(&mut log);
            log
        });
        let began = Instant::now();
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        match lines.next() {
            Some(Ok(line)) => {
                assert!(began.elapsed() < READY_WITHIN);
                let url = line.strip_prefix("gantry is ready: ").expect("the one line that is promised").to_owned();
                Self { process, url }
            }
            _ => panic!("gantry dev ended before it was ready:\n{}", log.join().expect("read")),
        }
    }

    /// SIGTERM, and the exit code that must follow.
    fn stop(mut self) {
        signal(&self.process, Signal::TERM);
        let status = self.process.wait().expect("waited");
        assert!(status.success(), "gantry dev ended with {status}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // After a failed assertion: the servers must not outlive the test.
        if let Ok(None) = self.process.try_wait() {
            signal(&self.process, Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

fn signal(process: &Child, signal: Signal) {
    let pid = Pid::from_raw(process.id().cast_signed()).expect("a child has a pid");
    kill_process(pid, signal).expect("signalled");
}

/// The command line with what `env` says, as a shell would have it after sourcing the file.
fn gantry(data: &Path, arguments: &[&str]) -> Command {
    let env = std::fs::read_to_string(data.join("env")).expect("gantry dev wrote its env file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    for line in env.lines() {
        let (name, value) = line.strip_prefix("export ").and_then(|line| line.split_once('=')).expect("shell syntax");
        command.env(name, value.trim_matches('\''));
    }
    command.args(arguments);
    command
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    gantry(data, arguments).output().expect("gantry runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Processes whose command line or working directory names the folder.
fn left_over(data: &Path) -> Vec<String> {
    let data = data.to_str().expect("UTF-8");
    let processes = std::fs::read_dir("/proc").expect("a Linux").filter_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?.to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read_to_string(path.join("cmdline")).ok()?.replace('\0', " ");
        line.contains(data).then_some(line)
    });
    processes.collect()
}

#[test]
fn a_person_s_day_with_gantry_dev() {
    let folder = TempDir::with_prefix("gantry-dev-test").expect("a folder");
    let data = folder.path();
    let image = TestDocker::find().image().to_owned();
    let dev = Dev::start(data);

    // Streams and exit code are the container's own.
    let began = Instant::now();
    let output = run(data, &["job", "run", "--image", &image, "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    // Detached, waited for, shown.
    let detached = run(data, &["-o", "json", "job", "run", "--detach", "--image", &image, "--", "echo", "{\"n\": 1}"]);
    let id = json(&detached)["id"].as_str().expect("an id").to_owned();
    assert!(run(data, &["job", "wait", &id]).status.success());
    let shown = json(&run(data, &["-o", "json", "job", "show", &id]));
    assert_eq!(
        (&shown["status"], &shown["attempts"][0]["parsed_output"]["n"]),
        (&Value::from("completed"), &Value::from(1))
    );

    // The first Ctrl-C asks for the job's end and stays until it has come.
    let mut followed = gantry(
        data,
        &[
            "job",
            "run",
            "--name",
            "interrupted",
            "--image",
            &image,
            "--",
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done",
        ],
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("gantry runs");
    let mut first = String::new();
    BufReader::new(followed.stdout.as_mut().expect("piped")).read_line(&mut first).expect("a line");
    assert_eq!(first, "up\n");
    signal(&followed, Signal::INT);
    assert_eq!(followed.wait().expect("waited").code(), Some(130));
    let jobs = json(&run(data, &["-o", "json", "job", "list", "--status", "cancelled"]));
    assert_eq!(jobs["jobs"][0]["name"], "interrupted");

    // A container that runs on while everything else stops and starts again.
    let long = [
        "-o",
        "json",
        "job",
        "run",
        "--detach",
        "--image",
        &image,
        "--",
        "sh",
        "-c",
        "for i in $(seq 1 40); do echo $i; sleep 0.5; done; exit 7",
    ];
    let long = json(&run(data, &long))["id"].as_str().expect("an id").to_owned();
    wait_until(|| json(&run(data, &["-o", "json", "job", "show", &long]))["status"] == "running");
    let url = dev.url.clone();
    dev.stop();
    assert_eq!(left_over(data), Vec::<String>::new());
    let dev = Dev::start(data);
    assert_ne!(url, "");
    let output = run(data, &["job", "logs", "-f", &long]);
    let numbers: Vec<u32> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>(), "the log has a gap or a duplicate");
    assert_eq!(run(data, &["job", "wait", &long]).status.code(), Some(7));
    let shown = json(&run(data, &["-o", "json", "job", "show", &long]));
    assert_eq!((shown["attempts"].as_array().map(Vec::len), &shown["exit_code"]), (Some(1), &Value::from(7)));

    // A host of one's own, seeded tenants, and a reset that wants to be sure.
    let connection = serde_json::json!({ "dir": data.join("another-mock") }).to_string();
    let added = run(
        data,
        &["host", "add", "another", "--executor", "mock", "--connection", &connection, "--slots", "3", "--shared"],
    );
    assert!(added.status.success(), "{added:?}");
    let hosts = json(&run(data, &["-o", "json", "host", "list"]));
    assert!(
        hosts["hosts"].as_array().is_some_and(|hosts| hosts.iter().any(|host| host["name"] == "another")),
        "{hosts}"
    );
    let seeded = run(data, &["db", "seed"]);
    assert!(seeded.status.success(), "{seeded:?}");
    let printed = String::from_utf8_lossy(&seeded.stdout).into_owned();
    assert!(printed.contains("acme") && printed.contains("globex") && printed.contains("gantry_"), "{printed}");
    assert_eq!(run(data, &["db", "reset"]).status.code(), Some(2));
    assert_eq!(json(&run(data, &["-o", "json", "job", "show", &long]))["status"], "failed", "nothing was deleted");
    assert!(run(data, &["db", "validate"]).status.success());
    dev.stop();
    assert_eq!(left_over(data), Vec::<String>::new());
}

fn wait_until(condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < limit, "the condition did not come about");
        // The pace of asking.
        std::thread::sleep(Duration::from_millis(100));
    }
}
