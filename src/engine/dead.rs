//! Says in the program's log that records could not be taken; the letters themselves are outputs of the epoch.

use arrow_array::{
    RecordBatch,
    cast::AsArray,
    types::{UInt32Type, UInt64Type},
};
use schemas::{Output, OutputKind};
use std::time::{Duration, Instant};
use tracing::warn;

/// Letters of one epoch that are shown in full.
const SHOWN_MAX: usize = 5;
/// A broken sender is to be heard, not to fill the disk: between two epochs that are told so much time passes.
const TOLD_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct DeadLetters {
    told_at: Option<Instant>,
    untold: u64,
}

impl DeadLetters {
    /// To be called with every epoch: what was held back is told with one that comes later.
    pub fn tell(&mut self, outputs: &[Output]) {
        let is_time = self.told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY);
        let mut shown = 0;
        for batch in outputs.iter().filter(|o| o.kind == OutputKind::Dead).map(|o| &o.batch) {
            self.untold += batch.num_rows() as u64;
            if is_time {
                shown += show(batch);
            }
        }
        if is_time && self.untold > 0 {
            let rest = self.untold.saturating_sub(shown);
            if rest > 0 {
                warn!("cannot take {rest} other events either; the output `dead_letters` holds them, `headend_rows_total` counts them");
            }
            (self.told_at, self.untold) = (Some(Instant::now()), 0);
        }
    }
}

/// Returns how many were shown.
fn show(batch: &RecordBatch) -> u64 {
    let text = |name| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let partitions = batch.column_by_name("partition").and_then(|c| c.as_primitive_opt::<UInt32Type>());
    let offsets = batch.column_by_name("offset").and_then(|c| c.as_primitive_opt::<UInt64Type>());
    let (Some(topics), Some(reasons), Some(partitions), Some(offsets)) = (text("topic"), text("reason"), partitions, offsets) else { return 0 };
    let shown = batch.num_rows().min(SHOWN_MAX);
    for row in 0..shown {
        let place = format!("{}/{}@{}", topics.value(row), partitions.value(row), offsets.value(row));
        warn!("cannot take the event at `{place}`: {}", reasons.value(row));
    }
    shown as u64
}
