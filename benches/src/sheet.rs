//! Results as people read them, and what they were measured on.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

/// The figures of a case, one a line, on stderr; lists of rows are left to the JSON.
pub(crate) fn print(result: &Value) {
    eprintln!();
    lines(result, "", &mut |name, value| eprintln!("{name:<56} {value:>14}"));
    eprintln!();
}

fn lines(value: &Value, name: &str, line: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(key, _)| *key != "pairs" && *key != "verified") {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                lines(value, &name, line);
            }
        }
        Value::Array(rows) => {
            for (place, row) in rows.iter().enumerate() {
                lines(row, &format!("{name}[{place}]"), line);
            }
        }
        Value::String(text) => line(name, text),
        Value::Null => {}
        other => line(name, &other.to_string()),
    }
}

/// What it ran on.
pub(crate) fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": total.trim(),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    })
}

/// The commit that the source is of; with a plus if something was changed since.
pub(crate) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(format!("{}{}", git(&["rev-parse", "--short", "HEAD"])?, if changed { "+" } else { "" }))
}

/// Whether the control plane is as fast as was asked, compared with the floor of its own run.
pub(crate) fn check(result: &Value, at_least: Option<f64>) -> anyhow::Result<()> {
    let Some(at_least) = at_least else { return Ok(()) };
    let results = result["results"].as_array().into_iter().flatten();
    let control = results.into_iter().find(|result| result["case"] == "control").context("nothing to compare")?;
    let ratio = control["events"]["unbound"]["ratio_to_sql_floor"]
        .as_f64()
        .context("there is no ratio: it is that of `control` with its events unbound")?;
    ensure!(ratio >= at_least, "{ratio} of the SQL floor, and at least {at_least} was asked for");
    Ok(())
}
