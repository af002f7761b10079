//! A private Postgres keeps its data whatever happens to it and to its supervisor.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common;
use gantry_servers::{Error, Postgres};
use sqlx::{Connection, Executor, PgConnection};

async fn connect(postgres: &Postgres) -> PgConnection {
    PgConnection::connect(&postgres.url("postgres", "postgres")).await.expect("it accepts clients")
}

async fn setting(postgres: &Postgres, name: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)")
        .bind(name)
        .fetch_one(&mut connect(postgres).await)
        .await
        .expect("the setting exists")
}

async fn write(postgres: &Postgres) {
    let mut connection = connect(postgres).await;
    connection.execute("CREATE TABLE kept (n int)").await.expect("creates");
    connection.execute("INSERT INTO kept VALUES (42)").await.expect("inserts");
}

async fn read(postgres: &Postgres) -> i32 {
    let mut connection = connect(postgres).await;
    sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut connection).await.expect("it is there")
}

fn postmaster(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("postgres/cluster/postmaster.pid"));
    text.expect("it runs").lines().next().expect("the number comes first").to_owned()
}

#[tokio::test]
async fn keeps_data_and_port_over_a_restart_and_leaves_no_process() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    let url = postgres.url("someone", "thing");
    assert_eq!(setting(&postgres, "fsync").await, "on");
    assert_eq!(setting(&postgres, "synchronous_commit").await, "on");
    assert_eq!(setting(&postgres, "server_encoding").await, "UTF8");
    assert_eq!(setting(&postgres, "listen_addresses").await, "127.0.0.1");
    write(&postgres).await;
    // A client that stays connected does not hold up the stop.
    let _client = connect(&postgres).await;
    postgres.stop().await.expect("stops");
    assert_eq!(common::processes(folder.path()), [""; 0]);

    let postgres = Postgres::start(folder.path()).await.expect("starts again");
    assert_eq!(postgres.url("someone", "thing"), url);
    assert_eq!(read(&postgres).await, 42);
    postgres.crash().await.expect("is gone at once");
    assert_eq!(common::processes(folder.path()), [""; 0]);

    let postgres = Postgres::start(folder.path()).await.expect("recovers");
    assert_eq!(read(&postgres).await, 42);
    postgres.stop().await.expect("stops again");
}

#[tokio::test]
async fn goes_on_after_a_crash() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    write(&postgres).await;
    let killed = Command::new("kill").args(["-9", &postmaster(folder.path())]).status();
    assert!(killed.expect("kill runs").success());
    drop(postgres);
    let postgres = Postgres::start(folder.path()).await.expect("starts again");
    assert_eq!(read(&postgres).await, 42);
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn goes_on_when_another_process_has_the_number_in_a_stale_pid_file() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    write(&postgres).await;
    postgres.stop().await.expect("stops");
    let mut other = Command::new("sleep").arg("600").spawn().expect("sleep runs");
    let pid_file = folder.path().join("postgres/cluster/postmaster.pid");
    fs::write(&pid_file, format!("{}\n", other.id())).expect("writes");
    let postgres = Postgres::start(folder.path()).await.expect("starts again");
    assert_eq!(read(&postgres).await, 42);
    postgres.stop().await.expect("stops");
    assert_eq!(other.try_wait().expect("it can be asked"), None, "the other process is untouched");
    other.kill().expect("it runs");
    other.wait().expect("it was killed");
}

#[tokio::test]
async fn replaces_a_server_whose_supervisor_was_killed() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    write(&postgres).await;
    postgres.stop().await.expect("stops");

    common::leave_running(folder.path(), "postgres");
    let left = postmaster(folder.path());
    let postgres = Postgres::start(folder.path()).await.expect("starts again");
    assert_ne!(postmaster(folder.path()), left);
    assert_eq!(read(&postgres).await, 42);
    postgres.stop().await.expect("stops again");
    assert_eq!(common::processes(folder.path()), [""; 0]);
}

#[tokio::test]
async fn starts_anew_when_the_first_start_was_interrupted() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    postgres.stop().await.expect("stops");
    let cluster = folder.path().join("postgres/cluster");
    fs::rename(&cluster, cluster.with_extension("unfinished")).expect("renames");
    fs::remove_file(cluster.with_extension("unfinished").join("PG_VERSION")).expect("removes");
    let postgres = Postgres::start(folder.path()).await.expect("starts again");
    postgres.stop().await.expect("stops again");
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    let refused = Postgres::start(folder.path()).await;
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    write(&postgres).await;
    postgres.stop().await.expect("stops");
}

#[tokio::test]
async fn a_failed_start_shows_the_log() {
    let folder = common::folder();
    let postgres = Postgres::start(folder.path()).await.expect("starts");
    postgres.stop().await.expect("stops");
    let conf = folder.path().join("postgres/cluster/postgresql.conf");
    fs::write(conf, "nonsense = 1\n").expect("writes");
    let message = Postgres::start(folder.path()).await.expect_err("it cannot start").to_string();
    assert!(message.contains("unrecognized configuration parameter"), "{message}");
}
