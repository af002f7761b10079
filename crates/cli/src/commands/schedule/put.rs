//! `gantry schedule put`.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use gantry_api::wire::NewSchedule;
use gantry_core::schedule::{Missed, Overlap};
use serde_json::{Value, json};

use super::super::job::options::Options;
use super::super::values::one_of;
use crate::error::{Error, Result};

/// When a schedule is due.
#[derive(Args)]
pub(crate) struct When {
    /// Minute, hour, day of the month, month and day of the week, such as '30 2 * * 1-5'; or six fields, with seconds
    /// first; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "EXPRESSION")]
    pub(super) cron: String,
    /// The IANA name of the time zone in which it is read, such as Europe/Paris
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(super) time_zone: String,
}

#[derive(Args)]
pub(crate) struct Put {
    /// The schedule's name
    #[arg(value_name = "NAME")]
    schedule: String,
    #[command(flatten)]
    when: When,
    /// What becomes of due times that nobody looked at within a minute: no job, one for all of them, or one for each
    #[arg(long, default_value = "one", value_parser = one_of::<Missed>(), value_name = "POLICY")]
    missed: Missed,
    /// What becomes of a due time while a job of the schedule is open: a job beside it, no job, or a job after it
    #[arg(long, default_value = "allow", value_parser = one_of::<Overlap>(), value_name = "POLICY")]
    overlap: Overlap,
    /// Take the submission from a file with JSON, or with `-` from stdin, instead of the options of a job
    #[arg(long, short, value_name = "FILE", conflicts_with = "Options")]
    file: Option<PathBuf>,
    #[command(flatten)]
    job: Options,
}

impl Put {
    /// The name of the schedule, and the schedule.
    pub(super) fn schedule(self) -> Result<(String, NewSchedule)> {
        let submission = match &self.file {
            Some(file) => from_file(file)?,
            None => json!(self.job.submission()?),
        };
        let When { cron, time_zone } = self.when;
        let new = NewSchedule { cron, time_zone, missed: self.missed, overlap: self.overlap, submission };
        Ok((self.schedule, new))
    }
}

fn from_file(path: &PathBuf) -> Result<Value> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_string(&mut text).map(drop),
        false => std::fs::read_to_string(path).map(|content| text = content),
    };
    read.map_err(|error| Error::Usage(format!("{} cannot be read: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| Error::Usage(format!("{} is not JSON: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        put: Put,
    }

    fn put(line: &[&str]) -> Result<(String, NewSchedule), String> {
        let line = Line::try_parse_from(["put"].iter().chain(line)).map_err(|error| error.to_string())?;
        line.put.schedule().map_err(|error| error.to_string())
    }

    #[test]
    fn the_options_of_a_job_make_its_submission() {
        let line = ["nightly", "--cron", "@daily", "--overlap", "skip", "--image", "i", "--name", "n", "--", "sh"];
        let (name, new) = put(&line).expect("a schedule");
        assert_eq!((name.as_str(), new.time_zone.as_str()), ("nightly", "UTC"));
        assert_eq!((new.missed, new.overlap), (Missed::One, Overlap::Skip));
        assert_eq!((&new.submission["spec"]["command"], &new.submission["name"]), (&json!(["sh"]), &json!("n")));
        assert_eq!((new.submission.get("idempotency_key"), new.submission.get("not_before")), (None, None));
    }

    #[test]
    fn a_file_stands_for_the_options() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), r#"{"template": "t"}"#).expect("written");
        let path = file.path().to_str().expect("a path");
        let (_, new) = put(&["n", "--cron", "@daily", "-f", path]).expect("a schedule");
        assert_eq!(new.submission, json!({ "template": "t" }));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_option() {
        for (line, says) in [
            (&["n", "--image", "i"][..], "--cron"),
            (&["n", "--cron", "@daily"], "--image"),
            (&["n", "--cron", "@daily", "-f", "x.json", "--image", "i"], "cannot be used with"),
            (&["n", "--cron", "@daily", "-f", "/nowhere/x.json"], "/nowhere/x.json"),
            (&["n", "--cron", "@daily", "--image", "i", "--missed", "never"], "skip"),
        ] {
            let error = put(line).expect_err("refused");
            assert!(error.contains(says), "{line:?}: {error}");
        }
    }
}
