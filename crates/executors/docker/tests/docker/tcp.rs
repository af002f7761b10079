//! An engine that is reached over TCP.

use gantry_core::state::Outcome;
use gantry_worker::executor::Executor;
use serde_json::json;

use crate::common::sh;
use crate::lab::Lab;
use crate::relay::{Relay, To};

#[tokio::test]
async fn a_tcp_host_is_the_same_engine_and_runs_the_same_container() {
    let relay = Relay::start(To::Engine).await;
    let lab = Lab::at(&format!("tcp://{}", relay.address), json!({}));
    let over_socket = Lab::new();
    let reached = lab.executor.check(&lab.host).await.expect("the engine answers");
    let known = over_socket.executor.check(&over_socket.host).await.expect("the engine answers");
    assert_eq!(reached.identity, known.identity);
    let (_, end) = lab.run(sh("exit 4")).await;
    assert_eq!(end.outcome, Outcome::Exited(4));
}
