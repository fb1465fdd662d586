//! `[verify]`

use serde::Deserialize;
use url::Url;

use super::Secret;

/// Verification while the workers run; one of them does it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// How often, for each job.
    pub every_s: u64,
    /// Whether whole documents are compared, or only which there are.
    #[serde(default = "defaults::full")]
    pub full: bool,
    /// The part of the ids to look at, above 0, at most 1: a random sample.
    #[serde(default = "defaults::sample")]
    pub sample: f64,
    /// Ids a second at the most.
    #[serde(default = "defaults::ids_per_second_max")]
    pub ids_per_second_max: u32,
    /// Whether what is wrong is enqueued.
    #[serde(default)]
    pub repair: bool,
    /// Who is told of differences: an address that takes messages in Slack's format.
    pub webhook: Option<Secret>,
}

impl Verify {
    /// Keys with their values, and what these may be.
    pub(super) fn bounds(&self) -> [(&'static str, u64, u64, u64); 2] {
        [
            ("verify.every_s", self.every_s, 1, 31_536_000),
            ("verify.ids_per_second_max", u64::from(self.ids_per_second_max), 1, 10_000_000),
        ]
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        if !(self.sample > 0.0 && self.sample <= 1.0) {
            return Err(format!(
                "verify.sample: {} is out of bounds; give a part above 0 and at most 1, as 0.01 for a hundredth",
                self.sample
            ));
        }
        let is_address =
            |webhook: &Secret| Url::parse(webhook.expose()).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if self.webhook.as_ref().is_some_and(|webhook| !is_address(webhook)) {
            return Err("verify.webhook: not an address that begins with https:// or http://".to_owned());
        }
        Ok(())
    }
}

mod defaults {
    pub(super) fn full() -> bool {
        true
    }
    pub(super) fn sample() -> f64 {
        1.0
    }
    pub(super) fn ids_per_second_max() -> u32 {
        2000
    }
}
