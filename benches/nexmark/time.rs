//! Times as text, without a library: the generator writes millions of them a second.

const DAY_US: i64 = 86_400_000_000;

/// Appends `us` (UTC microseconds since 1970, year 0 to 9999) as RFC 3339, always with six digits of the second.
pub fn push_micros(out: &mut String, us: i64) {
    let (year, month, day) = civil(us.div_euclid(DAY_US));
    let in_day = us.rem_euclid(DAY_US) as u64;
    let second = in_day / 1_000_000;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    for (at, width, n) in
        [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, second / 3600), (14, 2, second / 60 % 60), (17, 2, second % 60), (20, 6, in_day % 1_000_000)]
    {
        digits(&mut text[at..at + width], n);
    }
    out.push_str(std::str::from_utf8(&text).unwrap_or_default());
}

/// `us` as RFC 3339 with as many digits of the second as it needs, in threes: the form in which the engine tells a time.
pub fn rfc3339(us: i64) -> String {
    let mut text = String::with_capacity(27);
    push_micros(&mut text, us);
    let kept = match us.rem_euclid(1_000_000) {
        0 => 19,
        micros if micros % 1_000 == 0 => 23,
        _ => 26,
    };
    text.truncate(kept);
    text + "Z"
}

/// The date of `us`, as `2024-01-31`.
pub fn date(us: i64) -> String {
    rfc3339(us)[..10].to_owned()
}

/// The hour and minute of `us`, as `23:59`.
pub fn hour_minute(us: i64) -> String {
    rfc3339(us)[11..16].to_owned()
}

/// The hour of `us`, 0 to 23.
pub fn hour(us: i64) -> i64 {
    us.rem_euclid(DAY_US) / 3_600_000_000
}

/// Appends `n` in decimal.
pub fn push_number(out: &mut String, n: u64) {
    let mut text = [0; 20];
    let width = n.checked_ilog10().map_or(1, |log| log as usize + 1);
    digits(&mut text[..width], n);
    out.push_str(std::str::from_utf8(&text[..width]).unwrap_or_default());
}

/// The last digits of `n`, as many as there is room for.
fn digits(text: &mut [u8], mut n: u64) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// Year, month and day of a number of days since 1970. The year begins in March here, so that the leap day is its last.
fn civil(days: i64) -> (u64, u64, u64) {
    let from_zero = days + 719_468;
    let era = from_zero.div_euclid(146_097);
    let day_of_era = from_zero.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u64, month as u64, day as u64)
}

#[cfg(test)]
#[allow(unused_imports, reason = "a bench without the test harness drops the tests and keeps their module")]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_with_the_digits_that_it_needs() {
        let leap_day = 1_709_164_799_000_000;
        assert_eq!(rfc3339(leap_day), "2024-02-28T23:59:59Z");
        assert_eq!(rfc3339(leap_day + 1_000_000), "2024-02-29T00:00:00Z");
        assert_eq!(rfc3339(leap_day + 5_000), "2024-02-28T23:59:59.005Z");
        assert_eq!(rfc3339(leap_day + 5_001), "2024-02-28T23:59:59.005001Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999Z");
        let mut text = String::new();
        push_micros(&mut text, leap_day);
        assert_eq!(text, "2024-02-28T23:59:59.000000Z");
    }

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 1_000, u64::MAX] {
            let mut text = String::new();
            push_number(&mut text, n);
            assert_eq!(text, n.to_string());
        }
    }
}
