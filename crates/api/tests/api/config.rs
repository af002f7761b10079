//! The example explains the configuration that is.

use std::path::Path;

use gantry_api::Config;
use gantry_runtime::config;

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/api.example.toml");
    let shown: Config = config::load_from(Some(&example), []).expect("valid");
    let required = [
        ("GANTRY_DATABASE__URL".to_owned(), "postgres://localhost/gantry".to_owned()),
        ("GANTRY_BROKER__URL".to_owned(), "amqp://localhost".to_owned()),
    ];
    let default: Config = config::load_from(None, required).expect("valid");
    assert_eq!(shown.http.listen, default.http.listen);
    assert_eq!(shown.database.max_connections, default.database.max_connections);
    assert_eq!(format!("{:?}", shown.broker), format!("{:?}", default.broker));
    assert_eq!(format!("{:?}", shown.telemetry), format!("{:?}", default.telemetry));
}
