//! Durations as people write them: `250ms`, `10s`, `5m`.

use std::time::Duration;

/// `500ms`, `10s`, `5m`, `1h`, `2d`: a whole number and a unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    scaled(text, UNITS).map(Duration::from_millis).ok_or_else(|| "expected a time such as `500ms`, `10s` or `5m`".to_owned())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim()).map(|(_, f)| *f)?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_must_fit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2 h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "10", "s", "-1s", "1.5h", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
