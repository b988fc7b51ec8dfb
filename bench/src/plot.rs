//! The curves of growth, side by side in one drawing.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::bench::Bench;
use crate::curve::Curve;
use crate::error::{Error, Result};
use crate::report;

/// Of one curve, in pixels.
const SIZE: (u32, u32) = (480, 340);

const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(140, 140, 140)];

pub fn draw(bench: &Bench, curves: &[Curve], path: &Path) -> Result<()> {
    if curves.is_empty() {
        return Ok(());
    }
    let rows = curves.len().div_ceil(2);
    let columns = curves.len().min(2);
    let mut text = String::new();
    let size = (SIZE.0 * columns as u32, SIZE.1 * rows as u32);
    let drawn = (|| {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, curve) in root.split_evenly((rows, columns)).iter().zip(curves) {
            one(area, curve)?;
        }
        root.present()
    })();
    drawn.map_err(|error| Error::Verification(format!("the plot cannot be drawn: {error}")))?;
    report::write_text(bench, path, &text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// By the powers of ten where the sizes are a thousand times apart.
fn one(area: &Area, curve: &Curve) -> Drawn {
    let points = || curve.lines.iter().flat_map(|line| line.points.iter());
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    if least(|point| point.0) * 1000.0 <= right && least(|point| point.0) > 0.0 {
        let (left, bottom) = (least(|point| point.0), least(|point| point.1));
        chart(area, curve, (left..right).log_scale(), (bottom / 2.0..top * 2.0).log_scale())
    } else {
        chart(area, curve, 0.0..right * 1.05, 0.0..top * 1.15)
    }
}

fn chart<X, Y>(area: &Area, curve: &Curve, x: X, y: Y) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(&curve.name, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(56)
        .build_cartesian_2d(x, y)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc(&curve.what).y_desc(&curve.unit).draw()?;
    for (line, colour) in curve.lines.iter().zip(COLOURS) {
        let drawn = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3);
        chart
            .draw_series(drawn)?
            .label(&line.label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
    }
    if curve.lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
    }
    Ok(())
}
