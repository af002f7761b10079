//! An engine that is reached over TLS, with certificates on both sides.

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_servers::DockerEngine;
use gantry_worker::executor::Executor;
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};

use crate::certificates::Authority;
use crate::common::sh;
use crate::lab::Lab;
use crate::registry::free_address;
use crate::relay::{Relay, To};

pub(crate) fn connection(address: &str) -> Value {
    json!({ "endpoint": format!("tcp://{address}"), "tls": { "ca": "ca", "certificate": "cert", "key": "key" } })
}

#[tokio::test]
async fn both_sides_show_their_certificates() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    authority.write_client(&authority, folder.path());
    let relay = Relay::start(To::EngineOverTls(authority.acceptor())).await;
    let lab = Lab::to(connection(&relay.address), json!({}), Secrets::in_folder(folder.path()));
    let known = Lab::new();
    let known = known.executor.check(&known.host).await.expect("the engine answers").identity;
    assert_eq!(lab.executor.check(&lab.host).await.expect("the engine answers").identity, known);
    let (id, end) = lab.run(sh("echo over tls; exit 4")).await;
    assert_eq!(end.outcome, Outcome::Exited(4));
    assert_eq!(lab.read(&id, None, 4096).await.0, b"over tls\n");
}

/// The other side is not this test's own TLS but the engine's.
#[tokio::test]
async fn an_engine_that_verifies_its_clients_takes_ours() {
    let (authority, stranger, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().expect("a folder"));
    authority.write_client(&authority, folder.path());
    authority.write_server(folder.path());
    let address = free_address().await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let arguments = [
        format!("--host=tcp://{address}"),
        "--tlsverify".into(),
        format!("--tlscacert={}", file("ca")),
        format!("--tlscert={}", file("server")),
        format!("--tlskey={}", file("server-key")),
    ];
    let data = tempfile::tempdir().expect("a folder");
    let engine = DockerEngine::start_with(data.path(), &arguments).await.expect("an engine of this test's own");
    engine.import_test_image().await.expect("the test image");
    let lab = || Lab::to(connection(&address), json!({}), Secrets::in_folder(folder.path()));
    let ours = lab();
    let mut spec = sh("echo over tls; exit 4");
    spec.container.image = gantry_servers::TEST_IMAGE.into();
    let (id, end) = ours.run(spec).await;
    assert_eq!(end.outcome, Outcome::Exited(4));
    assert_eq!(ours.read(&id, None, 4096).await.0, b"over tls\n");

    authority.write_client(&stranger, folder.path());
    let theirs = lab();
    let failure = theirs.executor.check(&theirs.host).await.expect_err("a stranger");
    assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}");
    drop((ours, theirs));
    engine.stop().await.expect("stops");
}

#[tokio::test]
async fn who_is_not_known_is_not_spoken_to_until_the_secrets_are_replaced() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let relay = Relay::start(To::EngineOverTls(authority.acceptor())).await;
    let lab = Lab::to(connection(&relay.address), json!({}), Secrets::in_folder(folder.path()));

    let failure = lab.executor.check(&lab.host).await.expect_err("there are no secrets");
    assert_eq!(failure.class, FailureClass::BackendError);
    assert!(failure.message.contains("\"ca\"") && failure.message.contains("GANTRY_SECRET_CA"), "{failure}");

    // A client that another authority has signed, and then an engine that another authority has signed.
    for (trusted, signer) in [(&authority, &stranger), (&stranger, &authority)] {
        trusted.write_client(signer, folder.path());
        let failure = lab.executor.check(&lab.host).await.expect_err("a stranger");
        assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}");
    }

    std::fs::write(folder.path().join("key"), "not a key, and secret").expect("writes the secret");
    let failure = lab.executor.check(&lab.host).await.expect_err("no key");
    assert!(failure.message.contains("tls.key") && !failure.message.contains("and secret"), "{failure}");

    authority.write_client(&authority, folder.path());
    lab.executor.check(&lab.host).await.expect("they were replaced");
}
