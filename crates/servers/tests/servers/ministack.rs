//! ministack answers on this machine only, and its tasks are containers of the engine that it is given.

use crate::common;
use gantry_servers::{DockerEngine, Ministack};

#[tokio::test]
async fn answers_on_loopback_and_ends_without_a_trace() {
    let folder = common::folder();
    let engine = DockerEngine::start(folder.path()).await.expect("starts");
    let host = format!("unix://{}", engine.socket_path().display());
    let ministack = Ministack::start(folder.path(), &host).await.expect("starts; `make test` sets GANTRY_PYTHON");
    let port: u16 = ministack.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let listening = std::fs::read_to_string("/proc/net/tcp").expect("it is always there");
    let sockets: Vec<_> =
        listening.lines().filter(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A"))).collect();
    assert!(sockets.len() == 1 && sockets[0].contains(" 0100007F:"), "on 127.0.0.1 alone: {sockets:?}");
    ministack.stop().await.expect("stops");
    let ministack = Ministack::start(folder.path(), &host).await.expect("starts again");
    assert_eq!(ministack.url(), format!("http://127.0.0.1:{port}"), "where it was");
    ministack.stop().await.expect("stops again");
    engine.stop().await.expect("stops");
    assert_eq!(common::processes(folder.path()), [""; 0]);
}
