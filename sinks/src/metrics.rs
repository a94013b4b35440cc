//! What sinks tell about themselves: one function an observation.

use ::metrics::{counter, gauge};

pub(crate) fn rows_written(sink: &str, rows: usize) {
    counter!("headend_sink_rows_total", "sink" => sink.to_owned()).increment(rows as u64);
}

/// Rows that have no place in the sink, such as a row without a value for its key.
pub(crate) fn rows_rejected(sink: &str, rows: usize) {
    counter!("headend_sink_rows_rejected_total", "sink" => sink.to_owned()).increment(rows as u64);
}

pub(crate) fn lag(sink: &str, task: u32, epochs: u64) {
    gauge!("headend_sink_lag_epochs", "sink" => sink.to_owned(), "task" => task.to_string()).set(epochs as f64);
}

pub(crate) fn retried(sink: &str) {
    counter!("headend_sink_retries_total", "sink" => sink.to_owned()).increment(1);
}
