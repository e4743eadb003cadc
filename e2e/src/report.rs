//! Results of benchmarks: tables in Markdown, figures in SVG, numbers in JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, Palette, Palette99,
    PathElement, SVGBackend, SeriesLabelPosition, WHITE,
};
use serde::Serialize;

/// A table in Markdown whose columns line up.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    #[must_use]
    pub fn new(titles: &[&str]) -> Self {
        Self {
            rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:<width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                for width in &widths {
                    write!(f, "|{}", "-".repeat(width + 2))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// The value below which `part` (0 to 1) of the values lie; none of no values. Takes the nearest rank.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank among a few thousand values"
)]
pub fn percentile(values: &[Duration], part: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// A duration in milliseconds, for a table; a dash for none.
#[must_use]
pub fn milliseconds(value: Option<Duration>) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |value| format!("{:.1} ms", value.as_secs_f64() * 1000.0),
    )
}

/// Writes `value` as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    make_parent(path)?;
    let text = serde_json::to_string_pretty(value).context("writing the results as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

/// Draws the cumulative distribution of several series of durations, on a logarithmic scale of milliseconds.
pub fn plot_distribution(path: &Path, title: &str, series: &[(String, Vec<Duration>)]) -> anyhow::Result<()> {
    plot_distribution_of("trials", path, title, series)
}

/// As [`plot_distribution`], of other things than trials.
pub fn plot_distribution_of(
    things: &str,
    path: &Path,
    title: &str,
    series: &[(String, Vec<Duration>)],
) -> anyhow::Result<()> {
    make_parent(path)?;
    draw(things, path, title, series).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
fn draw(
    things: &str,
    path: &Path,
    title: &str,
    series: &[(String, Vec<Duration>)],
) -> Result<(), Box<dyn std::error::Error>> {
    // A tenth of a millisecond: less is the machine's scheduling, and a logarithm knows no zero.
    let in_ms = |value: &Duration| (value.as_secs_f64() * 1000.0).max(0.1);
    let longest = series
        .iter()
        .flat_map(|(_, values)| values)
        .map(in_ms)
        .fold(100.0, f64::max);
    let area = SVGBackend::new(path, (900, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((0.1..longest * 1.5).log_scale(), 0.0..1.0_f64)?;
    chart
        .configure_mesh()
        .x_desc("milliseconds")
        .y_desc(format!("part of the {things}"))
        .draw()?;
    for (index, (name, values)) in series.iter().enumerate() {
        let mut sorted: Vec<f64> = values.iter().map(in_ms).collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len().max(1) as f64;
        let points: Vec<(f64, f64)> = sorted
            .into_iter()
            .enumerate()
            .map(|(rank, value)| (value, (rank + 1) as f64 / count))
            .collect();
        let color = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 2, color.filled())))?;
    }
    chart
        .configure_series_labels()
        // Where distributions of times have no lines.
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.4))
        .draw()?;
    area.present()?;
    Ok(())
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    let parent: PathBuf = path.parent().unwrap_or(Path::new(".")).to_owned();
    fs::create_dir_all(&parent).with_context(|| format!("making the directory {}", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let values: Vec<Duration> = (1..=10).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Some(Duration::from_millis(5)));
        assert_eq!(percentile(&values, 1.0), Some(Duration::from_millis(10)));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn table_lines_up() {
        let mut table = Table::new(&["client", "p50"]);
        table.row(["curl".to_owned(), "1.0 ms".to_owned()]);
        assert_eq!(
            table.to_string(),
            "| client | p50    |\n|--------|--------|\n| curl   | 1.0 ms |\n"
        );
    }

    #[test]
    fn plot_is_an_svg_that_names_its_series() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/plot.svg");
        let values = [3, 400, 5].map(Duration::from_millis).to_vec();
        plot_distribution(&path, "silence", &[("curl".to_owned(), values)]).unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("curl"), "{text}");
    }
}
