//! Requests that were answered in each second, over time.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, LineSeries, Palette, Palette99, PathElement, SVGBackend,
    SeriesLabelPosition, WHITE,
};

/// A line of a figure: its name, and a count for each second.
pub type Series = (String, Vec<u64>);

/// Draws the figures one below the other, each under its title.
pub fn plot_over_time(path: &Path, figures: &[(String, Vec<Series>)]) -> anyhow::Result<()> {
    draw(path, figures).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
fn draw(path: &Path, figures: &[(String, Vec<Series>)]) -> Result<(), Box<dyn std::error::Error>> {
    let height = 300 * u32::try_from(figures.len())?;
    let area = SVGBackend::new(path, (900, height)).into_drawing_area();
    area.fill(&WHITE)?;
    for (part, (title, series)) in area.split_evenly((figures.len(), 1)).iter().zip(figures) {
        let counts = || series.iter().flat_map(|(_, counts)| counts.iter().copied());
        let highest = counts().max().unwrap_or_default() as f64;
        let seconds = series
            .iter()
            .map(|(_, counts)| counts.len())
            .max()
            .unwrap_or_default();
        let mut chart = ChartBuilder::on(part)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..seconds as f64, 0.0..highest * 1.2 + 1.0)?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_desc("answered in this second")
            .draw()?;
        for (index, (name, counts)) in series.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            let points = counts
                .iter()
                .enumerate()
                .map(|(second, count)| (second as f64, *count as f64));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.4))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plot_is_an_svg_that_names_its_series() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        let series = vec![("etcd".to_owned(), vec![1, 2, 3]), ("quorate".to_owned(), vec![])];
        plot_over_time(&path, &[("2,500 a second".to_owned(), series)]).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("<svg") && text.contains("etcd") && text.contains("quorate"));
    }
}
