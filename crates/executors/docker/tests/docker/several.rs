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
    let plain = Relay::start(To::Engine).await;
    let over_tls = Relay::start(To::EngineOverTls(authority.acceptor())).await;
    let mut over_ssh = sshd.connection();
    over_ssh["ssh"] = json!({ "key": "ssh-key", "known_hosts": "ssh-known" });
    let connections = [
        json!({ "endpoint": endpoint() }),
        json!({ "endpoint": format!("tcp://{}", plain.address) }),
        tls::connection(&over_tls),
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
                return end.outcome.clone();
            }
        }
    }));
    assert_eq!(ends.await, [10, 11, 12, 13].map(Outcome::Exited));
}
