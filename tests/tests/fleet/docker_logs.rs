//! Logs far longer than anybody reads: they fill no memory, hold nobody up, and what is stored of them is exact.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use gantry_testkit::{Proxy, eventually};
use gantry_tests::{Client, Fleet, PATIENCE, Process, Role, jobs};
use serde_json::Value;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");
const MIB: u64 = 1 << 20;
/// What a worker or an API may take above what it takes idle.
const ROOM: u64 = 60 * MIB;
/// The same for twenty logs at once: some 64 MiB, whether each is 2, 5 or 10 MB long.
const ROOM_OF_MANY: u64 = 80 * MIB;
const LINE: usize = 1_000;
/// Of one stream in 100 MB.
const LINES: usize = 50_000;

/// 50 MB on each stream: numbered lines of 1,000 bytes, ten of the one and then ten of the other.
const NOISE: &str = r#"awk 'BEGIN { p = sprintf("%990s", "x"); gsub(" ", "x", p);
    for (i = 0; i < 50000; i += 10) {
        for (k = i; k < i + 10; k++) printf "%08d %s\n", k, p
        fflush()
        for (k = i; k < i + 10; k++) printf "%08d %s\n", k, p > "/dev/stderr"
        fflush("/dev/stderr")
    } }'"#;

fn printed(lines: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(lines * LINE);
    (0..lines).for_each(|line| bytes.extend_from_slice(format!("{line:08} {}\n", "x".repeat(990)).as_bytes()));
    bytes
}

/// A dispatcher and a recorder in this process, and a docker worker in one of its own.
async fn fleet(slots: i32) -> (Fleet, [gantry_tests::Part; 2], Process) {
    let fleet = Fleet::new().await;
    let host = fleet.docker_host(slots).await;
    let parts = [fleet.dispatcher(), fleet.recorder()];
    let worker = fleet.process(PART, Role::DockerWorker, &[]).await;
    fleet.served(host, 1).await;
    (fleet, parts, worker)
}

/// From submission to recorded end of short silent jobs, one after another; the median.
async fn median_of_silent_jobs(fleet: &Fleet) -> Duration {
    let producer = fleet.producer().await;
    let mut times = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let id = producer.submit(&jobs::docker("exit 0")).await;
        fleet.ended(id).await;
        times.push(began.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// Each chunk begins where the last one ended, what was left out counted, and is what was printed there.
fn exact(chunks: &[(i64, i64, Vec<u8>)], printed: &[u8]) -> i64 {
    let (mut end, mut left_out) = (0, 0);
    for (offset, omitted, data) in chunks {
        assert_eq!(*offset, end + omitted, "no gap and nothing twice");
        let from = usize::try_from(*offset).expect("a place");
        assert!(printed[from..from + data.len()] == data[..], "byte by byte at {offset}");
        end = offset + i64::try_from(data.len()).expect("a size");
        left_out += omitted;
    }
    assert_eq!(end, i64::try_from(printed.len()).expect("a size"), "up to the very end");
    left_out
}

#[tokio::test]
async fn a_hundred_megabytes_fill_no_memory_and_delay_nobody() {
    let (fleet, _parts, worker) = fleet(8).await;
    let quiet = median_of_silent_jobs(&fleet).await;
    let (idle, _) = worker.memory();

    let began = Instant::now();
    let noisy = fleet.producer().await.submit(&jobs::docker(NOISE)).await;
    fleet.reaches(noisy, "running").await;
    let beside = median_of_silent_jobs(&fleet).await;
    let still_running = fleet.job(noisy).await["status"] == "running";
    fleet.all_complete(&[noisy]).await;
    let took = began.elapsed();
    let (_, peak) = worker.memory();
    println!(
        "silent jobs: median {quiet:?} alone, {beside:?} beside the noise ({:.1} times; still printing or being read: \
         {still_running}); 100 MB took {took:?}; worker {} MiB idle, {} MiB at most",
        beside.as_secs_f64() / quiet.as_secs_f64(),
        idle / MIB,
        peak / MIB
    );
    assert!(beside < quiet * 3 + Duration::from_secs(1), "{beside:?} instead of {quiet:?}");
    assert!(peak < idle + ROOM, "{} MiB", peak / MIB);

    let attempt = &fleet.attempts(noisy).await[0];
    let all = printed(LINES);
    for stream in ["stdout", "stderr"] {
        assert_eq!(attempt[format!("{stream}_bytes")], all.len(), "{stream}");
        let stored = fleet.chunks(noisy, stream).await;
        let left_out = exact(&stored, &all);
        let kept: usize = stored.iter().map(|(_, _, data)| data.len()).sum();
        println!("{stream}: {kept} bytes kept in {} chunks, {left_out} left out", stored.len());
        assert!(left_out > 30_000_000 && kept >= 16_000_000, "the head and the tail");
        assert_eq!(stored.last().map(|(_, _, data)| data.len()), Some(1 << 20), "the tail");
    }
    assert_eq!(attempt["logs_incomplete"], false);
}

/// One reader through a proxy that cuts it again and again, and one that does not read at all for a while.
#[tokio::test]
async fn followers_of_a_long_docker_log_see_all_of_it_once() {
    let (fleet, _parts, worker) = fleet(4).await;
    let api = fleet.process(PART, Role::Api, &[]).await;
    let proxy = Proxy::start(&format!("http://{}", api.address())).await;
    let script = NOISE.replace("50000", "10000");
    let id = fleet.producer().await.submit(&jobs::docker(&format!("{script}; sleep 1"))).await;
    let path = format!("/v1/jobs/{id}/logs?follow=true");
    eventually(PATIENCE, async || !fleet.chunks(id, "stdout").await.is_empty()).await;
    let (idle, _) = api.memory();
    let slow = api.client().request(reqwest::Method::GET, &path).send().await.expect("a slow reader's answer");

    let through = api.client().at(proxy.url());
    let mut reader = Reader::default();
    let mut connections = 0;
    while !reader.over {
        connections += 1;
        // Cut in the middle of what is read; from the fifth connection on no more.
        let cut_after = if connections < 5 { 700_000 } else { usize::MAX };
        reader.connect(&through, &path, cut_after, || proxy.cut()).await;
    }
    assert!(connections >= 5, "{connections}");
    let all = printed(10_000);
    assert!(reader.streams[0] == all && reader.streams[1] == all, "each byte once and in order");
    fleet.all_complete(&[id]).await;

    let (_, peak) = api.memory();
    println!("{connections} connections; api {} MiB idle, {} MiB at most", idle / MIB, peak / MIB);
    assert!(peak < idle + ROOM, "{} MiB", peak / MIB);
    let rest = slow.bytes().await.expect("the slow reader reads at last");
    assert!(rest.len() > 2 * all.len(), "{}", rest.len());
    drop(worker);
}

/// What a follower has seen.
#[derive(Default)]
struct Reader {
    streams: [Vec<u8>; 2],
    last_id: String,
    over: bool,
}

impl Reader {
    /// Reads events until the connection ends; `cut` is called once after so many bytes.
    async fn connect(&mut self, client: &Client, path: &str, cut_after: usize, cut: impl Fn()) {
        let request = client.request(reqwest::Method::GET, path).header("Last-Event-ID", &self.last_id);
        let Ok(response) = request.send().await else { return };
        let (mut body, mut text, mut read) = (response.bytes_stream(), Vec::new(), 0);
        while let Some(Ok(bytes)) = body.next().await {
            read += bytes.len();
            text.extend_from_slice(&bytes);
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                self.take(std::str::from_utf8(&event).expect("events are text"));
            }
            if read > cut_after {
                return cut();
            }
        }
    }

    fn take(&mut self, event: &str) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let stream = match field("event:") {
            Some("stdout") => 0,
            Some("stderr") => 1,
            Some("end") => return self.over = true,
            _ => return,
        };
        let chunk: Value = serde_json::from_str(field("data:").expect("data")).expect("JSON");
        assert_eq!(chunk["offset"], self.streams[stream].len(), "in order, and nothing twice");
        self.streams[stream].extend_from_slice(chunk["text"].as_str().expect("text").as_bytes());
        field("id:").expect("an id").clone_into(&mut self.last_id);
    }
}

/// Twenty at once, and a database that is slow to answer: whole all the same, and nobody is far behind.
#[tokio::test]
async fn many_noisy_docker_jobs_over_a_slow_database() {
    let (fleet, postgres, _rabbitmq) = Fleet::behind_proxies().await;
    let host = fleet.docker_host(21).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let worker = fleet.process(PART, Role::DockerWorker, &[]).await;
    fleet.served(host, 1).await;
    let (idle, _) = worker.memory();
    let script = NOISE.replace("50000", "2500");
    postgres.delay(Duration::from_millis(20));
    let ids = fleet.producer().await.submit_all(&vec![jobs::docker(&script); 20]).await;
    fleet.count_reaches("running", 20).await;
    // It has something to say, too, and its page waits among theirs.
    let began = Instant::now();
    let short = fleet.producer().await.submit(&jobs::docker("echo short")).await;
    fleet.ended(short).await;
    let short_took = began.elapsed();
    fleet.all_complete(&ids).await;
    let (_, peak) = worker.memory();
    println!(
        "a short job beside twenty: {short_took:?}; all after {:?}; worker {} MiB idle, {} MiB at most",
        began.elapsed(),
        idle / MIB,
        peak / MIB
    );
    assert!(peak < idle + ROOM_OF_MANY, "{} MiB", peak / MIB);
    let all = printed(2_500);
    for id in ids {
        for stream in ["stdout", "stderr"] {
            assert_eq!(exact(&fleet.chunks(id, stream).await, &all), 0);
        }
    }
}
