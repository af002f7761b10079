//! One worker, several hosts, each reached in its own way, all at once.

use futures::future::join_all;
use gantry_core::state::Outcome;
use gantry_worker::executor::{Executor, Observed};
use gantry_worker::secrets::Secrets;
use serde_json::json;

use crate::certificates::Authority;
use crate::common::{endpoint, host_to, sh};
use crate::lab::Lab;
use crate::relay::{Relay, To};
use crate::ssh::Sshd;
use crate::tls;

#[tokio::test]
async fn one_worker_serves_hosts_of_every_kind_at_once() {
    let (authority, sshd) = (Authority::new(), Sshd::start().await);
    // One folder of secrets, as a worker has it: `key` is ssh's there, and TLS has its own names.
    let folder = tempfile::tempdir().expect("a folder");
    authority.write_client(&authority, folder.path());
    for (from, to) in [("key", "ssh-key"), ("known", "ssh-known")] {
        std::fs::copy(sshd.folder.path().join(from), folder.path().join(to)).expect("copies the secret");
    }
    // Each host has a relay of its own before the engine, which counts; that of ssh is on the server's side.
    let sockets = tempfile::tempdir().expect("a folder");
    let local = Relay::at(&sockets.path().join("local.sock"), To::Engine);
    let plain = Relay::start(To::Engine).await;
    let over_tls = Relay::start(To::EngineOverTls(authority.acceptor())).await;
    let behind_ssh = Relay::at(&sockets.path().join("behind-ssh.sock"), To::Engine);
    let mut over_ssh = sshd.connection_to(&behind_ssh.address);
    over_ssh["ssh"] = json!({ "key": "ssh-key", "known_hosts": "ssh-known" });
    let connections = [
        json!({ "endpoint": format!("unix://{}", local.address) }),
        json!({ "endpoint": format!("tcp://{}", plain.address) }),
        tls::connection(&over_tls.address),
        over_ssh,
    ];
    let lab = Lab::to(json!({ "endpoint": endpoint() }), json!({}), Secrets::in_folder(folder.path()));
    let lab = &lab;
    let ends = join_all(connections.into_iter().zip(10..).map(async |(connection, code)| {
        let host = host_to(connection, json!({ "labels": { "way": code.to_string() } }));
        lab.executor.check(&host).await.expect("the engine answers");
        let launch = lab.launch_of(sh(&format!("sleep 0.3; exit {code}")));
        let id = lab.executor.launch(&host, &launch).await.expect("launches");
        loop {
            lab.executor.changed(&host, std::time::Duration::from_millis(200)).await;
            let states = lab.executor.observe(&host, std::slice::from_ref(&id)).await.expect("the engine answers");
            if let [(_, Observed::Ended(end))] = states.as_slice() {
                return (id, end.outcome.clone());
            }
        }
    }));
    let docker = lab.docker().await;
    for ((id, outcome), code) in ends.await.into_iter().zip(10..) {
        assert_eq!(outcome, Outcome::Exited(code));
        let container = docker.inspect_container(&id.0, None).await.expect("it is there");
        let labels = container.config.and_then(|config| config.labels).expect("it has labels");
        assert_eq!(labels["way"], code.to_string());
    }
    for (way, relay) in [("unix", &local), ("tcp", &plain), ("tls", &over_tls), ("ssh", &behind_ssh)] {
        assert!(relay.passed() > 0, "nobody came by {way}");
    }
}
