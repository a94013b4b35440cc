//! Times as text. Event time is UTC microseconds since 1970 everywhere inside.

use chrono::{DateTime, SecondsFormat, Utc};

/// `us` as RFC 3339 in UTC, with as many digits of the second as it needs.
pub fn rfc3339(us: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(us).map_or_else(|| format!("{us}us"), |t| t.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// UTC microseconds of an RFC 3339 text.
pub fn parse_rfc3339(text: &str) -> Result<i64, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(|t| t.timestamp_micros())
}

/// 1980-01-01T00:00:00Z. An event before it comes from a clock that was never set.
pub const EVENT_TIME_MIN_US: i64 = 315_532_800_000_000;
/// An event further ahead of the time at which it is taken is absurd.
pub const EVENT_AHEAD_MAX_US: i64 = 86_400_000_000;
