//! Lengths of time as users write them: `10m`, `5 seconds`, `1 hour 30 minutes`, `INTERVAL '1' DAY`.

/// Microseconds of a text like `10m`, `500 ms`, `1 hour 30 minutes`; `None` when it is none, negative or over 1,000 years.
/// Months and years are refused: they have no length of their own.
pub fn parse_duration_us(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut total = 0i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let after = after.trim_start();
        let unit_end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        total = total.checked_add(part_us(number, unit)?)?;
        rest = after.trim_start();
    }
    const MAX_US: i128 = 1_000 * 366 * 86_400 * 1_000_000;
    (total <= MAX_US).then_some(total as i64)
}

fn part_us(number: &str, unit: &str) -> Option<i128> {
    let unit_us: i128 = match unit.to_ascii_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => 1,
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" => 3_600_000_000,
        "d" | "day" | "days" => 86_400_000_000,
        "w" | "week" | "weeks" => 604_800_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().ok()? };
    // Six digits are more than a microsecond of any unit that is worth a fraction.
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let fraction: i128 = digits.parse().ok()?;
    whole.checked_mul(unit_us)?.checked_add(fraction * unit_us / 1_000_000)
}

/// `90s` as `1 minute 30 seconds` for people.
pub(super) fn display_us(us: i64) -> String {
    const UNITS: [(i64, &str); 6] =
        [(86_400_000_000, "day"), (3_600_000_000, "hour"), (60_000_000, "minute"), (1_000_000, "second"), (1_000, "millisecond"), (1, "microsecond")];
    let mut rest = us;
    let mut parts = Vec::new();
    for (unit_us, name) in UNITS {
        let count = rest / unit_us;
        rest %= unit_us;
        if count != 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        }
    }
    if parts.is_empty() { "0 seconds".into() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::{display_us, parse_duration_us};

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, us) in [
            ("10m", 600_000_000),
            ("0s", 0),
            ("500ms", 500_000),
            ("5 seconds", 5_000_000),
            ("1 hour 30 minutes", 5_400_000_000),
            ("1h30m", 5_400_000_000),
            ("1.5 days", 129_600_000_000),
            ("400 days", 34_560_000_000_000),
        ] {
            assert_eq!(parse_duration_us(text), Some(us), "{text}");
        }
        for text in ["", "5", "minutes", "-5s", "1 month", "1 s 2", "99999999999999999999 days", "9999999 weeks"] {
            assert_eq!(parse_duration_us(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_in_words() {
        assert_eq!(display_us(5_400_000_000), "1 hour 30 minutes");
        assert_eq!(display_us(0), "0 seconds");
    }
}
