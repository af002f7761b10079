//! Every byte once, in order, from the first on.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::contract::bench::Log;
use crate::contract::{Bench, LogKind, Verdict};
use crate::executor::Observed;

/// The first bytes are there even of a container that ended at once; the streams are apart; bytes are bytes.
pub async fn logs_begin_with_the_first_byte(bench: &Bench<'_>) -> Verdict {
    let (stdout, stderr) = ("first é\n  second\tlast, without a line's end", "err 1\nerr 2\n");
    let started = bench.start(bench.subject.print(stdout, stderr)?).await;
    bench.until_ended(&started.id).await;
    let log = bench.whole_log(&started.id, 64 * 1024).await;
    let (read, errors) = (String::from_utf8_lossy(&log.stdout), String::from_utf8_lossy(&log.stderr));
    match bench.subject.log_kind() {
        LogKind::Bytes => assert_eq!((read.as_ref(), errors.as_ref()), (stdout, stderr)),
        LogKind::Lines => assert_eq!((read.as_ref(), errors.as_ref()), (format!("{stdout}\n").as_str(), stderr)),
        // Which of the two streams comes first is the backend's own.
        LogKind::MixedLines => {
            let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!((sorted(&read), errors.as_ref()), (sorted(&format!("{stdout}\n{stderr}")), ""));
        }
    }
    Ok(())
}

/// Pages of a few bytes, put together, are the log; and any worker can go on where another stopped.
pub async fn small_pages_make_the_whole(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.lines(50, Duration::ZERO)?).await;
    bench.until_ended(&started.id).await;
    let whole = bench.whole_log(&started.id, 64 * 1024).await;
    assert_eq!(String::from_utf8_lossy(&whole.stdout), lines(50));
    for size in [1, 7, 100] {
        let pieces = bench.whole_log(&started.id, size).await;
        assert_eq!(String::from_utf8_lossy(&pieces.stdout), lines(50), "in pages of about {size} bytes");
    }
    let (host, another) = (bench.subject.host(), bench.subject.another());
    let first = bench.page(&started.id, None, 30).await;
    let mut log = Log::default();
    log.add(&first);
    while log.stdout.len() < whole.stdout.len() {
        let page = another.logs(host, &started.id, log.cursor.as_ref(), 30).await.expect("the log can be read");
        assert!(!page.chunks.is_empty(), "there is more, and the page is empty");
        log.add(&page);
    }
    assert_eq!(String::from_utf8_lossy(&log.stdout), lines(50));
    Ok(())
}

/// Reading again from one cursor gives the same bytes; at the end, none, and the cursor stays.
pub async fn reading_again_gives_the_same(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.lines(20, Duration::ZERO)?).await;
    bench.until_ended(&started.id).await;
    let first = bench.page(&started.id, None, 40).await;
    assert!(!first.chunks.is_empty() && first.cursor.is_some(), "{first:?}");
    let rest = bench.page(&started.id, first.cursor.as_ref(), 64 * 1024).await;
    assert_eq!(bench.page(&started.id, first.cursor.as_ref(), 64 * 1024).await, rest);
    assert_eq!(bench.page(&started.id, None, 40).await, first);
    let end = bench.page(&started.id, rest.cursor.as_ref(), 64 * 1024).await;
    assert_eq!((end.chunks.len(), end.more, end.cursor), (0, false, rest.cursor));
    Ok(())
}

/// Nothing printed: no bytes, and the end.
pub async fn a_silent_container_has_an_empty_log(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.exit(0)?).await;
    bench.until_ended(&started.id).await;
    let page = bench.page(&started.id, None, 4096).await;
    assert_eq!((page.chunks.len(), page.more), (0, false), "{page:?}");
    Ok(())
}

/// Lines are there while it runs, and following to the end misses none and repeats none.
pub async fn a_running_container_is_followed(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.lines(6, Duration::from_secs(3))?).await;
    let mut log = Log::default();
    let mut seen_while_running = false;
    loop {
        // The state first: what is read after the end was seen is the whole rest.
        let ended = matches!(bench.observe(&started.id).await, Observed::Ended(_));
        let page = bench.page(&started.id, log.cursor.as_ref(), 4096).await;
        log.add(&page);
        seen_while_running |= !ended && !page.chunks.is_empty();
        if ended && !page.more {
            break;
        }
        // The pace of following: what was not there yet comes with a later page.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(String::from_utf8_lossy(&log.stdout), lines(6));
    assert!(seen_while_running, "the log came only with the end");
    Ok(())
}

fn lines(count: u32) -> String {
    (1..=count).map(|n| format!("line {n}\n")).collect()
}
