//! Runs jobs as tasks of Amazon ECS: on Fargate, on Fargate Spot, or on a cluster's own EC2 machines.
//!
//! # A host's configuration
//! A host is a cluster in a region. `connection_config` ([`Connection`]) says which, and as whom:
//! ```json
//! { "region": "eu-central-1", "cluster": "jobs", "credentials": "aws-jobs" }
//! ```
//! `credentials` names a secret of the worker (`gantry_worker::secrets`); without it the AWS SDK looks in its usual places.
//! `executor_config` ([`Options`]) says how tasks run there:
//! ```json
//! {
//!   "launch_type": "FARGATE_SPOT",
//!   "subnets": ["subnet-0a1b2c"], "security_groups": ["sg-0a1b2c"], "assign_public_ip": true,
//!   "execution_role": "arn:aws:iam::123456789012:role/gantry-execution",
//!   "task_role": "arn:aws:iam::123456789012:role/jobs",
//!   "log_group": "/gantry", "log_prefix": "gantry"
//! }
//! ```
//! Unknown keys are refused, and a mistake in either object shows in the host's health check. Container Insights is a
//! setting of the cluster: the health check says what it is.
//!
//! The worker needs `ecs:DescribeClusters`, `DescribeTaskDefinition`, `RegisterTaskDefinition`, `RunTask`,
//! `DescribeTasks`, `ListTasks`, `StopTask`, `TagResource`, `logs:GetLogEvents`, and `iam:PassRole` for both roles.
//!
//! # What a task gets
//! - The next larger of Fargate's sizes, so that a job may have more than it asks for and never less.
//! - Its command and variables as overrides, which ECS limits to 8,192 characters of JSON in all; a job with more is
//!   refused. Everything else is in the task definition, which is named after the hash of its content: any worker finds
//!   the one that exists, and registers one only if there is none, within the account's one a second. Each worker
//!   process keeps to that by itself: with N of them in one account and region, set `registration_share` to 1/N on the
//!   hosts there.
//! - The job's labels as tags, as far as they can be; `gantry:fleet`, `gantry:job` and `gantry:attempt` besides.
//! - No mounts, no named networks, no GPUs, no read-only root: jobs that ask for these are refused.
//! - SIGTERM, then the host's `stop_timeout_seconds`, then SIGKILL: ECS has no grace for a single stop.
//!
//! # What can be relied on
//! - **One name is one task for 24 hours**: the external name is RunTask's `clientToken`, and ECS answers the same task
//!   for the same token. Beyond that ([`FargateExecutor::idempotence`]) a launch is never repeated.
//! - The name is `startedBy` too, by which any worker finds the task, and the fleet is its `group`. Not by its tags: ECS
//!   deletes them when a task is stopped.
//! - ECS shows late what it knows. A task that it does not show is *unknown* until `settle_seconds` have passed in which
//!   this process asked for it in vain. ECS forgets a task about an hour after its end; then it is gone.
//! - A log is read line by line, both streams as standard output; what the `awslogs` driver splits stays split. Nothing
//!   marks its end: an ended task's log is complete when CloudWatch has no more and `log_settle_seconds` have passed since
//!   its end was seen.
//! - An exit code is the job's own. A task whose machine was taken away (Spot, maintenance) is a `backend_error` without
//!   one, even if it ended with 0 on SIGTERM.
//! - There is nothing to remove: ended tasks go by themselves, their logs by the log group's retention. The process that
//!   was asked to remove a task does not tell of it any more.

mod client;
mod config;
mod definition;
#[cfg(feature = "double")]
pub mod double;
mod end;
mod error;
mod find;
mod launch;
mod logs;
mod observe;
mod overrides;
mod owner;
mod pace;
mod reasons;
mod since;
mod size;
mod stop;

use std::time::Duration;

use async_trait::async_trait;
use client::Clients;
pub use config::{Architecture, Connection, LaunchType, NetworkMode, Options};
use definition::Definition;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use gantry_worker::secrets::Secrets;

/// A token is valid "for up to 24 hours" (`clientToken` of RunTask, "Ensuring idempotency", Amazon ECS API Reference). A
/// quarter of an hour less, for clocks that differ and requests that are under way.
const TOKEN: Duration = Duration::from_secs(24 * 3600 - 15 * 60);

/// The executor of type `fargate`. One serves any number of hosts, and keeps one client for each way to reach one.
#[derive(Default)]
pub struct FargateExecutor {
    clients: Clients,
}

impl FargateExecutor {
    /// An executor that has not connected to anything yet, with the secrets that its environment names.
    pub fn new() -> Self {
        Self::with_secrets(Secrets::from_environment())
    }

    /// The same with these secrets.
    pub fn with_secrets(secrets: Secrets) -> Self {
        Self { clients: Clients::with(secrets) }
    }
}

#[async_trait]
impl Executor for FargateExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Fargate
    }

    fn idempotence(&self) -> Idempotence {
        Idempotence::For(TOKEN)
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        Options::of(host)?;
        let cluster = self.clients.of(host).await?.cluster().await?;
        let insights = cluster
            .settings()
            .iter()
            .find(|setting| setting.name().is_some_and(|name| name.as_str() == "containerInsights"));
        let insights = insights.and_then(|setting| setting.value()).unwrap_or("unknown");
        let (running, pending) = (cluster.running_tasks_count(), cluster.pending_tasks_count());
        let identity = cluster.cluster_arn().unwrap_or_default().to_owned();
        let detail = format!("{identity}: {running} tasks run, {pending} are pending, Container Insights: {insights}");
        Ok(Health { identity, detail })
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        let options = Options::of(host)?;
        let spec = &spec.container;
        let asked = [
            ("mounts", !spec.mounts.is_empty()),
            ("network", spec.network.is_some()),
            ("gpus", spec.gpus.is_some()),
            ("read_only_root", spec.read_only_root),
        ];
        if let Some((field, _)) = asked.into_iter().find(|(_, asked)| *asked) {
            let message =
                format!("{field}: a fargate host has no such thing; leave it out, or choose another executor");
            return Err(Failure::new(FailureClass::InvalidSpec, message));
        }
        size::of(&options, spec)?;
        overrides::validate(spec)
    }

    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        let (options, client) = (Options::of(host)?, self.clients.of(host).await?);
        let definition = Definition::of(&client.connection.region, &options, &spec.container)?;
        client.definitions.ensure(&client, &options, &definition).await?;
        Ok(String::new())
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let options = Options::of(host).map_err(LaunchError::NotLaunched)?;
        let client = self.clients.of(host).await.map_err(LaunchError::NotLaunched)?;
        launch::launch(&client, &options, launch).await
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        let options = Options::of(host)?;
        observe::observe(&*self.clients.of(host).await?, &options, ids).await
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        let found = async {
            let options = Options::of(host)?;
            find::find(&*self.clients.of(host).await?, &options, name).await
        };
        found.await.unwrap_or_else(|failure: Failure| Found::Unknown(failure.to_string()))
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        let options = Options::of(host)?;
        logs::page(&*self.clients.of(host).await?, &options, id, cursor, max_bytes).await
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, _grace: Duration) -> Result<(), Failure> {
        let options = Options::of(host)?;
        stop::stop(&*self.clients.of(host).await?, &options, id).await
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        let options = Options::of(host)?;
        stop::remove(&*self.clients.of(host).await?, &options, id).await
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        find::owned(&*self.clients.of(host).await?, fleet).await
    }
}
