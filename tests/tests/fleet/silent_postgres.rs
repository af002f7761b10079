//! A Postgres that vanished without closing its connections: no request waits for ever, and its places in the pool
//! are not lost with it.

use std::time::Instant;

use futures::future::join_all;
use gantry_testkit::{Proxy, eventually};
use gantry_tests::{Answer, Fleet, PATIENCE, Role, jobs};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

fn unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.body["code"], "unavailable", "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
}

/// Waits until at least so many transactions of the api wait for locks that the test has.
async fn waiting_for_locks(fleet: &Fleet, transactions: usize) {
    let waiting = "select count(*) from pg_stat_activity
         where datname = current_database() and usename = 'gantry_api' and wait_event_type = 'Lock'";
    eventually(PATIENCE, async || fleet.scalar::<i64>(waiting).await >= transactions as i64).await;
}

#[tokio::test]
async fn a_read_is_answered_in_time() {
    let fleet = Fleet::new().await;
    let proxy = Proxy::start(&fleet.api_database()).await;
    let api = fleet.process_at(PART, Role::Api, proxy.url(), fleet.amqp_address(), &[]).await;
    let client = api.client();
    let id = client.submit(&jobs::mock(&[])).await;
    let paths = [format!("/v1/jobs/{id}"), "/v1/jobs".into(), "/v1/hosts".into(), format!("/v1/jobs/{id}/logs")];
    let read_all = || join_all(paths.iter().map(|path| client.get(path)));
    for answer in read_all().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // In the middle of their statements, and between them.
    let lock = fleet.hold("lock container_jobs, executor_hosts, container_log_chunks in access exclusive mode").await;
    let stalled = async {
        waiting_for_locks(&fleet, paths.len()).await;
        proxy.stall();
    };
    let began = Instant::now();
    let (answers, ()) = timeout(PATIENCE, async { tokio::join!(read_all(), stalled) }).await.expect("answers");
    answers.iter().for_each(unavailable);
    drop(lock);
    for answer in read_all().await {
        unavailable(&answer);
    }
    unavailable(&client.post("/v1/jobs", jobs::mock(&[]).to_string()).await);
    println!("{:?} for answers that say so", began.elapsed());
    proxy.resume();
    eventually(PATIENCE, async || client.get(&paths[0]).await.status == 200).await;
}

/// A failover in the middle of transactions: what was connected hangs for good, who connects now is served.
#[tokio::test]
async fn connections_that_hang_give_their_places_back() {
    let fleet = Fleet::new().await;
    let (address, switch) = failing_over(&fleet.api_database()).await;
    let api =
        fleet.process_at(PART, Role::Api, &address, fleet.amqp_address(), &[("DATABASE__MAX_CONNECTIONS", "4")]).await;
    let client = api.client();
    let id = client.submit(&jobs::mock(&[])).await;
    // All connections are in use: they wait for a row that the test has locked.
    let lock = fleet.hold("select from container_jobs for update").await;
    let cancels = join_all((0..4).map(|_| client.cancel(id)));
    let switched = async {
        waiting_for_locks(&fleet, 4).await;
        switch.send_modify(|generation| *generation += 1);
    };
    let (answers, ()) = tokio::join!(cancels, switched);
    answers.iter().for_each(unavailable);
    drop(lock);
    // Well before TCP itself gives up, which takes a quarter of an hour.
    let path = format!("/v1/jobs/{id}");
    eventually(PATIENCE, async || client.get(&path).await.status == 200).await;
    let answers = join_all((0..4).map(|_| client.cancel(id))).await;
    // The first of them ends the job, and the others are told that it has ended.
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 409)), "{answers:?}");
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
