//! Event time against the wall clock: `--speed 3600` makes an hour of events a second.

use std::time::{Duration, Instant};

/// Rows that are due within one step leave together.
pub(super) const STEP: Duration = Duration::from_millis(10);

pub(super) struct Pace {
    speed: f64,
    /// When the first row left, and its event time.
    first: Option<(Instant, i64)>,
}

impl Pace {
    pub(super) fn new(speed: f64) -> Self {
        Self { speed, first: None }
    }

    /// When a row of this event time is to leave. A row that is older than the first leaves at once.
    pub(super) fn due(&mut self, event_time_us: i64) -> Instant {
        let (start, first_us) = *self.first.get_or_insert_with(|| (Instant::now(), event_time_us));
        let seconds = event_time_us.saturating_sub(first_us).max(0) as f64 / 1e6 / self.speed;
        // A time too far for the clock is one that never comes.
        Duration::try_from_secs_f64(seconds).ok().and_then(|d| start.checked_add(d)).unwrap_or_else(|| start + Duration::from_secs(u32::MAX.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_events_at_speed_3600_is_a_second() {
        let mut pace = Pace::new(3600.0);
        let start = pace.due(1_000_000);
        assert_eq!(pace.due(1_000_000 + 3_600_000_000), start + Duration::from_secs(1));
        assert_eq!(pace.due(0), start);
    }
}
