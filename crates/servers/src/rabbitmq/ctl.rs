//! RabbitMQ's own command line, for what has no other way: alarms, above all.

use super::{PACKAGE, RabbitMq};
use crate::{Result, process, program};

impl RabbitMq {
    /// Runs `rabbitmqctl` on this node and returns what it printed.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let program = program::find("rabbitmqctl", &["/usr/lib/rabbitmq/bin"], PACKAGE)?;
        let mut command = self.node.folder.command(program);
        command
            .args(["--node", &self.node.name])
            .args(arguments)
            .env("ERL_EPMD_PORT", self.node.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // It is a node itself, and listens while it runs.
            .env("RABBITMQ_CTL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        process::run(command).await
    }
}
