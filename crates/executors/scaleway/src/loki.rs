//! Reading from Loki, which keeps the logs of Cockpit.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::Stream;
use gantry_worker::secrets::{ExposeSecret as _, SecretString};
use reqwest::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{self, Trouble};
use crate::config::{Logs, TokenHeader};
use crate::credentials::Credentials;

/// The most entries that Loki gives at once, by its default configuration.
pub(crate) const MOST_ENTRIES: usize = 5_000;

/// The logs of one project's products.
pub(crate) struct Loki {
    http: Client,
    pub(crate) config: Logs,
    token: SecretString,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// In nanoseconds since 1970.
    pub(crate) time: i64,
    pub(crate) stream: Stream,
    /// Without the line's end.
    pub(crate) text: String,
}

/// What one query gave.
pub(crate) struct Read {
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
    /// The time on Loki's own clock, in whole seconds.
    pub(crate) now: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    result: Vec<Labelled>,
}

#[derive(Deserialize)]
struct Labelled {
    #[serde(default)]
    stream: BTreeMap<String, String>,
    /// Each has a time and a line, and perhaps more.
    #[serde(default)]
    values: Vec<Vec<Value>>,
}

/// What the service wraps around a line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(rename = "resource_instance")]
    _resource_instance: String,
    message: String,
    stream: Option<String>,
}

impl Loki {
    pub(crate) fn new(config: &Logs, credentials: &Credentials) -> Result<Self, Failure> {
        let http = client::client().build().map_err(|error| {
            Failure::new(FailureClass::BackendError, format!("no HTTP client for the logs: {error}"))
        })?;
        let token = credentials.cockpit_token.clone().unwrap_or_else(|| credentials.secret_key.clone());
        Ok(Self { http, config: config.clone(), token })
    }

    /// The query for the lines of one run.
    pub(crate) fn query(&self, definition: &str, run: &str) -> String {
        self.config.query.replace("{definition}", definition).replace("{run}", run)
    }

    /// Up to `limit` entries from `start` on, which is in nanoseconds.
    pub(crate) async fn read(&self, query: &str, start: i64, limit: usize) -> Result<Read, Trouble> {
        let token = self.token.expose_secret();
        let (start, limit) = (start.to_string(), limit.to_string());
        let query = [("query", query), ("start", &start), ("limit", &limit), ("direction", "forward")];
        let request = self.http.get(format!("{}/loki/api/v1/query_range", self.config.url)).query(&query);
        let request = match self.config.header {
            TokenHeader::XToken => request.header("x-token", token),
            TokenHeader::XAuthToken => request.header("x-auth-token", token),
            TokenHeader::Bearer => request.bearer_auth(token),
        };
        let answer = client::answer(request).await?;
        let entries = entries(&answer.body).ok_or_else(|| Trouble::NoAnswer("the log is broken".to_owned()))?;
        Ok(Read { entries, now: answer.date })
    }
}

/// The entries of all streams in one order that is always the same: by time, and at one time by the streams' labels.
fn entries(body: &[u8]) -> Option<Vec<Entry>> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let mut streams = answer.data.result;
    streams.sort_by(|a, b| a.stream.cmp(&b.stream));
    let mut entries = Vec::new();
    for labelled in &streams {
        let label = labelled.stream.get("stream").map(String::as_str);
        for value in &labelled.values {
            let [Value::String(time), Value::String(line), ..] = value.as_slice() else { return None };
            let (text, stream) = unwrapped(line, label);
            entries.push(Entry { time: time.parse().ok()?, stream, text });
        }
    }
    entries.sort_by_key(|entry| entry.time);
    Some(entries)
}

/// The line as the container printed it. Whatever is not the service's own envelope is the line itself.
fn unwrapped(line: &str, label: Option<&str>) -> (String, Stream) {
    let of = |name: Option<&str>| if name == Some("stderr") { Stream::Stderr } else { Stream::Stdout };
    match serde_json::from_str::<Envelope>(line) {
        Ok(envelope) => (envelope.message, of(envelope.stream.as_deref().or(label))),
        Err(_) => (line.to_owned(), of(label)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_unwrapped_and_in_one_order() {
        let wrapped = json!({"resource_instance": "i", "message": "from inside", "stream": "stderr"}).to_string();
        let own = json!({"message": "a line of the job's own", "level": "info"}).to_string();
        let [out, err] =
            ["stdout", "stderr"].map(|stream| json!({"resource_type": "serverless_job", "stream": stream}));
        let body = |order: [Value; 2]| json!({"status": "success", "data": {"resultType": "streams", "result": order}});
        let one = json!({"stream": out, "values": [["10", "out"], ["20", wrapped], ["20", own]]});
        let two = json!({"stream": err, "values": [["10", "err", {"more": "x"}]]});
        let read = |value: Value| entries(value.to_string().as_bytes()).expect("entries");
        let seen = read(body([one.clone(), two.clone()]));
        let texts: Vec<_> = seen.iter().map(|entry| (entry.time, entry.stream, entry.text.as_str())).collect();
        let expected = [
            (10, Stream::Stderr, "err"),
            (10, Stream::Stdout, "out"),
            (20, Stream::Stderr, "from inside"),
            (20, Stream::Stdout, own.as_str()),
        ];
        assert_eq!(texts, expected);
        assert_eq!(read(body([two, one])), seen, "whatever the order of the streams");
        assert_eq!(entries(b"{}"), None);
        assert_eq!(entries(br#"{"data":{"result":[{"values":[[1]]}]}}"#), None);
    }
}
