//! Two charts of a result: when requests were sent, and how long they waited.

use std::{error::Error, time::Duration};

use plotters::prelude::*;

use super::{figures::in_windows, report::PolicyResult};

/// The axes, the same for all policies so that the charts can be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// End of the time axis, in s.
    lasted: f64,
    /// The most requests in any window.
    most: f64,
    /// The longest wait, in s.
    longest_wait: f64,
    /// The tallest bar, as a fraction of the requests.
    highest: f64,
}

/// A placeholder for a colour of the page, which differs between light and dark.
struct Role {
    stand_in: RGBColor,
    name: &'static str,
}

const INK: Role = role(1, "ink");
const FAINT: Role = role(2, "faint");
const SENT: Role = role(3, "sent");
const REFUSED: Role = role(4, "refused");
const LIMIT: Role = role(5, "limit");

const WIDTH: u32 = 900;
const TIMELINE_HEIGHT: u32 = 230;
const WAITS_HEIGHT: u32 = 170;
const LEFT: u32 = 52;
const BOTTOM: u32 = 38;

/// The most points on the time axis: more would make the page large and show nothing more.
const COLUMNS: usize = 840;

/// Bars of the distribution of waits.
const BARS: usize = 42;

const fn role(number: u8, name: &'static str) -> Role {
    Role {
        stand_in: RGBColor(number, number, number),
        name,
    }
}

// === impl Scale ===

impl Scale {
    pub(super) fn of(results: &[PolicyResult]) -> Self {
        let most = |figure: &dyn Fn(&PolicyResult) -> f64| {
            // An axis needs a length.
            results.iter().map(figure).fold(1e-3, f64::max)
        };
        let longest_wait = most(&|result| longest_wait(result) * 1.001);
        let scale = Self {
            lasted: most(&|result| {
                let last = result.log.attempts.last();
                last.map_or(0.0, |last| last.at.as_secs_f64())
            }),
            most: most(&|result| result.figures.most_in_window as f64),
            longest_wait,
            highest: 1.0,
        };
        Self {
            highest: most(&|result| {
                let bars = scale.bars(result);
                bars.into_iter().fold(0.0, f64::max)
            }),
            ..scale
        }
    }

    /// The fraction of waits in each bar.
    fn bars(&self, result: &PolicyResult) -> Vec<f64> {
        let waits = result.log.waits();
        let mut bars = vec![0.0; BARS];
        for wait in &waits {
            bars[slot(wait.as_secs_f64() / self.longest_wait, BARS)] += 1.0 / waits.len() as f64;
        }
        bars
    }
}

/// Requests sent in the window that ends at each time, with a mark for every dispatch below.
pub(super) fn timeline(result: &PolicyResult, scale: &Scale) -> Result<String, Box<dyn Error>> {
    let window = Duration::from_secs_f64(result.figures.window_s);
    let limit = result.limit.map(|limit| limit.requests.get() as f64);
    let top = scale.most.max(limit.unwrap_or(0.0)) * 1.08;
    draw(TIMELINE_HEIGHT, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(0.0..scale.lasted, -top * 0.16..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("seconds")
            .x_label_formatter(&|at| seconds(*at, scale.lasted))
            .y_desc(format!("sent in {:.0} s", result.figures.window_s))
            .y_labels(5)
            .y_label_formatter(&|sent| {
                if *sent < 0.0 {
                    String::new()
                } else {
                    format!("{sent:.0}")
                }
            })
            .axis_style(INK.stand_in)
            .bold_line_style(FAINT.stand_in)
            .light_line_style(TRANSPARENT)
            .label_style(label())
            .draw()?;
        if let Some(limit) = limit {
            let line = vec![(0.0, limit), (scale.lasted, limit)];
            chart.draw_series([PathElement::new(line, LIMIT.stand_in.stroke_width(2))])?;
        }
        let curve = curve(result, window, scale);
        chart.draw_series([PathElement::new(curve, SENT.stand_in.stroke_width(2))])?;
        for (admitted, role) in [(true, SENT), (false, REFUSED)] {
            let rows = if admitted { 0.02..0.08 } else { 0.09..0.15 };
            chart.draw_series(columns(result, admitted, scale).into_iter().map(|at| {
                let mark = vec![(at, -top * rows.start), (at, -top * rows.end)];
                PathElement::new(mark, role.stand_in)
            }))?;
        }
        Ok(())
    })
}

/// The distribution of waits.
pub(super) fn waits(result: &PolicyResult, scale: &Scale) -> Result<String, Box<dyn Error>> {
    draw(WAITS_HEIGHT, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(0.0..scale.longest_wait, 0.0..scale.highest * 1.05)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("seconds waited")
            .x_label_formatter(&|wait| seconds(*wait, scale.longest_wait))
            .y_desc("of requests")
            .y_labels(4)
            .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
            .axis_style(INK.stand_in)
            .bold_line_style(FAINT.stand_in)
            .light_line_style(TRANSPARENT)
            .label_style(label())
            .draw()?;
        let width = scale.longest_wait / BARS as f64;
        let bars = scale.bars(result).into_iter().enumerate();
        chart.draw_series(bars.filter(|(_, share)| *share > 0.0).map(|(bar, share)| {
            let left = width * bar as f64;
            let corners = [(left, 0.0), (left + width * 0.88, share)];
            Rectangle::new(corners, SENT.stand_in.filled())
        }))?;
        Ok(())
    })
}

/// The count in the window that ends at each time; each column keeps its highest and its last.
fn curve(result: &PolicyResult, window: Duration, scale: &Scale) -> Vec<(f64, f64)> {
    let times: Vec<_> = result
        .log
        .attempts
        .iter()
        .map(|attempt| attempt.at)
        .collect();
    let mut steps: Vec<(Duration, f64)> = times
        .iter()
        .enumerate()
        .map(|(index, at)| {
            let first = times.partition_point(|other| *other + window <= *at);
            (*at, (index + 1 - first) as f64)
        })
        .collect();
    // A dispatch leaves the window when that has passed, and the count falls.
    steps.extend(
        times
            .iter()
            .zip(in_windows(&times, window))
            .filter_map(|(at, within)| {
                let left = *at + window;
                (left.as_secs_f64() < scale.lasted).then_some((left, within as f64 - 1.0))
            }),
    );
    steps.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut points = vec![(0.0, 0.0)];
    let mut column = usize::MAX;
    for (at, sent) in steps {
        let at = at.as_secs_f64();
        let here = slot(at / scale.lasted, COLUMNS);
        let before = points[points.len() - 1].1;
        if here == column && points.len() > 2 {
            let highest = points.len() - 2;
            points[highest].1 = f64::max(points[highest].1, sent);
            points[highest + 1].1 = sent;
        } else {
            points.push((at, before.max(sent)));
            points.push((at, sent));
            column = here;
        }
    }
    points
}

/// The columns with at least one such dispatch.
fn columns(result: &PolicyResult, admitted: bool, scale: &Scale) -> Vec<f64> {
    let mut columns: Vec<_> = result
        .log
        .attempts
        .iter()
        .filter(|attempt| attempt.admitted == admitted)
        .map(|attempt| slot(attempt.at.as_secs_f64() / scale.lasted, COLUMNS))
        .collect();
    columns.dedup();
    columns
        .into_iter()
        .map(|column| scale.lasted * column as f64 / COLUMNS as f64)
        .collect()
}

fn longest_wait(result: &PolicyResult) -> f64 {
    let waits = result.log.waits();
    waits.last().map_or(0.0, Duration::as_secs_f64)
}

/// The index of the part, of `count` equal ones, that `share` falls into.
fn slot(share: f64, count: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is not negative"
    )]
    let slot = (share * count as f64) as usize;
    slot.min(count - 1)
}

/// A short axis gets a decimal.
fn seconds(value: f64, end: f64) -> String {
    format!("{value:.*}", if end < 10.0 { 1 } else { 0 })
}

fn label() -> TextStyle<'static> {
    ("sans-serif", 15).into_font().color(&INK.stand_in)
}

type Root<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    height: u32,
    fill: impl FnOnce(&Root<'_>) -> Result<(), Box<dyn Error>>,
) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
    fill(&root)?;
    root.present()?;
    drop(root);
    Ok(themed(&text))
}

/// Replaces the placeholders by the page's colours. Inline SVG needs no namespace.
fn themed(drawing: &str) -> String {
    let mut text = drawing.replace(r#" xmlns="http://www.w3.org/2000/svg""#, "");
    for role in [INK, FAINT, SENT, REFUSED, LIMIT] {
        let RGBColor(red, green, blue) = role.stand_in;
        let stand_in = format!("#{red:02X}{green:02X}{blue:02X}");
        text = text.replace(&stand_in, &format!("var(--{})", role.name));
    }
    text
}
