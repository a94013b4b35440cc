//! A line over two logarithmic axes as SVG, small enough to stand in the repository.

use anyhow::Context;
use std::path::Path;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
/// Free at the left and below, for the numbers; and at the right and above.
const NUMBERS: f64 = 64.0;
const FREE: f64 = 24.0;

/// Points with values above zero, from left to right.
pub struct Plot {
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub points: Vec<(f64, f64)>,
}

pub fn write(file: &Path, plot: &Plot) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    }
    std::fs::write(file, plot.svg()).with_context(|| format!("cannot write `{}`", file.display()))
}

impl Plot {
    fn svg(&self) -> String {
        let x = Axis::over(self.points.iter().map(|p| p.0), NUMBERS, WIDTH - FREE);
        let y = Axis::over(self.points.iter().map(|p| p.1), HEIGHT - NUMBERS, FREE);
        let mut svg =
            format!(r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">"##);
        svg += &format!("\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n");
        for power in x.powers() {
            let (left, bottom) = (x.place(power), HEIGHT - NUMBERS);
            svg += &rule(&format!("M{left:.1} {FREE}V{bottom}"));
            svg += &text((left, bottom + 18.0), "middle", &power.to_string());
        }
        for power in y.powers() {
            let (top, right) = (y.place(power), WIDTH - FREE);
            svg += &rule(&format!("M{NUMBERS} {top:.1}H{right}"));
            svg += &text((NUMBERS - 6.0, top + 4.0), "end", &power.to_string());
        }
        svg += &text((WIDTH / 2.0, HEIGHT - 20.0), "middle", self.x_label);
        svg += &text((NUMBERS, FREE - 8.0), "start", self.y_label);
        svg += &self.line(&x, &y);
        svg + "</svg>\n"
    }

    fn line(&self, x: &Axis, y: &Axis) -> String {
        let (mut path, mut points) = (String::new(), String::new());
        for (at, value) in &self.points {
            let (left, top) = (x.place(*at), y.place(*value));
            path += &format!("{}{left:.1} {top:.1}", if path.is_empty() { "M" } else { "L" });
            points += &format!(r##"<circle cx="{left:.1}" cy="{top:.1}" r="3.5" fill="#0057b8"/>"##);
            points += &text((left, top - 9.0), "middle", &value.to_string());
        }
        format!("<path d=\"{path}\" fill=\"none\" stroke=\"#0057b8\" stroke-width=\"2\"/>\n{points}")
    }
}

fn rule(path: &str) -> String {
    format!(r##"<path d="{path}" stroke="#ddd"/>"##)
}

fn text((left, top): (f64, f64), anchor: &str, text: &str) -> String {
    format!("<text x=\"{left:.1}\" y=\"{top:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

/// Whole powers of ten, laid between two places.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (least, greatest) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(least, greatest), v| (least.min(v), greatest.max(v)));
        let low = least.log10().floor();
        Self { low, high: greatest.log10().ceil().max(low + 1.0), from, to }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|power| 10.0_f64.powi(power))
    }
}
