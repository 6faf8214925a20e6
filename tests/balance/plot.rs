//! A small writer of line plots in SVG, whose output depends on its input alone.

use std::fmt::Write as _;

/// A plot of several lines.
pub struct Panel<'a> {
    pub title: &'a str,
    /// The largest value of the vertical axis, which begins at 1.
    pub top: f64,
    /// The span of the horizontal axis, in minutes.
    pub minutes: f64,
    /// The name and the values of each line, spread evenly over the span.
    pub lines: Vec<(&'a str, &'a [f64])>,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 180.0;
const MARGIN: f64 = 44.0;
/// Colours that are told apart also by people with a colour vision deficiency (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// Returns the text of an SVG image with the panels side by side.
pub fn svg(caption: &str, panels: &[Panel<'_>]) -> String {
    let (width, height) = (panels.len() as f64 * (WIDTH + MARGIN) + MARGIN, HEIGHT + 2.0 * MARGIN + 20.0);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<title>{caption}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let left = MARGIN + number as f64 * (WIDTH + MARGIN);
        write_panel(&mut text, panel, left, MARGIN);
    }
    let names = panels.first().map_or(&[][..], |panel| &panel.lines);
    for (number, (name, _)) in names.iter().enumerate() {
        let (x, y) = (MARGIN + number as f64 * 160.0, HEIGHT + 2.0 * MARGIN + 8.0);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.0}\" y1=\"{y:.0}\" x2=\"{:.0}\" y2=\"{y:.0}\" stroke=\"{}\" stroke-width=\"2\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{name}</text>",
            x + 20.0,
            COLOURS[number % COLOURS.len()],
            x + 26.0,
            y + 4.0
        );
    }
    text + "</svg>\n"
}

fn write_panel(text: &mut String, panel: &Panel<'_>, left: f64, top: f64) {
    let y_of = |value: f64| top + HEIGHT * (1.0 - (value.min(panel.top) - 1.0) / (panel.top - 1.0));
    let _ = writeln!(text, "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>", top - 14.0, panel.title);
    for step in 0..=4 {
        let value = 1.0 + (panel.top - 1.0) * f64::from(step) / 4.0;
        let y = y_of(value);
        let _ = writeln!(
            text,
            "<line x1=\"{left:.0}\" y1=\"{y:.1}\" x2=\"{:.0}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value:.2}</text>",
            left + WIDTH,
            left - 4.0,
            y + 4.0
        );
        let (x, minutes) = (left + WIDTH * f64::from(step) / 4.0, panel.minutes * f64::from(step) / 4.0);
        let _ = writeln!(
            text,
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{minutes:.0}</text>",
            top + HEIGHT + 16.0
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">minutes</text>",
        left + WIDTH / 2.0,
        top + HEIGHT + 30.0
    );
    for (number, (_, values)) in panel.lines.iter().enumerate() {
        let last = values.len().saturating_sub(1).max(1) as f64;
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(at, value)| format!("{:.1},{:.1}", left + WIDTH * at as f64 / last, y_of(*value)))
            .collect();
        let colour = COLOURS[number % COLOURS.len()];
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
    }
}
