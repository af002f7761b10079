//! An engine that is reached over TCP.

use gantry_core::state::Outcome;
use gantry_worker::executor::Executor;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};

use crate::common::{self, endpoint};
use crate::lab::Lab;

#[tokio::test]
async fn a_tcp_host_is_the_same_engine_and_runs_the_same_container() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let socket = endpoint().trim_start_matches("unix://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut engine = UnixStream::connect(socket).await?;
                copy_bidirectional(&mut client, &mut engine).await
            });
        }
    });
    let lab = Lab::at(&format!("tcp://{address}"), json!({}));
    let over_socket = Lab::new();
    let reached = lab.executor.check(&lab.host).await.expect("the engine answers");
    let known = over_socket.executor.check(&over_socket.host).await.expect("the engine answers");
    assert_eq!(reached.identity, known.identity);
    let (_, end) = lab.run(common::sh("exit 4")).await;
    assert_eq!(end.outcome, Outcome::Exited(4));
}
