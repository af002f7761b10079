//! Writes the JSON Schemas of every message to `docs/contracts/`:
//! `cargo run -p gantry-core --example contracts`.

use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/contracts");
    for (name, schema) in gantry_core::message::schemas() {
        let file = folder.join(format!("{name}.schema.json"));
        std::fs::write(&file, format!("{:#}\n", schema.as_value()))?;
        println!("{}", file.display());
    }
    Ok(())
}
