//! The worker's program, built with the tests that run it.

fn main() -> std::process::ExitCode {
    pinion_worker::run()
}
