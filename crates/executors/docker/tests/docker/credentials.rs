//! Registries that want credentials: the host's own, and each tenant's.

use gantry_core::spec::ResolvedSpec;
use gantry_core::state::Outcome;
use gantry_core::{FailureClass, TenantId};
use gantry_worker::executor::Executor;
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{endpoint, words};
use crate::images::{CREDENTIALS, overrun, push, untag};
use crate::lab::Lab;
use crate::registry::Registry;

struct Locked {
    registry: Registry,
    image: String,
    secrets: TempDir,
}

impl Locked {
    async fn start(name: &str) -> Self {
        let registry = Registry::locked().await;
        let image = push(&registry, &Lab::new().docker().await, name).await;
        Self { registry, image, secrets: tempfile::tempdir().expect("a folder") }
    }

    fn write(&self, secret: &str, value: &str) {
        let path = self.secrets.path().join(secret);
        std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("makes the folder");
        std::fs::write(path, value).expect("writes the secret");
    }

    fn lab(&self, names: Value) -> Lab {
        let mut login = names;
        login["server"] = json!(self.registry.address);
        let config = json!({ "registries": [login] });
        Lab::to(json!({ "endpoint": endpoint() }), config, Secrets::in_folder(self.secrets.path()))
    }

    fn spec(&self, tenant: Option<TenantId>) -> ResolvedSpec {
        let mut spec = words(&["true"]);
        spec.container.image.clone_from(&self.image);
        spec.tenant = tenant;
        spec
    }
}

async fn refusal(lab: &Lab, spec: &ResolvedSpec) -> String {
    let failure = lab.executor.prepare(&lab.host, spec).await.expect_err("the registry is locked");
    assert_eq!(failure.class, FailureClass::ImagePullDenied, "{failure}");
    failure.message
}

#[tokio::test]
async fn the_hosts_credentials_open_a_registry_for_every_job() {
    let locked = Locked::start("private").await;
    let lab = locked.lab(json!({ "credentials": "hub" }));
    let spec = locked.spec(None);

    // The host is not well until it has what it names, and nothing is pulled without.
    let failure = lab.executor.check(&lab.host).await.expect_err("there is no such secret");
    assert_eq!(failure.class, FailureClass::BackendError);
    assert!(failure.message.contains("\"hub\"") && failure.message.contains("GANTRY_SECRET_HUB"), "{failure}");
    let failure = lab.executor.prepare(&lab.host, &spec).await.expect_err("there is no such secret");
    assert_eq!(failure.class, FailureClass::BackendError, "{failure}");

    locked.write("hub", "gantry:wrong");
    lab.executor.check(&lab.host).await.expect("it is there, right or wrong");
    let message = refusal(&lab, &spec).await;
    assert!(message.contains("\"hub\"") && !message.contains("gantry:wrong"), "{message}");

    locked.write("hub", CREDENTIALS);
    let said = lab.executor.prepare(&lab.host, &spec).await.expect("pulls");
    assert!(said.contains("with the host's credentials \"hub\""), "{said}");
    assert!(!said.contains(CREDENTIALS.split_once(':').expect("two parts").1), "{said}");
    assert_eq!(lab.run(spec.clone()).await.1.outcome, Outcome::Exited(0));
    let mut unknown = spec;
    unknown.container.image = format!("{}/no-such-image:1", locked.registry.address);
    let failure = lab.executor.prepare(&lab.host, &unknown).await.expect_err("there is no such image");
    assert_eq!(failure.class, FailureClass::ImageNotFound, "{failure}");
    untag(&lab.docker().await, &locked.image).await;
}

#[tokio::test]
async fn without_credentials_a_locked_registry_says_no() {
    let locked = Locked::start("stranger").await;
    let lab = Lab::new();
    let message = refusal(&lab, &locked.spec(None)).await;
    assert!(message.contains("without credentials"), "{message}");
}

#[tokio::test]
async fn what_one_tenant_may_pull_is_no_other_ones() {
    let locked = Locked::start("tenants").await;
    let lab = locked.lab(json!({ "tenant_credentials": "hub" }));
    let (ours, theirs) = (TenantId::new(), TenantId::new());
    locked.write(&format!("tenants/{ours}/hub"), CREDENTIALS);

    let said = lab.executor.prepare(&lab.host, &locked.spec(Some(ours))).await.expect("it may");
    assert!(said.contains("with the tenant's credentials \"hub\""), "{said}");
    // It is on the host now, and that makes no difference to anybody else.
    let message = refusal(&lab, &locked.spec(Some(theirs))).await;
    assert!(message.contains(&theirs.to_string()), "it says where the secret would have to be: {message}");
    locked.write(&format!("tenants/{theirs}/hub"), "gantry:wrong");
    refusal(&lab, &locked.spec(Some(theirs))).await;
    // A tenant's reference is none of the host's, nor the other way round.
    locked.write("hub", CREDENTIALS);
    refusal(&lab, &locked.spec(Some(TenantId::new()))).await;

    // With credentials of the host's, a tenant that has none of its own is served with those.
    let both = locked.lab(json!({ "credentials": "hub", "tenant_credentials": "own" }));
    let said = both.executor.prepare(&both.host, &locked.spec(Some(TenantId::new()))).await.expect("with the host's");
    assert!(said.contains("with the host's credentials"), "{said}");
    untag(&lab.docker().await, &locked.image).await;
}

#[tokio::test]
async fn a_registry_that_asks_to_slow_down_is_throttled() {
    let lab = Lab::new();
    let mut spec = words(&["true"]);
    spec.container.image = format!("{}/popular:1", overrun().await);
    let failure = lab.executor.prepare(&lab.host, &spec).await.expect_err("too many requests");
    assert_eq!(failure.class, FailureClass::Throttled, "{failure}");
}
