//! Curves, drawn as SVG files in docs/benchmarks/.

use std::{fs, ops::Range};

use plotters::{
    chart::SeriesLabelPosition,
    coord::{
        ranged1d::{AsRangedCoord, ValueFormatter},
        types::RangedCoordf64,
    },
    prelude::*,
};

use super::enclosure;

/// The colours of the lines, in order. People who are colour-blind can tell them apart, too (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
const SIZE: (u32, u32) = (760, 420);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A curve.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A drawing.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    /// The label of the horizontal axis, with its unit.
    pub(crate) x: &'static str,
    /// The label of the vertical axis, with its unit.
    pub(crate) y: &'static str,
    /// True if both axes are logarithmic.
    pub(crate) logarithmic: bool,
    pub(crate) lines: Vec<Line>,
}

impl Plot {
    /// Draws the plot to a file of this name.
    pub(crate) fn draw(&self, file: &str) {
        let directory = enclosure::repository().join("docs/benchmarks");
        fs::create_dir_all(&directory).unwrap();
        let (xs, ys) = (self.range(|point| point.0), self.range(|point| point.1));
        // The axis starts at 0, since otherwise noise in a flat curve would look like a mountain. The rest is room for
        // the legend.
        let ys = 0.0..ys.end * 1.4;
        let path = directory.join(file);
        if self.logarithmic {
            self.draw_on(&path, xs.log_scale(), ys);
        } else {
            self.draw_on::<_, RangedCoordf64>(&path, 0.0..xs.end, ys);
        }
    }

    fn draw_on<X, C>(&self, path: &std::path::Path, xs: X, ys: Range<f64>)
    where
        X: AsRangedCoord<CoordDescType = C, Value = f64>,
        C: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE).unwrap();
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(64)
            .build_cartesian_2d(xs, ys)
            .unwrap();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .axis_style(GREY)
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()
            .unwrap();
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let points = line.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))
                .unwrap()
                .label(line.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled()))).unwrap();
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .border_style(GREY.mix(0.5))
            .label_font(("sans-serif", 13))
            .draw()
            .unwrap();
        root.present().unwrap();
    }

    fn range(&self, of: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
        let values = || self.lines.iter().flat_map(|line| line.points.iter().map(&of));
        values().fold(f64::INFINITY, f64::min)..values().fold(0.0, f64::max)
    }
}

/// Formats a number without insignificant digits, and with a separator between the thousands.
fn number(value: f64) -> String {
    if value.fract().abs() > 1e-9 {
        return format!("{value:.2}").trim_end_matches('0').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
