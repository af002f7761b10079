//! What the tests of all servers share.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A folder directly under the system's one for temporary files: sockets need short paths, and
/// other accounts a way in.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("gantry-test-").tempdir().expect("a temporary folder")
}

/// The command lines of all processes that have to do with this folder.
pub(crate) fn processes(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("a temporary folder's path is text");
    fs::read_dir("/proc")
        .expect("/proc lists the processes")
        .flatten()
        .filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let works_in = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            (line.contains(folder) || works_in.starts_with(folder)).then_some(line)
        })
        .collect()
}

/// Waits until no process of this folder is left. The last helpers of a server that has ended see to it a moment later.
pub(crate) fn wait_for_no_process(folder: &Path) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !processes(folder).is_empty() {
        assert!(std::time::Instant::now() < end, "left behind: {:?}", processes(folder));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Starts servers through the program and kills it the hard way, so that they are left running.
pub(crate) fn leave_running(folder: &Path, with: &str) {
    let mut supervisor = supervisor(folder, with, "echo $$; exec sleep 600");
    let mut lines = BufReader::new(supervisor.stdout.take().expect("stdout is piped")).lines();
    let sleeper = lines.next().expect("the command says its number").expect("as text");
    supervisor.kill().expect("the supervisor runs");
    supervisor.wait().expect("the supervisor was killed");
    let killed = Command::new("kill").arg(sleeper).status().expect("kill runs");
    assert!(killed.success(), "the command outlives its supervisor");
}

/// `gantry-servers run --dir FOLDER --with WITH -- sh -c SCRIPT`, with its output piped.
pub(crate) fn supervisor(folder: &Path, with: &str, script: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_gantry-servers"))
        .args(["run", "--with", with, "--dir"])
        .arg(folder)
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built")
}
