//! What the workers' /metrics say.

use anyhow::{Context as _, Result};

/// The metrics of one or more workers at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(String);

/// A histogram at one moment, or between two.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Histogram {
    /// Upper bound of each bucket and how many values it or a lower one took; the last bound is infinite.
    buckets: Vec<(f64, f64)>,
    /// How many values.
    pub(crate) count: f64,
    /// Their sum.
    pub(crate) sum: f64,
}

/// A quantile read from a histogram: somewhere between the bounds of its bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quantile {
    pub(crate) lower: f64,
    /// Interpolated, as if the bucket's values were spread evenly.
    pub(crate) value: f64,
    pub(crate) upper: f64,
}

/// How batches fared between two moments.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    pub(crate) batch_ids: Histogram,
    pub(crate) fence_seconds: Histogram,
    pub(crate) fetch_seconds: Histogram,
    pub(crate) bulk_seconds: Histogram,
}

impl Stages {
    /// What came between the two.
    pub(crate) fn between(before: &Metrics, after: &Metrics) -> Result<Self> {
        let of = |name: &str| -> Result<Histogram> { Ok(after.histogram(name)?.since(&before.histogram(name)?)) };
        Ok(Self {
            batch_ids: of("pinion_batch_ids")?,
            fence_seconds: of("pinion_fence_seconds")?,
            fetch_seconds: of("pinion_fetch_seconds")?,
            bulk_seconds: of("pinion_bulk_seconds")?,
        })
    }
}

impl Metrics {
    /// Those of one worker, which are this text.
    pub(crate) fn of(text: String) -> Self {
        Self(text)
    }

    /// The sum of all series of a metric that carry `label`, such as `verdict="indexed"`; any with an empty one.
    pub(crate) fn sum(&self, name: &str, label: &str) -> f64 {
        let samples = self.0.lines().filter_map(|line| sample(line, name));
        samples.filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    /// The histogram of that name, all its series together.
    pub(crate) fn histogram(&self, name: &str) -> Result<Histogram> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let bucket = format!("{name}_bucket");
        for (labels, count) in self.0.lines().filter_map(|line| sample(line, &bucket)) {
            let bound = labels.split(',').find_map(|label| label.strip_prefix("le=\"")?.strip_suffix('"'));
            let bound = bound.with_context(|| format!("a bucket of {name} without a bound"))?;
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().with_context(|| format!("{name}: {bound}"))?
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        let total = |part: &str| self.sum(&format!("{name}_{part}"), "");
        Ok(Histogram { buckets, count: total("count"), sum: total("sum") })
    }
}

/// Of several workers: sums go over all of them.
impl FromIterator<Metrics> for Metrics {
    fn from_iter<I: IntoIterator<Item = Self>>(each: I) -> Self {
        let texts: Vec<String> = each.into_iter().map(|metrics| metrics.0).collect();
        Self(texts.join("\n"))
    }
}

/// A line `NAME{LABELS} VALUE`, with labels or without, where it is of that metric.
fn sample<'a>(line: &'a str, name: &str) -> Option<(&'a str, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    Some((labels, value.split(' ').next()?.parse().ok()?))
}

impl Histogram {
    /// What came since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.buckets.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, count)| *count);
        Self {
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, count - before(*bound))).collect(),
            count: self.count - earlier.count,
            sum: self.sum - earlier.sum,
        }
    }

    /// The mean; zero of nothing.
    pub(crate) fn mean(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }

    /// The value below which the part `part` (0 to 1) of all values lies; with 1 the highest bucket in use.
    pub(crate) fn quantile(&self, part: f64) -> Option<Quantile> {
        let rank = part * self.count;
        let (mut lower, mut below) = (0.0, 0.0);
        for &(upper, count) in &self.buckets {
            if count >= rank && count > below {
                // Above the last bound nothing is known but that.
                let width = if upper.is_finite() { upper - lower } else { 0.0 };
                let value = lower + width * (rank - below) / (count - below);
                return Some(Quantile { lower, value, upper });
            }
            (lower, below) = (upper, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a_seconds histogram\n\
        a_seconds_sum{job=\"x\"} 3.5\na_seconds_count{job=\"x\"} 4\n\
        a_seconds_bucket{le=\"1.0\",job=\"x\"} 2\na_seconds_bucket{le=\"2.0\",job=\"x\"} 4\na_seconds_bucket{le=\"+Inf\",job=\"x\"} 4\n\
        a_total{job=\"x\",verdict=\"indexed\"} 3\na_total{job=\"x\",verdict=\"deleted\"} 1\na_totals 9\n# EOF\n";

    fn metrics(workers: usize) -> Metrics {
        (0..workers).map(|_| Metrics::of(TEXT.to_owned())).collect()
    }

    #[test]
    fn series_are_summed() {
        assert_eq!(metrics(1).sum("a_total", ""), 4.0);
        assert_eq!(metrics(2).sum("a_total", "verdict=\"indexed\""), 6.0);
        assert_eq!(metrics(2).sum("b_total", ""), 0.0);
    }

    #[test]
    fn histograms_of_several_workers_are_one() {
        let histogram = metrics(2).histogram("a_seconds").expect("a histogram");
        let buckets = vec![(1.0, 4.0), (2.0, 8.0), (f64::INFINITY, 8.0)];
        assert_eq!(histogram, Histogram { buckets, count: 8.0, sum: 7.0 });
        let since = histogram.since(&metrics(1).histogram("a_seconds").expect("a histogram"));
        assert_eq!(since, metrics(1).histogram("a_seconds").expect("a histogram"));
        assert_eq!(since.mean(), 0.875);
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let check = |buckets: &[(f64, f64)], part: f64, expected: Option<(f64, f64, f64)>| {
            let count = buckets.last().map_or(0.0, |(_, count)| *count);
            let found = Histogram { buckets: buckets.to_vec(), count, sum: 0.0 }.quantile(part);
            assert_eq!(found.map(|found| (found.lower, found.value, found.upper)), expected, "{buckets:?} at {part}");
        };
        let buckets = [(1.0, 2.0), (2.0, 4.0), (4.0, 4.0), (f64::INFINITY, 4.0)];
        check(&buckets, 0.25, Some((0.0, 0.5, 1.0)));
        check(&buckets, 0.5, Some((0.0, 1.0, 1.0)));
        check(&buckets, 0.75, Some((1.0, 1.5, 2.0)));
        check(&buckets, 1.0, Some((1.0, 2.0, 2.0)));
        check(&[(1.0, 0.0), (f64::INFINITY, 3.0)], 0.5, Some((1.0, 1.0, f64::INFINITY)));
        check(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5, None);
    }
}
