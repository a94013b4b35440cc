//! Values of columns, their order, and how they are written in SQL and in JSON.

use serde_json::{Number, json};
use std::cmp::Ordering;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Integer,
    Double,
    /// `DECIMAL(p, s)`: the number of digits behind the point.
    Decimal(u32),
    Text,
    Boolean,
    Time,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Double(f64),
    /// Units of the last digit, and how many digits stand behind the point.
    Decimal(i128, u32),
    Text(String),
    Boolean(bool),
    /// UTC microseconds.
    Time(i64),
}

impl Type {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Integer => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Decimal(_) => "DECIMAL(12,2)",
            Self::Text => "TEXT",
            Self::Boolean => "BOOLEAN",
            Self::Time => "TIMESTAMPTZ",
        }
    }

    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Double | Self::Decimal(_))
    }
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// As a double, as a cast gives it.
    pub fn double(&self) -> f64 {
        match self {
            Self::Integer(i) => *i as f64,
            Self::Double(d) => *d,
            Self::Decimal(units, scale) => *units as f64 / 10f64.powi(*scale as i32),
            _ => f64::NAN,
        }
    }

    /// The order of two values of one type, or of two numbers; nulls stand last.
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Null, Self::Null) => Ordering::Equal,
            (Self::Null, _) => Ordering::Greater,
            (_, Self::Null) => Ordering::Less,
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            (Self::Time(a), Self::Time(b)) | (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Double(_), _) | (_, Self::Double(_)) => self.double().total_cmp(&other.double()),
            _ => {
                let scale = self.scale().max(other.scale());
                self.units(scale).cmp(&other.units(scale))
            }
        }
    }

    fn scale(&self) -> u32 {
        if let Self::Decimal(_, scale) = self { *scale } else { 0 }
    }

    /// A whole number or a decimal in units of `scale` digits behind the point.
    pub fn units(&self, scale: u32) -> i128 {
        match self {
            Self::Integer(i) => i128::from(*i) * 10i128.pow(scale),
            Self::Decimal(units, own) => units * 10i128.pow(scale.saturating_sub(*own)),
            _ => 0,
        }
    }

    /// A text that is the same for equal values only.
    pub fn key(&self) -> String {
        format!("{self:?}")
    }

    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Integer(i) => json!(i),
            Self::Double(d) => Number::from_f64(*d).map_or(serde_json::Value::Null, serde_json::Value::Number),
            Self::Decimal(_, 0) => json!(self.units(0) as i64),
            Self::Decimal(_, _) => json!(self.decimal_text().parse::<f64>().unwrap_or(f64::NAN)),
            Self::Text(text) => json!(text),
            Self::Boolean(b) => json!(b),
            Self::Time(us) => json!(rfc3339(*us)),
        }
    }

    pub fn sql(&self) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Integer(i) => i.to_string(),
            Self::Double(d) => format!("{d:?}"),
            Self::Decimal(_, _) => self.decimal_text(),
            Self::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Self::Boolean(b) => b.to_string().to_uppercase(),
            Self::Time(us) => format!("TIMESTAMP '{}'", rfc3339(*us)),
        }
    }

    pub fn decimal_text(&self) -> String {
        let Self::Decimal(units, scale) = self else { return String::new() };
        let digits = format!("{:0>1$}", units.unsigned_abs(), *scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - *scale as usize);
        format!("{}{whole}.{fraction}", if *units < 0 { "-" } else { "" })
    }
}

/// `2024-01-01T00:00:10Z`, with three or six digits of a fraction where there is one.
pub fn rfc3339(us: i64) -> String {
    let (days, in_day) = (us.div_euclid(DAY), us.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let (hour, minute, second, fraction) = (in_day / HOUR, in_day / MINUTE % 60, in_day / SECOND % 60, in_day % SECOND);
    let fraction = match fraction {
        0 => String::new(),
        f if f % 1_000 == 0 => format!(".{:03}", f / 1_000),
        f => format!(".{f:06}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a number of days since 1970. Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// A length of time as an interval's text: the greatest unit that divides it.
pub fn interval(us: i64) -> String {
    let (n, unit) = match us {
        us if us % HOUR == 0 && us != 0 => (us / HOUR, "hour"),
        us if us % MINUTE == 0 && us != 0 => (us / MINUTE, "minute"),
        us if us % SECOND == 0 => (us / SECOND, "second"),
        us => (us / 1_000, "millisecond"),
    };
    format!("{n} {unit}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_engine_writes_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_704_067_210_500_000), "2024-01-01T00:00:10.500Z");
        assert_eq!(rfc3339(1_709_251_199_000_001), "2024-02-29T23:59:59.000001Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn decimals_keep_their_sign_and_their_zeros() {
        assert_eq!(Value::Decimal(-5, 2).decimal_text(), "-0.05");
        assert_eq!(Value::Decimal(330, 2).json(), json!(3.3));
    }
}
