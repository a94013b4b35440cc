//! Columns straight out of the scanned bytes, for sources of texts, integers, numbers, booleans and times.
//!
//! The scan has found each value and its kind already; to write it out once more for arrow-json costs more than the rest of decoding. A
//! run of records that all pass the scan becomes columns here. One that holds anything else (an escape, a time that is none, attributes
//! in headers) is decoded as ever, so nothing is judged here, and both ways give the same rows.

use super::scan::Span;
use arrow_array::{
    ArrayRef,
    builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder},
};
use arrow_schema::{DataType, Schema, TimeUnit};
use std::sync::Arc;

/// The columns of a run of records.
pub struct PlainColumns(Vec<Builder>);

enum Builder {
    Text(StringBuilder),
    Integer(Int64Builder),
    Number(Float64Builder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
}

/// Of a text, about; what is longer finds room.
const TEXT_BYTES: usize = 12;

impl Builder {
    fn new(data_type: &DataType, rows: usize) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(rows, rows * TEXT_BYTES)),
            DataType::Int64 => Self::Integer(Int64Builder::with_capacity(rows)),
            DataType::Float64 => Self::Number(Float64Builder::with_capacity(rows)),
            DataType::Boolean => Self::Bool(BooleanBuilder::with_capacity(rows)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Time(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(data_type.clone())),
            _ => return None,
        })
    }
}

impl PlainColumns {
    /// True where all columns are of types that can be made here.
    pub fn can_hold(schema: &Schema) -> bool {
        schema.fields().iter().all(|field| Builder::new(field.data_type(), 0).is_some())
    }

    /// Columns with room for so many rows.
    pub fn new(schema: &Schema, rows: usize) -> Self {
        Self(schema.fields().iter().filter_map(|field| Builder::new(field.data_type(), rows)).collect())
    }

    /// Appends a row of the values at `spans` of `record`, which [`super::scan::Scanner`] has found. None where a value is not what its kind
    /// looked like; the columns are then of unequal length, and good for [`PlainColumns::finish`] alone.
    pub fn append(&mut self, record: &str, spans: &[Span]) -> Option<()> {
        for (builder, span) in self.0.iter_mut().zip(spans) {
            let value = (!span.is_empty()).then(|| &record[span.clone()]);
            match builder {
                Builder::Text(column) => column.append_option(value.map(unquoted)),
                Builder::Integer(column) => column.append_option(readable(value, integer)?),
                Builder::Number(column) => column.append_option(readable(value, number)?),
                Builder::Bool(column) => column.append_option(value.map(|v| v == "true")),
                Builder::Time(column) => column.append_option(readable(value, |v| time_us(unquoted(v).as_bytes()))?),
            }
        }
        Some(())
    }

    /// The first `rows` of the columns.
    pub fn finish(self, rows: usize) -> Vec<ArrayRef> {
        let finish = |builder: Builder| -> ArrayRef {
            match builder {
                Builder::Text(mut column) => Arc::new(column.finish()),
                Builder::Integer(mut column) => Arc::new(column.finish()),
                Builder::Number(mut column) => Arc::new(column.finish()),
                Builder::Bool(mut column) => Arc::new(column.finish()),
                Builder::Time(mut column) => Arc::new(column.finish()),
            }
        };
        self.0.into_iter().map(|builder| finish(builder).slice(0, rows)).collect()
    }
}

/// `None` where there is a value that cannot be read.
fn readable<T>(value: Option<&str>, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| read(value).map(Some))
}

fn unquoted(text: &str) -> &str {
    &text[1..text.len() - 1]
}

/// At most 18 digits, so that it cannot be too large.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits.as_bytes()),
        None => (false, text.as_bytes()),
    };
    if digits.len() > 18 {
        return None;
    }
    let value = digits.iter().try_fold(0_i64, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))?;
    Some(if negative { -value } else { value })
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Microseconds of `2026-11-21T18:00:00[.fraction](Z|±hh:mm)`, what is finer cut off. A leap second is none of ours.
fn time_us(text: &[u8]) -> Option<i64> {
    let two = |at: usize| -> Option<i64> {
        let (tens, ones) = (*text.get(at)?, *text.get(at + 1)?);
        (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let (year, month, day) = (two(0)? * 100 + two(2)?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    let is_time = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !is_time {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let digits = text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        micros = (0..6).fold(0, |value, i| value * 10 + if i < digits { i64::from(text[at + i] - b'0') } else { 0 });
        at += digits;
    }
    let offset_minutes = match text.get(at)? {
        b'Z' if text.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if text.len() == at + 6 && text[at + 3] == b':' => {
            let (hours, minutes) = (two(at + 1)?, two(at + 4)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, by years that begin in March, so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_clock() {
        let mut seen = 0;
        for year in [1980, 1999, 2000, 2023, 2024, 2100, 9999] {
            for month in 1..=12 {
                for day in [1, 28, 29, 30, 31] {
                    for rest in ["T00:00:00Z", "T23:59:59.999999999Z", "T12:34:56.5+05:30", "T00:00:00.000001-23:59", "T07:08:09.123456Z"] {
                        let text = format!("{year:04}-{month:02}-{day:02}{rest}");
                        let by_clock = schemas::clock::parse_rfc3339(&text).ok();
                        assert_eq!(time_us(text.as_bytes()), by_clock, "{text}");
                        seen += usize::from(by_clock.is_some());
                    }
                }
            }
        }
        assert!(seen > 1_500);
        for none in [
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:60Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1:00",
        ] {
            assert_eq!(time_us(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn whole_numbers_are_read_to_eighteen_digits() {
        assert_eq!(integer("-0"), Some(0));
        assert_eq!(integer("-123456789012345678"), Some(-123_456_789_012_345_678));
        assert_eq!(integer("1234567890123456789"), None);
        assert_eq!(integer("1.0"), None);
    }
}
