//! How good a model is on rows that it has not seen.

use serde::{Deserialize, Serialize};

const ECE_BINS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Area under the ROC curve, ties counted half; 0.5 when one class is missing.
    pub auc: f64,
    /// Mean squared difference of score and outcome (Brier 1950).
    pub brier: f64,
    /// Expected calibration error over ten bins of equal width (Naeini et al. 2015).
    pub ece: f64,
    pub n: u64,
    pub positives: u64,
}

impl Metrics {
    /// Of scores in [0, 1] and what came true.
    pub fn of(scored: &[(f64, bool)]) -> Self {
        let n = scored.len() as u64;
        let positives = scored.iter().filter(|(_, y)| *y).count() as u64;
        let brier = scored.iter().map(|(p, y)| (p - outcome(*y)).powi(2)).sum::<f64>() / (n as f64).max(1.0);
        Self { auc: auc(scored), brier, ece: ece(scored), n, positives }
    }
}

fn outcome(label: bool) -> f64 {
    f64::from(u8::from(label))
}

/// Mann and Whitney's U over the product of the class sizes, from mid-ranks.
fn auc(scored: &[(f64, bool)]) -> f64 {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank_sum, mut below) = (0.0, 0usize);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let mid_rank = below as f64 + (tied.len() as f64 + 1.0) / 2.0;
        rank_sum += mid_rank * tied.iter().filter(|(_, y)| *y).count() as f64;
        below += tied.len();
    }
    let positives = scored.iter().filter(|(_, y)| *y).count() as f64;
    let negatives = scored.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return 0.5;
    }
    (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

fn ece(scored: &[(f64, bool)]) -> f64 {
    let mut bins = [(0.0, 0.0); ECE_BINS];
    for (p, y) in scored {
        let bin = ((p * ECE_BINS as f64) as usize).min(ECE_BINS - 1);
        bins[bin].0 += p;
        bins[bin].1 += outcome(*y);
    }
    // |mean score − mean outcome| weighted by the bin's share: the bin's size cancels out.
    bins.iter().map(|(p, y)| (p - y).abs()).sum::<f64>() / (scored.len() as f64).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_is_the_share_of_pairs_in_the_right_order_with_ties_counted_half() {
        let scored = [(0.1, false), (0.4, true), (0.4, false), (0.9, true)];
        assert_eq!(auc(&scored), 3.5 / 4.0);
        assert_eq!(auc(&[(0.3, true)]), 0.5);
    }

    #[test]
    fn a_score_that_says_seventy_percent_of_seven_in_ten_has_no_calibration_error() {
        let scored: Vec<_> = (0..10).map(|i| (0.7, i < 7)).collect();
        let m = Metrics::of(&scored);
        assert!(m.ece < 1e-9 && (m.brier - 0.21).abs() < 1e-9 && m.positives == 7, "{m:?}");
    }
}
