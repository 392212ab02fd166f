//! Two pictures side by side: mean KL divergence, and perplexity over the float model's, against bytes per token.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::Row;

const SIZE: (u32, u32) = (1180, 470);
const OURS: RGBColor = RGBColor(0x0B, 0x6E, 0x99);
const THEIRS: RGBColor = RGBColor(0xC4, 0x5B, 0x1A);
const TEXT: &str = "sans-serif";

/// A dot.
struct Dot {
    ours: bool,
    name: &'static str,
    x: f64,
    y: f64,
}

/// Draws the rows, each the mean of its texts.
pub(super) fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    draw(&area, rows).map_err(|error| anyhow!("{}: {error}", path.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, rows: &[Row]) -> Drawn
where
    B::ErrorType: 'static,
{
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE.0 / 2);
    let dots = |y: &dyn Fn(&super::Figures) -> f64| -> Vec<Dot> {
        let mean = |row: &Row| row.figures.iter().map(y).sum::<f64>() / row.figures.len() as f64;
        let x = |row: &Row| row.figures[0].bytes_per_token as f64 / 1e6;
        rows.iter().map(|row| Dot { ours: row.ours, name: row.setting, x: x(row), y: mean(row) }).collect()
    };
    panel(&left, "mean KL divergence (nats)", &dots(&|f| f.kl_mean.max(1e-5)))?;
    panel(&right, "perplexity over the float model's, less 1", &dots(&|f| (f.perplexity / f.float_perplexity - 1.0).max(1e-3)))?;
    area.present()?;
    Ok(())
}

fn panel<B: DrawingBackend>(area: &DrawingArea<B, Shift>, title: &str, dots: &[Dot]) -> Drawn
where
    B::ErrorType: 'static,
{
    let (mut x, mut y) = ((f64::MAX, 0.0f64), (f64::MAX, 0.0f64));
    for dot in dots {
        x = (x.0.min(dot.x), x.1.max(dot.x));
        y = (y.0.min(dot.y), y.1.max(dot.y));
    }
    // Room on the right for the names.
    let wide = (x.1 - x.0).max(1.0);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (TEXT, 16))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(x.0 - 0.06 * wide..x.1 + 0.3 * wide, (y.0 / 1.5..y.1 * 1.5).log_scale())?;
    let mesh = RGBColor(0xE4, 0xE4, 0xE4);
    chart
        .configure_mesh()
        .bold_line_style(mesh)
        .light_line_style(TRANSPARENT)
        .x_desc("MB read per token")
        .label_style((TEXT, 13))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if *y < 0.01 { format!("{y:.4}") } else { format!("{y}") })
        .draw()?;
    // Names stand right of their dots, each below the last one it would touch.
    let mut order: Vec<&Dot> = dots.iter().collect();
    let down = |dot: &Dot| chart.backend_coord(&(dot.x, dot.y));
    order.sort_by_key(|dot| down(dot).1);
    let mut taken: Vec<(i32, i32)> = Vec::new();
    let mut labels = Vec::new();
    for dot in order {
        let (column, mut row) = down(dot);
        while let Some(at) = taken.iter().find(|&&(c, r)| (c - column).abs() < 130 && (r - row).abs() < 13) {
            row = at.1 + 13;
        }
        taken.push((column, row));
        labels.push((dot, (column, row)));
    }
    let offset = area.get_base_pixel();
    for (dot, (column, row)) in labels {
        let color = if dot.ours { OURS } else { THEIRS };
        if dot.ours {
            chart.draw_series([Circle::new((dot.x, dot.y), 5, color.filled())])?;
        } else {
            chart.draw_series([TriangleMarker::new((dot.x, dot.y), 6, color.filled())])?;
        }
        let name = if dot.ours { format!("Bourn {}", dot.name) } else { dot.name.to_owned() };
        area.draw(&Text::new(name, (column - offset.0 + 9, row - offset.1 - 6), (TEXT, 12).into_font().color(&color)))?;
    }
    Ok(())
}
