//! From labelled rows to a model: standardise, fit, calibrate, measure, each on rows of its own.

use crate::{Calibration, ChurnModel, Metrics, TrainingRange, sigmoid, store};
use linfa::{Dataset, traits::Fit};
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Fewer rows than this say nothing about subscribers.
const ROWS_MIN: usize = 30;
/// A calibration slice with fewer rows of a class than this would fit noise: the calibration is the identity then.
const CALIBRATION_CLASS_MIN: usize = 10;
const ITERATIONS_MAX: u64 = 500;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainOptions {
    /// Event times of the rows, `[from, to)` in UTC microseconds; told in the file.
    pub range: (i64, i64),
    /// Weight of the squared weights in the cost, over standardised features and summed losses.
    pub l2: f64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { range: (0, 0), l2: 1.0 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("a churn model needs at least {ROWS_MIN} rows, these are {rows}")]
    TooFewRows { rows: usize },
    #[error("a churn model learns from subscribers who stayed and who left, of these {rows} rows all {}", if *.left { "left" } else { "stayed" })]
    OneClass { rows: usize, left: bool },
    #[error("row {row} has {found} values, expected {expected}, one a feature")]
    Shape { row: usize, found: usize, expected: usize },
    #[error("there are {rows} rows but {labels} labels")]
    Labels { rows: usize, labels: usize },
    #[error("a churn model needs at least one feature")]
    NoFeatures,
    #[error("the logistic regression found no solution: {0}")]
    NoSolution(String),
}

/// Trains on 70 % of the rows of each class, calibrates on 15 %, measures on 15 %. Which row goes where depends on
/// the hash of its index alone. A missing or not finite value counts as the mean of its feature in the training rows.
pub fn train(features: &[String], rows: &[Vec<Option<f64>>], labels: &[bool], options: TrainOptions) -> Result<ChurnModel, TrainError> {
    check(features, rows, labels)?;
    let split = Split::of(labels);
    let (means, stds) = standards(features.len(), rows, &split.train);
    let (intercept, weights) = fit(rows, labels, &split.train, &means, &stds, options.l2)?;
    let mut model = ChurnModel {
        version: String::new(),
        schema_fingerprint: fingerprint(features),
        features: features.to_vec(),
        intercept: digits12(intercept),
        weights: weights.into_iter().map(digits12).collect(),
        means,
        stds,
        calibration: Calibration { a: 1.0, b: 0.0 },
        metrics: Metrics { auc: 0.5, brier: 0.0, ece: 0.0, n: 0, positives: 0 },
        training: TrainingRange { from_us: options.range.0, to_us: options.range.1, rows: rows.len() as u64 },
    };
    let held_out: Vec<(f64, bool)> = split.calibrate.iter().map(|&i| (model.logit(&rows[i]), labels[i])).collect();
    model.calibration = platt(&held_out);
    let scored: Vec<(f64, bool)> = split.test.iter().map(|&i| (sigmoid(model.logit(&rows[i])), labels[i])).collect();
    let m = Metrics::of(&scored);
    model.metrics = Metrics { auc: digits12(m.auc), brier: digits12(m.brier), ece: digits12(m.ece), ..m };
    model.version = store::version_of(&model);
    Ok(model)
}

fn check(features: &[String], rows: &[Vec<Option<f64>>], labels: &[bool]) -> Result<(), TrainError> {
    if features.is_empty() {
        return Err(TrainError::NoFeatures);
    }
    if rows.len() != labels.len() {
        return Err(TrainError::Labels { rows: rows.len(), labels: labels.len() });
    }
    if let Some(row) = rows.iter().position(|r| r.len() != features.len()) {
        return Err(TrainError::Shape { row, found: rows[row].len(), expected: features.len() });
    }
    if rows.len() < ROWS_MIN {
        return Err(TrainError::TooFewRows { rows: rows.len() });
    }
    let left = labels[0];
    if labels.iter().all(|l| *l == left) {
        return Err(TrainError::OneClass { rows: rows.len(), left });
    }
    Ok(())
}

/// Row indices of the three slices.
#[derive(Default)]
struct Split {
    train: Vec<usize>,
    calibrate: Vec<usize>,
    test: Vec<usize>,
}

impl Split {
    fn of(labels: &[bool]) -> Self {
        let mut split = Self::default();
        for class in [false, true] {
            let mut indices: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class).collect();
            indices.sort_by_key(|&i| (xxh3_64(&(i as u64).to_le_bytes()), i));
            let held_out = indices.len() * 15 / 100;
            let (test, rest) = indices.split_at(held_out);
            let (calibrate, train) = rest.split_at(held_out);
            split.test.extend_from_slice(test);
            split.calibrate.extend_from_slice(calibrate);
            split.train.extend_from_slice(train);
        }
        split
    }
}

/// Mean and standard deviation of each feature over the rows that have it. A feature that never varies gets the
/// deviation 1, and the fit then leaves its weight at zero.
fn standards(features: usize, rows: &[Vec<Option<f64>>], slice: &[usize]) -> (Vec<f64>, Vec<f64>) {
    (0..features)
        .map(|f| {
            let present: Vec<f64> = slice.iter().filter_map(|&i| rows[i][f].filter(|v| v.is_finite())).collect();
            let n = (present.len() as f64).max(1.0);
            let mean = digits12(present.iter().sum::<f64>() / n);
            let std = digits12((present.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt());
            (mean, if std > mean.abs() * 1e-9 { std } else { 1.0 })
        })
        .unzip()
}

/// Intercept and weights over standardised features.
fn fit(rows: &[Vec<Option<f64>>], labels: &[bool], slice: &[usize], means: &[f64], stds: &[f64], l2: f64) -> Result<(f64, Vec<f64>), TrainError> {
    let standardised = |r: usize, f: usize| rows[slice[r]][f].filter(|v| v.is_finite()).map_or(0.0, |v| (v - means[f]) / stds[f]);
    let x = Array2::from_shape_fn((slice.len(), means.len()), |(r, f)| standardised(r, f));
    let y = Array1::from_shape_fn(slice.len(), |r| labels[slice[r]]);
    let fitted =
        LogisticRegression::default().alpha(l2).max_iterations(ITERATIONS_MAX).fit(&Dataset::new(x, y)).map_err(|e| TrainError::NoSolution(e.to_string()))?;
    // linfa calls the larger class the positive one; ours are the subscribers who left.
    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    Ok((sign * fitted.intercept(), fitted.params().iter().map(|w| sign * w).collect()))
}

/// Platt's two parameters by Newton's method, with his smoothed targets (Platt 1999; Lin, Lin and Weng 2007). Where
/// the slice is too small or the slope would turn scores around, the identity.
fn platt(held_out: &[(f64, bool)]) -> Calibration {
    let identity = Calibration { a: 1.0, b: 0.0 };
    let positives = held_out.iter().filter(|(_, y)| *y).count();
    let negatives = held_out.len() - positives;
    if positives.min(negatives) < CALIBRATION_CLASS_MIN {
        return identity;
    }
    let (high, low) = ((positives as f64 + 1.0) / (positives as f64 + 2.0), 1.0 / (negatives as f64 + 2.0));
    let (mut a, mut b) = (1.0, 0.0);
    for _ in 0..100 {
        // Gradient, and the Hessian with a small ridge that keeps it invertible.
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for &(z, y) in held_out {
            let p = sigmoid(a * z + b);
            let (error, spread) = (p - if y { high } else { low }, p * (1.0 - p));
            ga += error * z;
            gb += error;
            haa += spread * z * z;
            hab += spread * z;
            hbb += spread;
        }
        let det = haa * hbb - hab * hab;
        let (da, db) = ((hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det);
        a -= da;
        b -= db;
        if da.abs() + db.abs() < 1e-10 {
            break;
        }
    }
    if a.is_finite() && b.is_finite() && a > 0.0 { Calibration { a: digits12(a), b: digits12(b) } } else { identity }
}

fn fingerprint(features: &[String]) -> String {
    format!("{:032x}", xxh3_128(features.join("\n").as_bytes()))
}

/// The nearest number with twelve significant digits: few enough that any JSON parser reads back exactly what was
/// written.
fn digits12(v: f64) -> f64 {
    format!("{v:.11e}").parse().unwrap_or(v)
}
