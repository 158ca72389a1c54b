//! The times as a picture: a line per row, and on it every allocator at as many times our time as it takes.

use std::fmt::Write;

use crate::outcome::{Outcome, Row, Unit};
use crate::peers::Name;

const LABEL_WIDTH: f64 = 300.0;
const PLOT_WIDTH: f64 = 760.0;
const ROW_HEIGHT: f64 = 15.0;
const TOP: f64 = 92.0;

/// The axis runs from a quarter of our time to 64 times.
const LEAST: f64 = 0.25;
const MOST: f64 = 64.0;

/// The whole picture.
pub(crate) fn draw(machine: &str, names: &[Name], outcomes: &[Outcome]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for outcome in outcomes {
        let rows: Vec<Row> = outcome.rows().into_iter().filter(|row| row.unit == Unit::Nanoseconds).collect();
        if rows.iter().all(|row| row.best.is_none()) {
            continue;
        }
        y += ROW_HEIGHT;
        let _ = writeln!(body, "<text x=\"8\" y=\"{y}\" class=\"case\">{}</text>", escape(&outcome.case.name));
        for row in &rows {
            y += ROW_HEIGHT;
            draw_row(&mut body, row, names, y);
        }
    }
    let height = y + 24.0;
    let width = LABEL_WIDTH + PLOT_WIDTH + 40.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>text{{font:11px sans-serif;fill:#222}}.case{{font-weight:bold}}.title{{font-size:15px;font-weight:bold}}\
         .end{{text-anchor:end}}.middle{{text-anchor:middle}}line{{stroke:#ddd}}.one{{stroke:#d00}}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\" class=\"title\">Time per operation, as a multiple of family-alloc's (right of the red line: slower)</text>\n\
         <text x=\"8\" y=\"38\">{}</text>\n",
        escape(machine)
    );
    draw_legend(&mut text, names);
    draw_axis(&mut text, height);
    text + &body + "</svg>\n"
}

fn draw_legend(text: &mut String, names: &[Name]) {
    for (index, &name) in names.iter().enumerate() {
        let x = 16.0 + 110.0 * index as f64;
        let _ = writeln!(text, "{}<text x=\"{}\" y=\"62\">{name}</text>", dot(x, 58.0, name, ""), x + 9.0);
    }
}

fn draw_axis(text: &mut String, height: f64) {
    let mut times = LEAST;
    while times <= MOST {
        let x = position(times);
        let class = if times == 1.0 { " class=\"one\"" } else { "" };
        let _ = writeln!(text, "<line x1=\"{x}\" x2=\"{x}\" y1=\"{TOP}\" y2=\"{}\"{class}/>", height - 12.0);
        let _ = writeln!(text, "<text x=\"{x}\" y=\"{}\" class=\"middle\">{times}×</text>", TOP - 6.0);
        times *= 2.0;
    }
}

fn draw_row(text: &mut String, row: &Row, names: &[Name], y: f64) {
    let Some(ours) = row.figures.get(&Name::Ours).map(|figures| figures.median()) else { return };
    let label = format!("{} ({ours:.2} ns)", row.label);
    let _ = writeln!(text, "<text x=\"{}\" y=\"{y}\" class=\"end\">{}</text>", LABEL_WIDTH - 8.0, escape(&label));
    // Ours last, so that nothing covers it.
    for &name in names.iter().rev() {
        if let Some(figures) = row.figures.get(&name) {
            let median = figures.median();
            let hint = format!("{name}: {median:.2} ns");
            let _ = writeln!(text, "{}", dot(position(median / ours), y - 4.0, name, &hint));
        }
    }
}

/// Where on the axis that many times is; what is outside sticks to the end.
fn position(times: f64) -> f64 {
    let share = (times.clamp(LEAST, MOST) / LEAST).log2() / (MOST / LEAST).log2();
    LABEL_WIDTH + (share * PLOT_WIDTH * 10.0).round() / 10.0
}

fn dot(x: f64, y: f64, name: Name, hint: &str) -> String {
    let colour = colour(name);
    let title = if hint.is_empty() { String::new() } else { format!("<title>{}</title>", escape(hint)) };
    format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.8\">{title}</circle>")
}

const fn colour(name: Name) -> &'static str {
    match name {
        Name::Ours => "#d00000",
        Name::RustyAlloc => "#1f77b4",
        Name::Mimalloc => "#2ca02c",
        Name::Snmalloc => "#ff7f0e",
        Name::Jemalloc => "#9467bd",
        Name::Rpmalloc => "#8c564b",
        Name::Smmalloc => "#e377c2",
        Name::System => "#444444",
        Name::Bumpalo => "#bbbbbb",
        Name::OursSpaced => "#ff7777",
        Name::OursUnchecked => "#ffaaaa",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
