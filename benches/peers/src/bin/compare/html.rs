//! The report as a self-contained page.

use std::fmt::Write;

use plotters::prelude::*;

use super::{
    gateway::Scheme,
    judge::Judgement,
    metric::{METRICS, Metric},
    results::{Circumstances, DIRECT, OURS, Results},
    scale::Curve,
    table::{RATIOS, cell, heading, measured_of_all, number, ratio, spelled},
};

const SIZE: (u32, u32) = (880, 250);

const COLOUR: RGBColor = RGBColor(0x33, 0x66, 0xaa);
const OUR_COLOUR: RGBColor = RGBColor(0xd9, 0x6b, 0x1c);

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:96em;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse;font-size:13px}td,th{padding:.25em .6em;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,th:last-child{text-align:left}.ours{background:#fdf1e7}.over{color:#b00020;font-weight:600}.ok{color:#207020}\
tr>:first-child,td{white-space:nowrap}td.budget{text-align:left;white-space:normal;min-width:18em}.unsure{background:#fff3cd}\
.doubt{background:#fff3cd;padding:.6em 1em;border:1px solid #e0c060}svg{max-width:min(100%,880px);height:auto}\
div.wide{overflow-x:auto}";

/// The whole run as a page.
pub(crate) fn page(
    results: &Results,
    circumstances: &Circumstances,
    curves: &[Curve],
) -> anyhow::Result<String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>pacegate compared</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>pacegate compared</h1>\n\
         <p><code>{}</code>: {} rounds on {}; {}.</p>\n",
        escaped(&circumstances.command),
        circumstances.rounds,
        escaped(&circumstances.machine),
        escaped(&circumstances.versions.join(", ")),
    );
    doubts(&mut page, &results.doubts(circumstances));
    for scheme in Scheme::ALL {
        let names = results.gateways(scheme);
        if !names.iter().any(|name| name == OURS) {
            continue;
        }
        let _infallible = writeln!(page, "<h2>Upstream over {}</h2>", spelled(scheme));
        table(&mut page, results, scheme, &names);
        for metric in METRICS.iter().filter(|metric| metric.key != "core") {
            chart(&mut page, results, scheme, &names, metric)?;
        }
        let pipelines = results.pipelines(scheme);
        if pipelines.len() > 1 {
            page.push_str("<h2>Without some of its layers</h2>\n");
            for metric in measured_of_all(results, scheme, &pipelines) {
                chart(&mut page, results, scheme, &pipelines, metric)?;
            }
        }
    }
    if !curves.is_empty() {
        page.push_str("<h2>How the cost grows</h2>\n");
    }
    for curve in curves {
        let _infallible = write!(
            page,
            "<h3>{}</h3>\n<p>{}</p>\n{}\n",
            escaped(&curve.title),
            escaped(&curve.verdict()),
            line(curve)?
        );
    }
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

fn doubts(page: &mut String, doubts: &[String]) {
    if doubts.is_empty() {
        page.push_str("<p>The machine was calm.</p>\n");
        return;
    }
    page.push_str("<p class=\"doubt\">Not to be trusted: ");
    page.push_str(&escaped(&doubts.join("; ")));
    page.push_str(".</p>\n");
}

fn table(page: &mut String, results: &Results, scheme: Scheme, names: &[String]) {
    page.push_str("<div class=\"wide\"><table>\n<tr><th></th>");
    for name in names {
        let _infallible = write!(page, "<th>{}</th>", escaped(name));
    }
    for against in RATIOS {
        let _infallible = write!(page, "<th>{}</th>", escaped(&heading(against, scheme)));
    }
    page.push_str("<th>budget</th></tr>\n");
    let judgements = Judgement::all(results, scheme);
    for metric in &METRICS {
        let _infallible = write!(page, "<tr><th>{}</th>", metric.heading());
        for name in names {
            let class = if name == OURS { " class=\"ours\"" } else { "" };
            let _infallible = write!(
                page,
                "<td{class}>{}</td>",
                cell(results, scheme, name, metric.key)
            );
        }
        for against in RATIOS {
            let ratio = ratio(results, scheme, metric, against);
            let _infallible = write!(page, "<td>{ratio}</td>");
        }
        page.push_str("<td class=\"budget\">");
        for judgement in &judgements {
            if judgement.metric.key == metric.key {
                budget(page, judgement);
            }
        }
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// A limit, and whether it is met.
fn budget(page: &mut String, judgement: &Judgement) {
    let class = if judgement.over().is_some() {
        "over"
    } else {
        "ok"
    };
    let _infallible = write!(
        page,
        "<div>{}: <span class=\"{class}\">{}</span>",
        escaped(&judgement.limit()),
        judgement.verdict()
    );
    if let Some(doubt) = &judgement.doubt {
        let _infallible = write!(
            page,
            " <span class=\"unsure\">not to be trusted: {}</span>",
            escaped(doubt)
        );
    }
    page.push_str("</div>");
}

fn chart(
    page: &mut String,
    results: &Results,
    scheme: Scheme,
    names: &[String],
    metric: &Metric,
) -> anyhow::Result<()> {
    let better = if metric.more { "more" } else { "less" };
    let bars = bars(results, scheme, names, metric)?;
    let heading = metric.heading();
    let _infallible = write!(page, "<h3>{heading} ({better} is better)</h3>\n{bars}\n");
    Ok(())
}

/// One bar for each gateway.
fn bars(
    results: &Results,
    scheme: Scheme,
    names: &[String],
    metric: &Metric,
) -> anyhow::Result<String> {
    let values: Vec<(&str, f64)> = names
        .iter()
        .filter(|name| *name != DIRECT)
        .filter_map(|name| Some((name.as_str(), results.figure(scheme, name, metric)?.median)))
        .collect();
    let most = values.iter().map(|(_, value)| *value).fold(1e-6, f64::max);
    let height = 26 * values.len() as u32 + 8;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        for (row, (name, value)) in (0_i32..).zip(&values) {
            let top = 26 * row + 4;
            let long = (value.max(0.0) / most * 520.0) as i32;
            let colour = if name.starts_with(OURS) {
                OUR_COLOUR
            } else {
                COLOUR
            };
            root.draw(&Rectangle::new(
                [(250, top), (250 + long.max(1), top + 18)],
                colour.filled(),
            ))?;
            let font = ("sans-serif", 13).into_font();
            root.draw(&Text::new((*name).to_owned(), (4, top + 3), font.clone()))?;
            root.draw(&Text::new(number(*value), (258 + long, top + 3), font))?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Cost per item over a logarithmic axis: n log n in all is at most a straight line.
fn line(curve: &Curve) -> anyhow::Result<String> {
    let points: Vec<(f64, f64)> = curve
        .points
        .iter()
        .map(|point| (point.number, point.cost))
        .collect();
    let most = points.iter().map(|point| point.1).fold(1e-6, f64::max) * 1.15;
    let last = points.iter().map(|point| point.0).fold(1.0, f64::max) * 1.1;
    let first = points.iter().map(|point| point.0).fold(f64::MAX, f64::min) / 1.1;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d((first..last).log_scale(), 0.0..most)?;
        chart
            .configure_mesh()
            .x_desc(curve.over.as_str())
            .y_desc(curve.unit.as_str())
            .x_label_formatter(&|number| format!("{number:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        chart.draw_series(LineSeries::new(
            points.iter().copied(),
            OUR_COLOUR.stroke_width(2),
        ))?;
        chart.draw_series(
            points
                .iter()
                .map(|point| Circle::new(*point, 3, OUR_COLOUR.filled())),
        )?;
        root.present()?;
    }
    Ok(svg)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
