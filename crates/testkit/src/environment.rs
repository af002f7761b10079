//! Where the servers are.

use std::thread;

use reqwest::Url;

/// The value of a `GANTRY_TEST_*` variable.
#[track_caller]
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: this test needs real servers. Run it through `make test`, or \
             `cargo run -p gantry-servers -- run --with postgres,rabbitmq,docker -- cargo nextest run ...`"
        )
    })
}

/// The address in a `GANTRY_TEST_*` variable.
#[track_caller]
pub(crate) fn address(name: &str) -> Url {
    let value = variable(name);
    Url::parse(&value).unwrap_or_else(|error| panic!("{name} is not an address ({error}): {value}"))
}

/// Runs `cleanup` to its end on a thread and a runtime of its own: for `Drop`, which may be on a
/// runtime's thread, where nothing else can be waited for.
pub(crate) fn finish(cleanup: impl Future<Output = ()> + Send + 'static) {
    let thread = thread::spawn(|| {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(cleanup);
        }
    });
    // Best effort: the servers are thrown away after the run, and a panic here would hide the
    // test's own.
    let _ = thread.join();
}
