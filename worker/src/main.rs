//! The binary `pinion`.

fn main() -> std::process::ExitCode {
    pinion_worker::run()
}
