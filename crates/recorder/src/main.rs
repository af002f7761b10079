//! `gantry-recorder`.

fn main() -> std::process::ExitCode {
    gantry_recorder::main()
}
