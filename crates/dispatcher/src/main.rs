//! `gantry-dispatcher`.

fn main() -> std::process::ExitCode {
    gantry_dispatcher::main()
}
