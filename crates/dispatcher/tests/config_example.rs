//! The example explains the configuration that is.

use std::path::Path;

use gantry_dispatcher::Config;
use gantry_runtime::config;

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/dispatcher.example.toml");
    let shown: Config = config::load_from(Some(&example), []).expect("valid");
    let required = [
        ("GANTRY_DATABASE__URL".to_owned(), "postgres://localhost/gantry".to_owned()),
        ("GANTRY_BROKER__URL".to_owned(), "amqp://localhost".to_owned()),
    ];
    let default: Config = config::load_from(None, required).expect("valid");
    // Secrets are redacted in this form, so that both addresses look alike.
    assert_eq!(format!("{shown:#?}"), format!("{default:#?}"));
}
