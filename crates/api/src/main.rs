//! The process `gantry-api`.

fn main() -> std::process::ExitCode {
    gantry_api::main()
}
