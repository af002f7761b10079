//! `gantry-servers run` gives a command its servers and takes them away again.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::common;

#[test]
fn the_command_gets_its_server_and_gives_its_exit_code() {
    // Where the program makes its own folder, and where the server's account has to get in.
    let temporary = common::folder();
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o711)).expect("our own folder");
    let output = Command::new(env!("CARGO_BIN_EXE_gantry-servers"))
        .args(["run", "--with", "postgres", "--", "sh", "-c"])
        .arg("echo $GANTRY_TEST_POSTGRES_URL; echo $GANTRY_TEST_AMQP_URL; exit 7")
        .env("TMPDIR", temporary.path())
        // Set where this suite runs.
        .env_remove("GANTRY_TEST_AMQP_URL")
        .output()
        .expect("the program was built");
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("postgres://postgres@127.0.0.1:"), "{text}");
    assert_eq!(lines[1], "", "no RabbitMQ was asked for");
    assert_eq!(common::processes(temporary.path()), [""; 0]);
    assert_eq!(fs::read_dir(temporary.path()).expect("it exists").count(), 0, "the folder was removed");
}

#[test]
fn sigterm_reaches_the_command_and_the_servers_stop() {
    let folder = common::folder();
    let script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut supervisor = common::supervisor(folder.path(), "postgres", script);
    let mut output = BufReader::new(supervisor.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("reads");
    assert_eq!(line, "ready\n");
    let killed = Command::new("kill").arg(supervisor.id().to_string()).status();
    assert!(killed.expect("kill runs").success());
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("reads");
    assert_eq!(rest, "told\n");
    assert_eq!(supervisor.wait().expect("it ends").code(), Some(5));
    common::wait_for_no_process(folder.path());
}

#[test]
fn a_command_that_does_not_exist_leaves_no_server() {
    let folder = common::folder();
    let status = Command::new(env!("CARGO_BIN_EXE_gantry-servers"))
        .args(["run", "--with", "postgres", "--dir"])
        .arg(folder.path())
        .args(["--", "no-such-command-anywhere"])
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.expect("the program was built").code(), Some(1));
    common::wait_for_no_process(folder.path());
}
