//! What the double knows: definitions and runs, in the order of their making.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_double::Line;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// Everything.
#[derive(Default)]
pub(super) struct Book {
    pub(super) definitions: Vec<Definition>,
    pub(super) runs: Vec<Run>,
}

/// What a client says of a definition, to make or to change one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    pub(super) name: Option<String>,
    pub(super) project_id: Option<String>,
    pub(super) description: Option<String>,
    pub(super) cpu_limit: Option<u32>,
    pub(super) memory_limit: Option<u32>,
    pub(super) local_storage_capacity: Option<u32>,
    pub(super) image_uri: Option<String>,
    pub(super) command: Option<String>,
    pub(super) startup_command: Option<Vec<String>>,
    pub(super) args: Option<Vec<String>>,
    pub(super) environment_variables: Option<BTreeMap<String, String>>,
    pub(super) job_timeout: Option<String>,
    pub(super) retry_policy: Option<RetryPolicy>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RetryPolicy {
    pub(super) max_retries: u32,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Definition {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) project_id: String,
    pub(super) description: String,
    pub(super) cpu_limit: u32,
    pub(super) memory_limit: u32,
    pub(super) local_storage_capacity: u32,
    pub(super) image_uri: String,
    pub(super) command: String,
    pub(super) startup_command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) environment_variables: BTreeMap<String, String>,
    pub(super) job_timeout: String,
    pub(super) retry_policy: RetryPolicy,
    pub(super) region: String,
    #[serde(serialize_with = "rfc3339")]
    pub(super) created_at: DateTime<Utc>,
    #[serde(serialize_with = "rfc3339")]
    pub(super) updated_at: DateTime<Utc>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) job_definition_id: String,
    pub(super) state: &'static str,
    pub(super) cpu_limit: u32,
    pub(super) memory_limit: u32,
    pub(super) local_storage_capacity: u32,
    pub(super) environment_variables: BTreeMap<String, String>,
    pub(super) startup_command: Vec<String>,
    pub(super) args: Vec<String>,
    pub(super) region: String,
    #[serde(serialize_with = "rfc3339")]
    pub(super) created_at: DateTime<Utc>,
    #[serde(serialize_with = "rfc3339")]
    pub(super) updated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_rfc3339")]
    pub(super) started_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub(super) end: Option<End>,
    #[serde(skip)]
    pub(super) project: String,
    #[serde(skip)]
    pub(super) definition_name: String,
    #[serde(skip)]
    pub(super) image: String,
    #[serde(skip)]
    pub(super) timeout: Duration,
    #[serde(skip)]
    pub(super) visible_from: Instant,
    #[serde(skip)]
    pub(super) container: Option<String>,
    #[serde(skip)]
    pub(super) stop_asked: bool,
    #[serde(skip)]
    pub(super) lines: Vec<Line>,
}

/// What a run has only when it is over.
#[derive(Clone, Debug, Serialize)]
pub(super) struct End {
    #[serde(serialize_with = "rfc3339")]
    pub(super) terminated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exit_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_message: Option<String>,
}

impl Definition {
    pub(super) fn new(wish: Wish, region: String) -> Self {
        let (now, id) = (now(), Uuid::now_v7().to_string());
        let mut made = Self {
            name: format!("job-{id}"),
            id,
            project_id: String::new(),
            description: String::new(),
            cpu_limit: 0,
            memory_limit: 0,
            local_storage_capacity: 0,
            image_uri: String::new(),
            command: String::new(),
            startup_command: Vec::new(),
            args: Vec::new(),
            environment_variables: BTreeMap::new(),
            job_timeout: "86400s".to_owned(),
            retry_policy: RetryPolicy::default(),
            region,
            created_at: now,
            updated_at: now,
        };
        made.change(wish);
        made
    }

    pub(super) fn change(&mut self, wish: Wish) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        set(&mut self.name, wish.name);
        set(&mut self.project_id, wish.project_id);
        set(&mut self.description, wish.description);
        set(&mut self.cpu_limit, wish.cpu_limit);
        set(&mut self.memory_limit, wish.memory_limit);
        set(&mut self.local_storage_capacity, wish.local_storage_capacity);
        set(&mut self.image_uri, wish.image_uri);
        set(&mut self.command, wish.command);
        set(&mut self.startup_command, wish.startup_command);
        set(&mut self.args, wish.args);
        set(&mut self.environment_variables, wish.environment_variables);
        set(&mut self.job_timeout, wish.job_timeout);
        set(&mut self.retry_policy, wish.retry_policy);
        self.updated_at = now();
    }

    pub(super) fn timeout(&self) -> Duration {
        let seconds = self.job_timeout.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
        Duration::from_secs(seconds.unwrap_or(86_400))
    }
}

impl Run {
    pub(super) fn is_visible(&self) -> bool {
        self.visible_from <= Instant::now()
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }
}

impl Book {
    pub(super) fn definition(&mut self, id: &str) -> Option<&mut Definition> {
        self.definitions.iter_mut().find(|definition| definition.id == id)
    }

    pub(super) fn run(&mut self, id: &str) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }
}

pub(super) fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

fn rfc3339<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn maybe_rfc3339<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
