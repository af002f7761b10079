use std::time::Duration;

use gantry_testkit::{eventually, eventually_some};

#[tokio::test]
async fn waits_until_the_condition_holds() {
    let mut asked = 0;
    eventually(Duration::from_secs(60), async || {
        asked += 1;
        asked == 3
    })
    .await;
    assert_eq!(asked, 3);
    assert_eq!(eventually_some(Duration::from_secs(60), async || Some("it")).await, "it");
}

#[tokio::test]
#[should_panic(expected = "waiting.rs")]
async fn a_condition_that_never_holds_fails_at_the_callers_line() {
    eventually(Duration::from_millis(50), async || false).await;
}
