//! What this crate counts and measures, one function an observation.

use schemas::DeadLetter;
use std::time::Duration;

/// Records of one partition that were committed.
pub fn appended(topic: &str, records: u64, bytes: u64) {
    metrics::counter!("headend_log_appends_total", "topic" => topic.to_owned()).increment(records);
    metrics::counter!("headend_log_append_bytes_total", "topic" => topic.to_owned()).increment(bytes);
}

/// One group commit of the embedded log.
pub fn committed(took: Duration, appends: usize) {
    metrics::histogram!("headend_log_commit_seconds").record(took.as_secs_f64());
    metrics::histogram!("headend_log_commit_appends").record(appends as f64);
}

pub fn commit_failed() {
    metrics::counter!("headend_log_commit_failures_total").increment(1);
}

/// Rows and dead letters of one decoded batch.
pub fn decoded(topic: &str, rows: u64, dead: &[DeadLetter]) {
    metrics::counter!("headend_decoded_rows_total", "topic" => topic.to_owned()).increment(rows);
    for letter in dead {
        metrics::counter!("headend_dead_letters_total", "topic" => topic.to_owned(), "reason" => letter.kind.as_str()).increment(1);
    }
}

/// One request at the HTTP door.
pub fn door_answered(status: u16, events: u64) {
    metrics::counter!("headend_door_requests_total", "status" => status.to_string()).increment(1);
    metrics::counter!("headend_door_events_total").increment(events);
}
