//! The report's pictures: bars.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
/// Where the bars begin; their names stand before it.
const LEFT: f64 = 290.0;
/// What is left for the figures behind the bars.
const RIGHT: f64 = 70.0;
const TOP: f64 = 46.0;
const STEP: f64 = 30.0;
const BAR: f64 = 18.0;

/// One bar.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) length: f64,
    /// What stands behind it.
    pub(crate) figure: String,
    /// Whether it is Pinion's, or the default.
    pub(crate) ours: bool,
}

/// An SVG picture of these bars, in the order given; readable on a light and on a dark page.
pub(crate) fn svg(title: &str, bars: &[Bar]) -> String {
    let height = TOP + STEP * bars.len() as f64 + 10.0;
    let longest = bars.iter().map(|bar| bar.length).fold(f64::MIN_POSITIVE, f64::max);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{title}</title>\n\
         <style>text {{ font: 14px system-ui, sans-serif; fill: #24292f }} .title {{ font-weight: 600 }} .ours {{ fill: #c2410c }} .other {{ fill: #8b949e }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .ours {{ fill: #f97316 }} .other {{ fill: #6e7681 }} }}</style>\n\
         <text class=\"title\" x=\"10\" y=\"24\">{title}</text>\n"
    );
    for (place, Bar { name, length, figure, ours }) in bars.iter().enumerate() {
        let y = TOP + STEP * place as f64;
        let width = (WIDTH - LEFT - RIGHT) * length / longest;
        let (class, text_y) = (if *ours { "ours" } else { "other" }, y + BAR - 4.0);
        writeln!(
            picture,
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{text_y}\">{figure}</text>",
            LEFT - 10.0,
            LEFT + width + 6.0,
        )
        .expect("writing to a String does not fail");
    }
    picture + "</svg>\n"
}
