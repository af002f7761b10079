//! An engine that is reached over TLS, with certificates on both sides.

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_worker::executor::Executor;
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};

use crate::certificates::Authority;
use crate::common::sh;
use crate::lab::Lab;
use crate::relay::{Relay, To};

pub(crate) fn connection(relay: &Relay) -> Value {
    json!({ "endpoint": format!("tcp://{}", relay.address), "tls": { "ca": "ca", "certificate": "cert", "key": "key" } })
}

#[tokio::test]
async fn both_sides_show_their_certificates() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    authority.write_client(&authority, folder.path());
    let relay = Relay::start(To::EngineOverTls(authority.acceptor())).await;
    let lab = Lab::to(connection(&relay), json!({}), Secrets::in_folder(folder.path()));
    let known = Lab::new();
    let known = known.executor.check(&known.host).await.expect("the engine answers").identity;
    assert_eq!(lab.executor.check(&lab.host).await.expect("the engine answers").identity, known);
    let (id, end) = lab.run(sh("echo over tls; exit 4")).await;
    assert_eq!(end.outcome, Outcome::Exited(4));
    assert_eq!(lab.read(&id, None, 4096).await.0, b"over tls\n");
}

#[tokio::test]
async fn who_is_not_known_is_not_spoken_to_until_the_secrets_are_replaced() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("a folder");
    let relay = Relay::start(To::EngineOverTls(authority.acceptor())).await;
    let lab = Lab::to(connection(&relay), json!({}), Secrets::in_folder(folder.path()));

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
