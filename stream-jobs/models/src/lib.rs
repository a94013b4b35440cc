//! The churn model: a calibrated logistic regression whose every score can be taken apart.
//!
//! It promises that the same rows train to the same bytes, that a score is the same on every machine (pure-Rust
//! `libm`, rounded to 1e-6), and that the reasons of a score add up to it. It knows nothing of SQL, of streams or of
//! where rows come from: features are names and numbers.
//!
//! ```
//! # use models::{train, TrainOptions};
//! let features = vec!["days_since_login".to_owned()];
//! let rows: Vec<_> = (0..200).map(|i| vec![Some(f64::from(i % 40))]).collect();
//! let labels: Vec<_> = (0..200).map(|i| i % 40 > 25).collect();
//! let model = train(&features, &rows, &labels, TrainOptions::default())?;
//! assert!(model.score(&[Some(39.0)]) > model.score(&[Some(0.0)]));
//! # Ok::<(), models::TrainError>(())
//! ```

mod metrics;
mod store;
mod training;

pub use metrics::Metrics;
pub use store::ModelError;
pub use training::{TrainError, TrainOptions, train};

use serde::{Deserialize, Serialize};

/// The bands of a score: low < 0.40 ≤ medium < 0.70 ≤ high.
pub fn band(score: f64) -> &'static str {
    match score {
        s if s >= 0.70 => "high",
        s if s >= 0.40 => "medium",
        _ => "low",
    }
}

/// A trained model as it stands in its file. All numbers have at most twelve significant digits, so that the JSON
/// text and the value in memory are the same thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChurnModel {
    /// Hash of everything below; part of the file's name and of every epoch's versions.
    pub version: String,
    /// Hash of the feature names in order: a view with other features does not fit this model.
    pub schema_fingerprint: String,
    pub features: Vec<String>,
    /// Log-odds at the means, before calibration.
    pub intercept: f64,
    /// One a feature, over `(value − mean) / std`.
    pub weights: Vec<f64>,
    /// Means of the training rows: the baseline of the reasons, and the stand-in for a missing value.
    pub means: Vec<f64>,
    pub stds: Vec<f64>,
    pub calibration: Calibration,
    /// Measured on rows that neither training nor calibration has seen.
    pub metrics: Metrics,
    pub training: TrainingRange,
}

/// Platt scaling (Platt 1999): calibrated log-odds = `a` × log-odds + `b`. The identity is (1, 0).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub a: f64,
    pub b: f64,
}

/// The event times, in UTC microseconds, and the number of rows that a model was trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingRange {
    pub from_us: i64,
    pub to_us: i64,
    pub rows: u64,
}

/// The exact share of one feature in the log-odds of a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    pub feature: String,
    pub value: Option<f64>,
    pub baseline: f64,
    pub contribution: f64,
}

impl ChurnModel {
    /// Probability in [0, 1], rounded to 1e-6. `x` has one value a feature, in the order of `features`; a missing,
    /// absent or not finite value counts as the mean.
    pub fn score(&self, x: &[Option<f64>]) -> f64 {
        round6(sigmoid(self.logit(x)))
    }

    /// What each feature adds to the log-odds of the score, the largest first, equal ones by name. With [`Self::base`]
    /// they sum to the log-odds of the score, up to the rounding of each to 1e-6.
    pub fn reasons(&self, x: &[Option<f64>]) -> Vec<Contribution> {
        let mut reasons: Vec<Contribution> = (0..self.features.len())
            .map(|i| Contribution {
                feature: self.features[i].clone(),
                value: value(x, i),
                baseline: self.means[i],
                contribution: round6(self.contribution(x, i)),
            })
            .collect();
        reasons.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()).then_with(|| a.feature.cmp(&b.feature)));
        reasons
    }

    /// Log-odds of a row whose every feature is at its baseline.
    pub fn base(&self) -> f64 {
        self.calibration.a * self.intercept + self.calibration.b
    }

    /// Calibrated log-odds, summed in the order of the features so that every machine rounds alike.
    pub fn logit(&self, x: &[Option<f64>]) -> f64 {
        (0..self.features.len()).fold(self.base(), |sum, i| sum + self.contribution(x, i))
    }

    fn contribution(&self, x: &[Option<f64>], i: usize) -> f64 {
        value(x, i).map_or(0.0, |v| self.calibration.a * self.weights[i] * ((v - self.means[i]) / self.stds[i]))
    }
}

fn value(x: &[Option<f64>], i: usize) -> Option<f64> {
    x.get(i).copied().flatten().filter(|v| v.is_finite())
}

/// 1 / (1 + e^−z), from the side that does not overflow.
pub(crate) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + libm::exp(-z))
    } else {
        let e = libm::exp(z);
        e / (1.0 + e)
    }
}

/// Rounds to 1e-6, with one zero.
fn round6(v: f64) -> f64 {
    let r = libm::round(v * 1e6) / 1e6;
    if r == 0.0 { 0.0 } else { r }
}

#[cfg(test)]
mod tests;
