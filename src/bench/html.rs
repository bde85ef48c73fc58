//! The report as a self-contained page.

use std::{error::Error, fmt::Write, time::Duration};

use super::{
    chart::{self, Scale},
    report::BenchReport,
    table,
};
use crate::config::show_duration;

/// The report as a page.
///
/// # Errors
///
/// When a chart cannot be drawn, because an axis has no length.
pub fn page(report: &BenchReport) -> Result<String, Box<dyn Error>> {
    let scale = Scale::of(&report.policies);
    let title = format!("pacegate bench throttle {}", escaped(&report.pattern));
    let scenario = escaped(&report.scenario());
    let answer = show_duration(Duration::from_millis(report.answer_time_ms));
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p>{scenario}; an answer takes {answer}.</p>\n"
    );
    text.push_str(&figures(report));
    text.push_str(LEGEND);
    for result in &report.policies {
        let name = escaped(&result.policy);
        let timeline = chart::timeline(result, &scale)?;
        let waits = chart::waits(result, &scale)?;
        let _infallible = write!(
            text,
            "<section>\n<h2>{name}</h2>\n<figure>\n{timeline}</figure>\n<figure>\n{waits}</figure>\n</section>\n"
        );
    }
    text.push_str("</body>\n</html>\n");
    Ok(text)
}

fn figures(report: &BenchReport) -> String {
    let mut text = String::from("<table>\n");
    for (number, row) in table::cells(report).iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        text.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let indented = cell.starts_with(' ');
            let _infallible = match column {
                0 if indented => write!(text, "<th class=\"in\">{}</th>", escaped(cell.trim())),
                0 => write!(text, "<th>{}</th>", escaped(cell)),
                _ => write!(text, "<{tag}>{}</{tag}>", escaped(cell)),
            };
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const LEGEND: &str = "\
<p class=\"legend\"><span class=\"sent\">sent</span> <span class=\"refused\">answered 429</span> \
<span class=\"limit\">what the upstream admits</span> Marks below a curve are single requests.</p>\n";

/// Dark if the reader's system is.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1f2328; --faint: #d8dce1; --sent: #0a66c2;
  --refused: #c6291e; --limit: #9a6700; --paper: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #3a4048; --sent: #6cb0ff;
  --refused: #ff7b72; --limit: #d9a531; --paper: #14171b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .1rem .9rem; border-bottom: 1px solid var(--faint); }
th:first-child { text-align: left; font-weight: normal; padding-left: 0; }
th.in:first-child { padding-left: 1.2rem; }
figure { margin: .5rem 0; } svg { width: 100%; height: auto; display: block; }
.legend span { margin-right: 1.5rem; } .legend span::before { content: '\\2014\\00a0'; font-weight: bold; }
.sent::before { color: var(--sent); } .refused::before { color: var(--refused); }
.limit::before { color: var(--limit); }
";
