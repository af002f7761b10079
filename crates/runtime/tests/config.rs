//! The configuration as a part reads it: file, environment, secrets, mistakes.

use std::{error::Error as _, fs, path::PathBuf};

use gantry_runtime::{
    config::{self, ExposeSecret, Secret},
    telemetry,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    broker: Broker,
    #[serde(default)]
    telemetry: telemetry::Config,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broker {
    url: Secret,
    #[serde(default)]
    prefetch: Option<u16>,
    #[serde(default)]
    tls: bool,
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(file: Option<&str>, env: &[(&str, &str)]) -> Result<Config, config::Error> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: Option<PathBuf> = file.map(|content| {
        let path = folder.path().join("gantry.toml");
        fs::write(&path, content).expect("the file is written");
        path
    });
    config::load_from(path.as_deref(), variables(env))
}

/// The error with all its causes, as a person sees it.
fn told(error: &config::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

const FILE: &str = r#"
[broker]
url = "amqp://from-file"
prefetch = 10

[telemetry]
log_format = "json"
"#;

#[test]
fn the_environment_overrides_the_file() {
    let config =
        load(Some(FILE), &[("GANTRY_BROKER__URL", "amqp://from-env"), ("GANTRY_BROKER__TLS", "true")]).expect("valid");
    assert_eq!(config.broker.url.expose_secret(), "amqp://from-env");
    assert_eq!(config.broker.prefetch, Some(10));
    assert!(config.broker.tls);
    assert_eq!(config.telemetry.log_format, telemetry::LogFormat::Json);
}

#[test]
fn the_environment_alone_is_enough() {
    let config = load(
        None,
        &[
            ("GANTRY_BROKER__URL", "0012"),
            ("GANTRY_BROKER__PREFETCH", "7"),
            ("GANTRY_TELEMETRY__OTLP_ENDPOINT", "http://collector:4317"),
        ],
    )
    .expect("valid");
    // Text stays text, though it looks like a number.
    assert_eq!(config.broker.url.expose_secret(), "0012");
    assert_eq!(config.broker.prefetch, Some(7));
    let endpoint = config.telemetry.otlp_endpoint.as_deref();
    assert_eq!(endpoint, Some("http://collector:4317"));
}

#[test]
fn variables_without_levels_are_left_alone() {
    let unrelated = [
        ("GANTRY_URL", "http://127.0.0.1:8080"),
        ("GANTRY_API_KEY", "key"),
        ("GANTRY_TEST_AMQP_URL", "amqp://127.0.0.1"),
        ("GANTRY_CONFIG", "/etc/gantry.toml"),
        ("GANTRYX__Y", "1"),
        ("OTHER__THING", "1"),
    ];
    load(Some(FILE), &unrelated).expect("valid");
}

#[test]
fn an_unknown_key_of_the_file_is_an_error_that_names_it() {
    let error = load(Some("[broker]\nurl = \"x\"\nurll = \"y\"\n"), &[]).expect_err("a typo");
    let told = told(&error);
    assert!(told.contains("`broker.urll`") && told.contains("unknown field"), "{told}");
}

#[test]
fn an_unknown_key_of_the_environment_is_an_error_that_names_it() {
    let error = load(Some(FILE), &[("GANTRY_BROKR__URL", "x")]).expect_err("a typo");
    let told = told(&error);
    assert!(told.contains("brokr") && told.contains("unknown field"), "{told}");
}

#[test]
fn a_value_of_the_wrong_kind_is_an_error_that_names_it() {
    let error = load(Some(FILE), &[("GANTRY_BROKER__PREFETCH", "many")]).expect_err("no number");
    assert!(told(&error).contains("`broker.prefetch`"), "{}", told(&error));
}

#[test]
fn a_missing_value_is_an_error_that_names_it() {
    let error = load(Some("[broker]\n"), &[]).expect_err("no url");
    let told = told(&error);
    assert!(told.contains("broker") && told.contains("url"), "{told}");
}

#[test]
fn a_secret_comes_from_a_file_and_is_never_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("url");
    fs::write(&secret, "amqp://user:hunter2@host/vhost\n").expect("the file is written");
    let path = secret.to_str().expect("a readable path");

    let in_file = format!("[broker]\nurl = {{ file = \"{path}\" }}\n");
    let from_file = load(Some(&in_file), &[]).expect("valid");
    let from_env = load(Some(FILE), &[("GANTRY_BROKER__URL__FILE", path)]).expect("valid");
    for config in [from_file, from_env] {
        let url = config.broker.url.expose_secret();
        assert_eq!(url, "amqp://user:hunter2@host/vhost");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[test]
fn a_secret_file_that_is_missing_is_an_error_that_names_key_and_file() {
    let error = load(None, &[("GANTRY_BROKER__URL__FILE", "/nowhere/url")]).expect_err("missing");
    let told = told(&error);
    assert!(told.contains("`broker.url`") && told.contains("/nowhere/url"), "{told}");
}

#[test]
fn a_file_that_is_no_toml_is_an_error_that_names_the_place() {
    let error = load(Some("[broker\n"), &[]).expect_err("broken");
    let told = told(&error);
    assert!(told.contains("gantry.toml") && told.contains("line 1"), "{told}");
}
