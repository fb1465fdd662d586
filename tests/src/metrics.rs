/// What `/metrics` said at one moment.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text as it came.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The sum of all series of a metric that carry these labels; zero where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.0.lines().filter_map(|line| sample(line, name));
        let matching = samples.filter(|(own, _)| labels.iter().all(|label| own.contains(label)));
        matching.map(|(_, value)| value).sum()
    }
}

/// A line of the exposition format, `NAME{LABEL="VALUE",…} NUMBER`, where it is of that metric. Values hold no quotes or commas here.
fn sample<'a>(line: &'a str, name: &str) -> Option<(Vec<(&'a str, &'a str)>, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, number) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let labels = labels.split(',').filter_map(|label| label.split_once('='));
    let labels = labels.map(|(key, value)| (key, value.trim_matches('"'))).collect();
    Some((labels, number.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_label() {
        let text = "# HELP jobs_total x\njobs_total{job=\"a\",verdict=\"indexed\"} 3\njobs_total{job=\"b\",verdict=\"indexed\"} 4\n\
                    jobs_total_other 9\nup 1\n";
        let metrics = Metrics::new(text.to_owned());
        assert_eq!(metrics.sum("jobs_total", &[]), 7.0);
        assert_eq!(metrics.sum("jobs_total", &[("job", "a"), ("verdict", "indexed")]), 3.0);
        assert_eq!(metrics.sum("jobs_total", &[("job", "c")]), 0.0);
        assert_eq!(metrics.sum("up", &[]), 1.0);
    }
}
