//! A Postgres that vanished without closing its connections: no request waits for ever, and its places in the pool
//! are not lost with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use gantry_testkit::{Proxy, eventually};
use gantry_tests::{Answer, Fleet, PATIENCE, Role, jobs};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");
/// Requests at once: more than the api has connections.
const READERS: usize = 25;

fn unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.body["code"], "unavailable", "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

#[tokio::test]
async fn a_read_is_answered_in_time() {
    let fleet = Fleet::new().await;
    let proxy = Proxy::start(&fleet.api_database()).await;
    let api = fleet.process_at(PART, Role::Api, proxy.url(), fleet.amqp_address(), &[]).await;
    let client = api.client();
    let id = client.submit(&jobs::mock(&[])).await;
    let paths = [format!("/v1/jobs/{id}"), "/v1/jobs".into(), "/v1/hosts".into(), format!("/v1/jobs/{id}/logs")];
    // Each has a connection in the pool.
    for answer in join_all(paths.iter().map(|path| client.get(path))).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    proxy.stall();
    let began = Instant::now();
    for answer in join_all(paths.iter().map(|path| client.get(path))).await {
        unavailable(&answer);
    }
    let submission = client.post("/v1/jobs", jobs::mock(&[]).to_string()).await;
    unavailable(&submission);
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    proxy.resume();
    eventually(PATIENCE, async || client.get(&paths[0]).await.status == 200).await;
}

/// A failover: what was connected hangs for good, who connects now is served.
#[tokio::test]
async fn connections_that_hang_give_their_places_back() {
    let fleet = Fleet::new().await;
    let upstream = fleet.api_database();
    let (address, switch) = failing_over(&upstream).await;
    let api = fleet.process_at(PART, Role::Api, &address, fleet.amqp_address(), &[]).await;
    let client = Arc::new(api.client());
    let id = client.submit(&jobs::mock(&[])).await;
    let path = format!("/v1/jobs/{id}");
    join_all((0..READERS).map(|_| client.get(&path))).await;
    switch.send_modify(|generation| *generation += 1);
    join_all((0..READERS).map(|_| client.get(&path))).await;
    // Well before TCP itself gives up, which takes a quarter of an hour.
    eventually(PATIENCE, async || {
        let answers = join_all((0..READERS).map(|_| client.get(&path))).await;
        answers.iter().all(|answer| answer.status == 200)
    })
    .await;
}

/// A way to `upstream` on which the connections from before the last switch pass nothing on, and stay open.
async fn failing_over(upstream: &str) -> (String, watch::Sender<u64>) {
    let mut url = reqwest::Url::parse(upstream).expect("an address");
    let server = (url.host_str().expect("a host").to_owned(), url.port().expect("a port"));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    url.set_port(Some(port)).expect("it has a host");
    let (switch, generation) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, mut generation) = (server.clone(), generation.clone());
            tokio::spawn(async move {
                generation.mark_unchanged();
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = generation.changed() => std::future::pending().await,
                }
            });
        }
    });
    (url.into(), switch)
}
