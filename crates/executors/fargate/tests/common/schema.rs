//! The check of what went over the wire, against the models that AWS publishes with its own clients.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gantry_executor_fargate::double::Exchange;
use serde_json::json;

/// The operations among these exchanges; what is wrong with them is the error.
pub(crate) fn check(exchanges: &[Exchange]) -> Result<Vec<String>, String> {
    let mut lines = String::new();
    for Exchange { target, request, status, answer, .. } in exchanges {
        lines += &json!({ "target": target, "request": request, "status": status, "answer": answer }).to_string();
        lines.push('\n');
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/schema.py");
    let mut check = Command::new(python())
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    check.stdin.take().expect("it was piped").write_all(lines.as_bytes()).expect("python reads");
    let output = check.wait_with_output().expect("python ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said.lines().map(str::to_owned).collect()) } else { Err(said) }
}

/// Where the interpreter of the counterparts is.
pub(crate) fn python() -> PathBuf {
    let python =
        PathBuf::from(std::env::var("GANTRY_PYTHON").expect("GANTRY_PYTHON is set by `make test`")).join("bin/python");
    assert!(python.is_file(), "{} is not there: `deploy/scripts/install.sh python` makes it", python.display());
    python
}
