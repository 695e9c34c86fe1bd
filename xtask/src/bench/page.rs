//! All results that are there as one HTML page: tables, and bars as inline SVG. It computes nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const HEAD: &str = "<!doctype html><meta charset=utf-8><title>deployd: benchmarks</title>\n\
    <style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\
    table{border-collapse:collapse}td,th{padding:.15em .8em;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}svg{display:block;margin:.5em 0 1.5em}</style>\n\
    <h1>deployd: benchmarks</h1>\n";
/// Pixels: of a bar's longest, of its height with the gap, of the names before it.
const WIDTH: f64 = 420.0;
const ROW: usize = 24;
const NAMES: usize = 220;

/// Writes `index.html` beside the results.
pub(super) fn write(folder: &Path) -> Result<PathBuf> {
    let mut results = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("no results in {}", folder.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&file)?;
            results.push(
                serde_json::from_str(&text).with_context(|| format!("{} is no result", file.display()))?,
            );
        }
    }
    ensure!(!results.is_empty(), "no results in {}: run `cargo xtask bench NAME` first", folder.display());
    results.sort_by_key(|result: &Value| result["bench"].as_str().map(str::to_owned));
    let page = folder.join("index.html");
    fs::write(&page, render(&results)).with_context(|| format!("failed to write {}", page.display()))?;
    Ok(page)
}

fn render(results: &[Value]) -> String {
    let mut out = HEAD.to_owned();
    for result in results {
        let name = text(&result["bench"]);
        let _ = writeln!(out, "<h2>{name}</h2>");
        let mut rows = Vec::new();
        flatten("", result, &mut rows);
        // Groups whose values are of one kind are seen better than read.
        for (title, bars) in plots(result) {
            plot(&mut out, &title, &bars);
        }
        out += "<table><tr><th>key<th>value</tr>\n";
        for (key, value) in rows {
            let _ = writeln!(out, "<tr><td>{key}<td>{}</tr>", escaped(&value));
        }
        out += "</table>\n";
    }
    out
}

/// Which keys are plotted together: requests per second, failed requests, and milliseconds.
fn plots(result: &Value) -> Vec<(String, Vec<(String, f64)>)> {
    let mut plots = Vec::new();
    let mut add = |title: String, value: &Value, wanted: &dyn Fn(&str) -> bool| {
        let Some(object) = value.as_object() else { return };
        let bars = object.iter().filter(|(key, _)| wanted(key));
        let bars: Vec<(String, f64)> =
            bars.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))).collect();
        if bars.len() > 1 {
            plots.push((title, bars));
        }
    };
    for pattern in ["keepalive", "newconn"] {
        add(format!("{pattern}: requests per second"), &result[pattern], &|key| key.ends_with("_rps"));
    }
    for (name, regime) in result["regimes"].as_object().into_iter().flatten() {
        add(format!("{name}: failed requests"), regime, &|key| key.ends_with("failed"));
        add(format!("{name}: milliseconds"), regime, &|key| key.contains("_ms") && key.starts_with('p'));
    }
    plots
}

fn plot(out: &mut String, title: &str, bars: &[(String, f64)]) {
    let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let height = bars.len() * ROW;
    let _ = writeln!(
        out,
        "<h3>{}</h3>\n<svg width=\"{}\" height=\"{height}\" font-size=\"13\">",
        escaped(title),
        NAMES as f64 + WIDTH + 120.0
    );
    for (index, (name, value)) in bars.iter().enumerate() {
        let (top, width) = (index * ROW, value / longest * WIDTH);
        let baseline = top + 16;
        let _ = writeln!(
            out,
            "<text x=\"0\" y=\"{baseline}\">{}</text><rect x=\"{NAMES}\" y=\"{}\" width=\"{width:.1}\" height=\"16\" \
             fill=\"#4a7\"/><text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
            escaped(name),
            top + 3,
            NAMES as f64 + width + 6.0,
            short(*value)
        );
    }
    out.push_str("</svg>\n");
}

/// Every value that is none of objects, by its dotted key.
fn flatten(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, rows);
            }
        }
        other => rows.push((prefix.to_owned(), text(other))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), short),
        other => other.to_string(),
    }
}

/// A number as people read it.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_shows_every_value_and_plots_what_compares() {
        let result = json!({
            "bench": "swap",
            "regimes": {"fast": {"failed": 0, "naive_failed": 40, "nginx_failed": null, "p99_swap_ms": 1.25}},
        });
        let page = render(&[result]);
        for wanted in ["regimes.fast.p99_swap_ms", "1.250", "nginx_failed", "<svg", "fast: failed requests"] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }
}
