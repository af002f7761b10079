//! From a tenant's secret to a pull, and from what the engine tells of the pull to the attempt's row.

use std::path::Path;
use std::process::Command;

use gantry_testkit::TestDocker;
use gantry_tests::{Fleet, Role, jobs};
use serde_json::json;
use tempfile::TempDir;

use registry::Registry;

#[expect(dead_code, reason = "the executor's own tests need an open one too")]
#[path = "../../../crates/executors/docker/tests/registry/mod.rs"]
mod registry;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");
/// Who may use a locked registry, and the same in base64, as docker's client keeps a login.
const CREDENTIALS: &str = "gantry:open:sesame";
const LOGIN: &str = "Z2FudHJ5Om9wZW46c2VzYW1l";

/// The engine's own client.
fn docker(config: &Path, arguments: &[&str]) -> String {
    let mut client = Command::new("docker");
    let done = client.arg("--config").arg(config).arg("-H").arg(TestDocker::find().host()).args(arguments).output();
    let done = done.expect("docker's client is installed");
    assert!(done.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// A registry that gives nothing to strangers, with an image that the test engine does not have.
struct Locked {
    registry: Registry,
    image: String,
    /// Of docker's client.
    config: TempDir,
}

impl Locked {
    /// The image is the test image with one layer more, which has these words and which no engine has seen.
    async fn with_layer(words: &str) -> Self {
        let (registry, config) = (Registry::locked().await, tempfile::tempdir().expect("a folder"));
        let logins = json!({ "auths": { registry.address.as_str(): { "auth": LOGIN } } });
        std::fs::write(config.path().join("config.json"), logins.to_string()).expect("writes the login");
        let image = format!("{}/private:1", registry.address);
        let locked = Self { registry, image, config };
        let (test_image, script) = (TestDocker::find(), format!("echo {words} > /words"));
        let made = locked.docker(&["create", "--network", "none", test_image.image(), "sh", "-c", &script]);
        locked.docker(&["start", "--attach", &made]);
        locked.docker(&["commit", &made, &locked.image]);
        locked.docker(&["rm", &made]);
        locked.docker(&["push", &locked.image]);
        locked.docker(&["rmi", &locked.image]);
        locked
    }

    fn docker(&self, arguments: &[&str]) -> String {
        docker(self.config.path(), arguments)
    }
}

#[tokio::test]
async fn a_tenants_own_credentials_pull_and_what_came_is_kept_with_the_attempt() {
    let fleet = Fleet::new().await;
    let other = fleet.other_tenant("globex").await;
    let locked = Locked::with_layer(&fleet.tenant.to_string()).await;
    let secrets = tempfile::tempdir().expect("a folder");
    let own = secrets.path().join("tenants").join(fleet.tenant.to_string());
    std::fs::create_dir_all(&own).expect("makes the folder");
    std::fs::write(own.join("hub"), CREDENTIALS).expect("writes the secret");

    let host = fleet.docker_host(4).await;
    let config = json!({ "registries": [{ "server": locked.registry.address, "tenant_credentials": "hub" }] });
    fleet.execute_text(format!("update executor_hosts set executor_config = '{config}'")).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    // A process of its own, because its environment says where its secrets are.
    let folder = secrets.path().to_str().expect("a path of text");
    let _worker = fleet.process(PART, Role::DockerWorker, &[("SECRETS_DIR", folder)]).await;
    fleet.served(host, 1).await;
    let (_api, client) = fleet.api().await;

    let job = jobs::with(jobs::docker("cat /words"), json!({ "spec": { "image": locked.image } }));
    let id = client.submit(&job).await;
    fleet.all_complete(&[id]).await;
    assert_eq!(fleet.log(id, 1, "stdout").await, format!("{}\n", fleet.tenant).as_bytes());
    let attempt = &fleet.attempts(id).await[0];
    let told = attempt["docker_log"].as_str().expect("a pull is told");
    let first = format!("pulling {} with the tenant's credentials \"hub\"", locked.image);
    assert_eq!(told.lines().next(), Some(first.as_str()), "{told}");
    let layers: Vec<&str> = told.lines().filter(|line| line.starts_with("layer ")).collect();
    assert!(layers.iter().any(|line| line.contains(", there after ")), "{told}");
    assert!(told.contains("new layers: 1 with ") && told.contains("Downloaded newer image"), "{told}");
    assert!(!told.contains("sesame"), "{told}");
    assert_eq!(client.job(id).await["attempts"][0]["backend_log"], attempt["docker_log"]);

    // The image is on the host now, which gives it to nobody else.
    let denied = client.with_key(Some("globex")).submit(&job).await;
    let row = fleet.ended(denied).await;
    assert_eq!((&row["status"], &row["failure_class"]), (&json!("failed"), &json!("image_pull_denied")), "{row}");
    let why = row["error_message"].as_str().expect("a reason");
    assert!(why.contains("without credentials") && why.contains(&other.to_string()), "{why}");
    assert_eq!(fleet.attempts(denied).await.len(), 1, "the same again would fail the same");
    locked.docker(&["rmi", "--force", &locked.image]);
}
