//! The worker, built with the tests that run it.

fn main() {}
