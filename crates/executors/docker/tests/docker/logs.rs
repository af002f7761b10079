//! Every byte of the output, once and in order, whatever it looks like.

use std::time::{Duration, Instant};

use gantry_executor_docker::DockerExecutor;
use gantry_worker::executor::{Executor, LogCursor, Observed, Stream};

use crate::common::sh;
use crate::lab::Lab;

/// The engine cuts lines into pieces of this size.
const PIECE: usize = 16 * 1024;

#[tokio::test]
async fn fast_output_has_no_gap_and_no_repetition() {
    let lab = Lab::new();
    let (id, _) = lab.run(sh("seq 1 100000")).await;
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    for max_bytes in [64 * 1024, 10_000] {
        let began = Instant::now();
        let (out, err, _) = lab.read(&id, None, max_bytes).await;
        assert!(out == expected.as_bytes(), "pages of {max_bytes}: {} of {} bytes", out.len(), expected.len());
        assert!(err.is_empty());
        println!("588895 bytes in pages of {max_bytes}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_survive() {
    let lab = Lab::new();
    let (id, _) = lab.run(sh(r"printf 'a\377\376\000b\r\n\n\001\002\033[1m'; printf '\300' >&2")).await;
    let (out, err, _) = lab.read(&id, None, 4096).await;
    assert_eq!(out, b"a\xff\xfe\0b\r\n\n\x01\x02\x1b[1m");
    assert_eq!(err, b"\xc0");
}

#[tokio::test]
async fn long_lines_are_whole() {
    let lab = Lab::new();
    // Longer than a piece, exactly two pieces, one byte more than one; each followed by a line on its own.
    let script = format!(
        "for n in 50000 {} {}; do head -c $n /dev/zero | tr '\\0' x; echo; echo after; done; echo e >&2; printf end",
        2 * PIECE,
        PIECE + 1
    );
    let (id, _) = lab.run(sh(&script)).await;
    let line = |length: usize| format!("{}\nafter\n", "x".repeat(length));
    let expected = format!("{}{}{}end", line(50_000), line(2 * PIECE), line(PIECE + 1));
    for max_bytes in [1 << 20, 20_000, 1] {
        let (out, err, _) = lab.read(&id, None, max_bytes).await;
        assert!(out == expected.as_bytes(), "pages of {max_bytes}: {} of {} bytes", out.len(), expected.len());
        assert_eq!(err, b"e\n");
    }
}

#[tokio::test]
async fn random_bytes_are_followed_to_the_end() {
    let lab = Lab::new();
    // What is read while it runs, page by page, and what is read afterwards in one go must be the same bytes.
    let script = "for n in $(seq 1 40); do head -c 100000 /dev/urandom; echo; echo $n >&2; sleep 0.05; done";
    let id = lab.start(sh(script)).await;
    let (mut out, mut err, mut cursor) = (Vec::new(), Vec::new(), None);
    let mut reads = 0;
    loop {
        let ended = matches!(lab.observe(&id).await, Observed::Ended(_));
        let (more_out, more_err, reached) = lab.read(&id, cursor, 30_000).await;
        out.extend(more_out);
        err.extend(more_err);
        cursor = reached;
        if ended {
            break;
        }
        reads += 1;
        lab.executor.changed(&lab.host, Duration::from_millis(20)).await;
    }
    assert!(reads > 5, "read only {reads} times while it ran");
    let (whole_out, whole_err, end) = lab.read(&id, None, usize::MAX).await;
    assert!(out == whole_out, "followed {} bytes, read {}", out.len(), whole_out.len());
    assert_eq!(err, whole_err);
    assert_eq!(cursor, end);
    assert_eq!(out.len(), 40 * 100_001);
}

/// The first page is of what lies there while it runs; what is left of that when it ends is not the rest of the log.
#[tokio::test]
async fn what_was_printed_after_the_first_page_is_read_too() {
    let lab = Lab::new();
    let id = lab.start(sh("seq 1 1000; sleep 1; seq 1001 2000")).await;
    let first = loop {
        let page = lab.executor.logs(&lab.host, &id, None, 100).await.expect("reads the log");
        if page.more {
            break page;
        }
    };
    assert_eq!(lab.observe(&id).await, Observed::Running, "the machine is too slow for this test");
    lab.until_ended(&id).await;
    let (rest, _, _) = lab.read(&id, first.cursor, 100).await;
    let expected: String = (1..=2_000).map(|n| format!("{n}\n")).collect();
    let mut out: Vec<u8> = first.chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    out.extend(rest);
    assert!(out == expected.as_bytes(), "{} of {} bytes", out.len(), expected.len());
}

#[tokio::test]
async fn a_cursor_is_good_for_any_worker() {
    let lab = Lab::new();
    let (id, _) = lab.run(sh("seq 1 2000; seq 1 2000 >&2; seq 2001 4000")).await;
    let expected: String = (1..=4000).map(|n| format!("{n}\n")).collect();
    let (mut out, mut cursor) = (Vec::new(), None);
    loop {
        // A new executor for every page: nothing is kept between them.
        let another = DockerExecutor::new();
        let page = another.logs(&lab.host, &id, cursor.as_ref(), 5_000).await.expect("reads");
        let pieces = page.chunks.iter().filter(|(stream, _)| *stream == Stream::Stdout);
        pieces.for_each(|(_, bytes)| out.extend_from_slice(bytes));
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    assert!(out == expected.as_bytes());
}

#[tokio::test]
async fn a_place_that_never_was_is_an_error() {
    let lab = Lab::new();
    let (id, _) = lab.run(sh("echo short")).await;
    for cursor in [r#"{"out":1000,"err":0}"#, r#"{"out":2,"err":3}"#, "nonsense"] {
        let cursor = LogCursor(cursor.into());
        let answer = lab.executor.logs(&lab.host, &id, Some(&cursor), 100).await;
        assert!(answer.is_err(), "{cursor:?}: {answer:?}");
    }
}
