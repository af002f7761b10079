//! `gantry db seed`: something to look at.

use std::fmt;

use clap::Args;
use gantry_admission::{Admitted, Incoming, admit};
use gantry_core::problem::Problem;
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::hosts::{self, NewHost};
use gantry_store::templates::{self, NewTemplate};
use gantry_store::tenants::{self, Principal};
use gantry_store::{Scope, Store};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::tenant::{self, NewKey};
use crate::output::{fields, table};

const BY: &str = "seed";
const HELLO: &str = "hello";
const SIMULATED: &str = "simulated";

/// What the seed is made of.
#[derive(Args)]
pub(crate) struct Options {
    /// The Docker Engine of the shared docker host
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock", value_name = "ENDPOINT")]
    docker: String,
    /// The image of the jobs on it; it needs a shell
    #[arg(long, default_value = "busybox:1", value_name = "IMAGE")]
    image: String,
    /// Where the shared mock host keeps its containers
    #[arg(long, default_value = "/tmp/gantry-mock", value_name = "FOLDER")]
    mock: String,
}

/// What is there now.
#[derive(Debug, Serialize)]
pub(super) struct Seeded {
    tenants: Vec<NewKey>,
    hosts: Vec<&'static str>,
    templates: Vec<&'static str>,
    jobs: Vec<SeededJob>,
}

#[derive(Debug, Serialize)]
struct SeededJob {
    tenant: String,
    name: String,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Verdict {
    Accepted {
        id: JobId,
        existing: bool,
        executor: ExecutorType,
    },
    /// Such as a job under the same key that another version of the seed made.
    Refused(Problem),
}

impl Options {
    /// Puts everything there that is not there yet, in the order in which one needs the other.
    pub(super) async fn plant(&self, store: &Store) -> Result<Seeded, gantry_store::Error> {
        let acme = Sown::tenant(store, "acme").await?;
        let globex = Sown::tenant(store, "globex").await?;
        let hosts = self.hosts(store, globex.key.tenant_id).await?;
        let templates = self.templates(store, acme.key.tenant_id).await?;
        let mut jobs = acme.jobs(store, acme_jobs()).await?;
        jobs.extend(globex.jobs(store, globex_jobs()).await?);
        Ok(Seeded { tenants: vec![acme.key, globex.key], hosts, templates, jobs })
    }

    async fn hosts(&self, store: &Store, globex: TenantId) -> Result<Vec<&'static str>, gantry_store::Error> {
        let folder = |name: &str| json!({ "dir": format!("{}/{name}", self.mock.trim_end_matches('/')) });
        let hosts = [
            ("docker-local", None, ExecutorType::Docker, json!({ "endpoint": self.docker }), 4),
            ("mock-shared", None, ExecutorType::Mock, folder("shared"), 50),
            ("mock-globex", Some(globex), ExecutorType::Mock, folder("globex"), 2),
        ];
        let mut names = Vec::new();
        for (name, tenant, executor_type, connection_config, max_concurrent_jobs) in hosts {
            let host = NewHost {
                tenant,
                name,
                executor_type,
                connection_config,
                executor_config: json!({}),
                max_concurrent_jobs,
                cost_per_job: Default::default(),
                cost_per_hour: Default::default(),
            };
            match hosts::insert(store, Scope::Fleet, &host).await {
                // Kept as it is: somebody may have changed it since.
                Err(error) if error.constraint() == Some("executor_hosts_owner_name") => {}
                inserted => drop(inserted?),
            }
            names.push(name);
        }
        Ok(names)
    }

    async fn templates(&self, store: &Store, acme: TenantId) -> Result<Vec<&'static str>, gantry_store::Error> {
        templates::put_environment(store, Scope::Fleet, acme, "common", "LANG=C.UTF-8\nGREETING=hello", BY).await?;
        let words = |words: [&str; 3]| words.map(str::to_owned);
        let hello = NewTemplate {
            description: "Greets, as its environment says",
            command: Some(&words(["sh", "-c", "echo \"$GREETING, $WHO, from $(hostname)\""])),
            environment_text: "WHO=world",
            environment_template: Some("common"),
            timeout_seconds: 60,
            supported_executors: &[ExecutorType::Docker],
            ..NewTemplate::new(acme, HELLO, &self.image, BY)
        };
        let simulated = NewTemplate {
            name: SIMULATED,
            description: "Runs nowhere: its labels say what it does",
            command: Some(&words(["true", "for", "nobody"])),
            supported_executors: &[ExecutorType::Mock],
            ..hello.clone()
        };
        templates::put(store, Scope::Fleet, &hello).await?;
        templates::put(store, Scope::Fleet, &simulated).await?;
        Ok(vec![HELLO, SIMULATED])
    }
}

/// Jobs of acme, by template only: what they run is the template's, and they are the same each time.
fn acme_jobs() -> Vec<Value> {
    vec![
        json!({ "name": "greet", "template": HELLO }),
        json!({ "name": "greet a friend", "template": HELLO, "override_environment": { "WHO": "friend" }, "priority": 10 }),
        json!({ "name": "fail with 3", "template": HELLO, "override_command": ["sh", "-c", "echo no >&2; exit 3"] }),
        json!({ "name": "pretend to work", "template": SIMULATED, "labels": { "mock.duration": "5s", "mock.lines": "20" } }),
    ]
}

fn globex_jobs() -> Vec<Value> {
    let simulated = |name: &str, labels: Value| json!({ "name": name, "spec": { "image": "none" }, "preferred_executor": "mock", "labels": labels });
    vec![
        simulated("quick", json!({})),
        simulated("slow", json!({ "mock.duration": "30s" })),
        simulated("fail with 1", json!({ "mock.exit_code": "1", "mock.stderr": "it did not work\n" })),
        simulated("run out of memory", json!({ "mock.fail": "oom_killed" })),
    ]
}

/// A tenant of the seed.
struct Sown {
    key: NewKey,
    principal: Principal,
}

impl Sown {
    async fn tenant(store: &Store, name: &str) -> Result<Self, gantry_store::Error> {
        // An operator's, so that every command can be tried with it.
        let key = tenant::put(store, name, BY, true).await?;
        let principal = tenants::authenticate(store, &key.api_key).await?;
        Ok(Self { key, principal: principal.expect("the key was stored just now") })
    }

    /// Submits the jobs as anybody's are, each under a key of its own: submitted again they are the same jobs.
    async fn jobs(&self, store: &Store, jobs: Vec<Value>) -> Result<Vec<SeededJob>, gantry_store::Error> {
        let incoming = jobs.iter().map(|job| {
            let mut job = job.clone();
            job["idempotency_key"] = json!(format!("seed: {}", name(&job)));
            Incoming::over_http(self.principal, job).expect("a test validates the jobs of the seed")
        });
        let verdicts = admit(store, Scope::Fleet, &incoming.collect::<Vec<_>>()).await?;
        let jobs = verdicts.into_iter().zip(&jobs).map(|(verdict, job)| SeededJob {
            tenant: self.key.tenant.clone(),
            name: name(job).to_owned(),
            verdict: match verdict {
                Ok(Admitted { job, existing, executor, .. }) => Verdict::Accepted { id: job, existing, executor },
                Err(problem) => Verdict::Refused(problem),
            },
        });
        Ok(jobs.collect())
    }
}

fn name(job: &Value) -> &str {
    job["name"].as_str().unwrap_or_default()
}

impl fmt::Display for Seeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.tenants.iter().map(|key| (key.tenant.as_str(), Some(key.api_key.clone())));
        let keys = fields(&keys.collect::<Vec<_>>());
        let jobs = self.jobs.iter().map(|job| {
            let (verdict, place) = match &job.verdict {
                Verdict::Accepted { id, existing: false, executor } => (id.to_string(), executor.to_string()),
                Verdict::Accepted { id, existing: true, executor } => {
                    (format!("{id} (was there)"), executor.to_string())
                }
                Verdict::Refused(problem) => (problem.to_string(), String::new()),
            };
            [job.tenant.clone(), job.name.clone(), place, verdict]
        });
        let jobs = table(["TENANT", "JOB", "EXECUTOR", "ID"], &[], jobs.collect());
        let (hosts, templates) = (self.hosts.join(", "), self.templates.join(", "));
        write!(
            f,
            "API keys, stored nowhere and shown this once:\n{keys}\n\nhosts: {hosts}\ntemplates: {templates}\n\n{jobs}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::spec::Submission;
    use std::collections::BTreeSet;

    #[test]
    fn the_jobs_are_valid_and_their_names_unique_per_tenant() {
        for jobs in [acme_jobs(), globex_jobs()] {
            let names: BTreeSet<&str> = jobs.iter().map(name).collect();
            assert_eq!(names.len(), jobs.len());
            for job in &jobs {
                assert_eq!(Submission::from_value(job.clone()).map(drop), Ok(()), "{job}");
            }
        }
    }
}
