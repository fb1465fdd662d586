//! The worker's program, built with the tests that run it.

fn main() -> std::process::ExitCode {
    #[cfg(feature = "planted-bugs")]
    if let Ok(name) = std::env::var("PINION_PLANTED_BUG") {
        use pinion_worker::planted::{Bug, plant};
        let bugs = Bug::IN_THE_PIPELINE.into_iter().chain(Bug::IN_THE_ADAPTERS);
        let bug = bugs.into_iter().find(|bug| format!("{bug:?}") == name);
        plant(Some(bug.unwrap_or_else(|| panic!("PINION_PLANTED_BUG={name}: there is no such bug"))));
    }
    pinion_worker::run()
}
