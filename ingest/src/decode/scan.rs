//! One pass over a JSON object that decides whether it may go to Arrow as it stands.
//!
//! arrow-json is lenient where an operator must not be: it takes `"12"` and `12.7` for a BIGINT, a number for a time, and
//! objects without commas. So every record is scanned first. A flat object whose fields have the declared kinds passes with
//! the spans of its columns; anything else (an escape, a nested value, a wrong kind, bad syntax) is not judged here but left
//! to the exact and slower check in `exact`. A false alarm costs a microsecond and changes nothing.

use arrow_schema::DataType;

/// A column of the source as its JSON field.
pub struct Column {
    pub name: String,
    /// `"name":`, as it is written in front of the value.
    pub prefix: Vec<u8>,
    pub wants: Wants,
}

/// What a column's type asks of the JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Integer {
        min: i64,
        max: i64,
    },
    Number,
    Text,
    Bool,
    Time,
    /// Left to arrow-json: decimals, dates, lists, structs.
    Other,
}

impl Wants {
    pub fn of(data_type: &DataType) -> Self {
        let integer = |min: i64, max: i64| Self::Integer { min, max };
        match data_type {
            DataType::Int64 => integer(i64::MIN, i64::MAX),
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
            DataType::Float64 | DataType::Float32 => Self::Number,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Boolean => Self::Bool,
            DataType::Timestamp(_, _) => Self::Time,
            _ => Self::Other,
        }
    }

    /// The words that a dead letter uses for what was expected.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Integer { min: i64::MIN, .. } => "an integer",
            Self::Integer { .. } => "an integer of the column's size",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Bool => "true or false",
            Self::Time => "an RFC 3339 time",
            Self::Other => "a value of the column's type",
        }
    }
}

/// Where a column's value stands in the scanned bytes; empty where the column is missing or null.
pub type Span = std::ops::Range<usize>;

/// Field names that a scanner remembers at most; the names of others are read letter by letter.
const NAMES_MAX: usize = 64;

/// Scans records of one source. It remembers which field name came after which: senders write theirs in one order, so a name mostly is known before
/// it is read, and then costs one comparison.
pub struct Scanner {
    columns: Vec<Column>,
    spans: Vec<Span>,
    names: Vec<Name>,
    /// By the place of a name in `names` and one more: the place of the name that came after it. The first is what came first.
    after: Vec<usize>,
}

struct Name {
    /// `"name":`, as it was written.
    text: Vec<u8>,
    column: Option<usize>,
}

impl Scanner {
    pub fn new(columns: Vec<Column>) -> Self {
        Self { spans: vec![0..0; columns.len()], columns, names: Vec::new(), after: vec![0] }
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Where the values of the columns stand in the record that was found to fit last.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The text of `bytes` when it is one flat JSON object that fits the columns; their values are then at [`Scanner::spans`].
    pub fn fits<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a str> {
        self.spans.fill(0..0);
        self.scan(bytes)?;
        std::str::from_utf8(bytes).ok()
    }

    fn scan(&mut self, bytes: &[u8]) -> Option<()> {
        let mut at = expect(bytes, 0, b'{')?;
        let mut last = 0;
        loop {
            at = blank(bytes, at);
            let column = match self.names.get(self.after[last]) {
                Some(name) if begins(&bytes[at..], &name.text) => {
                    last = self.after[last] + 1;
                    at += name.text.len();
                    name.column
                }
                _ => {
                    let column;
                    (at, column, last) = self.read_name(bytes, at, last)?;
                    column
                }
            };
            at = blank(bytes, at);
            let end = value_end(bytes, at, column.map(|column| self.columns[column].wants))?;
            if let Some(column) = column {
                self.spans[column] = if bytes[at] == b'n' { 0..0 } else { at..end };
            }
            at = blank(bytes, end);
            match bytes.get(at)? {
                b',' => at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        (blank(bytes, at + 1) == bytes.len()).then_some(())
    }

    /// A name that is another than the one that came after `last` before: where it ends behind its colon, its column, and its place for what
    /// comes next.
    fn read_name(&mut self, bytes: &[u8], from: usize, last: usize) -> Option<(usize, Option<usize>, usize)> {
        let start = expect(bytes, from, b'"')?;
        let end = text_end(bytes, start)?;
        let key = &bytes[start..end];
        let at = expect(bytes, end + 1, b':')?;
        if key == b"specversion" {
            return None;
        }
        let column = || self.columns.iter().position(|c| c.name.as_bytes() == key);
        let known = self.names.iter().position(|name| name.text[1..name.text.len() - 2] == *key);
        let place = known.or_else(|| {
            // With a blank in front of its colon it would not be met again.
            (self.names.len() < NAMES_MAX && at == end + 2).then(|| {
                self.names.push(Name { text: bytes[from..at].to_vec(), column: column() });
                self.after.push(0);
                self.names.len() - 1
            })
        });
        Some(match place {
            Some(place) => {
                self.after[last] = place;
                (at, self.names[place].column, place + 1)
            }
            None => (at, column(), 0),
        })
    }
}

/// True where `bytes` begin with `text`, by eights: for texts as short as names are, a call of `memcmp` costs more than they do.
#[inline]
fn begins(bytes: &[u8], text: &[u8]) -> bool {
    let Some(bytes) = bytes.get(..text.len()) else { return false };
    match (bytes.last_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(a), Some(b)) => a == b && bytes.as_chunks::<8>().0.iter().zip(text.as_chunks::<8>().0).all(|(a, b)| a == b),
        _ => bytes == text,
    }
}

/// Where the value at `at` ends, when it is a scalar of the wanted kind.
fn value_end(bytes: &[u8], at: usize, wants: Option<Wants>) -> Option<usize> {
    match *bytes.get(at)? {
        b'"' => {
            let end = text_end(bytes, at + 1)?;
            let fits = match wants {
                None | Some(Wants::Text | Wants::Other) => true,
                Some(Wants::Time) => looks_rfc3339(&bytes[at + 1..end]),
                Some(Wants::Integer { .. } | Wants::Number | Wants::Bool) => false,
            };
            fits.then_some(end + 1)
        }
        b'-' | b'0'..=b'9' => {
            let (end, integer) = number_end(bytes, at)?;
            let fits = match wants {
                None | Some(Wants::Number | Wants::Other) => true,
                Some(Wants::Integer { min: i64::MIN, .. }) => integer && end - at <= 18,
                Some(Wants::Integer { .. }) => integer && end - at <= 2,
                Some(Wants::Text | Wants::Bool | Wants::Time) => false,
            };
            fits.then_some(end)
        }
        b'n' => literal(bytes, at, b"null"),
        b't' if matches!(wants, None | Some(Wants::Bool)) => literal(bytes, at, b"true"),
        b'f' if matches!(wants, None | Some(Wants::Bool)) => literal(bytes, at, b"false"),
        _ => None,
    }
}

fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes[at..].starts_with(word).then_some(at + word.len())
}

/// The end of a JSON number, and whether it is written as an integer.
fn number_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let digits = |mut i: usize| {
        let first = i;
        while bytes.get(i).is_some_and(u8::is_ascii_digit) {
            i += 1;
        }
        (i > first).then_some(i)
    };
    let first = at + usize::from(bytes[at] == b'-');
    let mut end = digits(first)?;
    if bytes[first] == b'0' && end > first + 1 {
        return None;
    }
    let integer_end = end;
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(end + 1 + sign)?;
    }
    Some((end, end == integer_end))
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// The closing quote of a text that begins at `at` and has no escape.
fn text_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    // Eight bytes at a time while none of them is a quote, an escape or a control character.
    while let Some(eight) = bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map(u64::from_le_bytes) {
        let below = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
        let control = eight.wrapping_sub(ONES * 0x20) & !eight & (ONES << 7);
        // The lowest bit is right; those above it may be carried from it.
        let ends = below(eight ^ (ONES * u64::from(b'"'))) | below(eight ^ (ONES * u64::from(b'\\'))) | control;
        if ends != 0 {
            at += ends.trailing_zeros() as usize / 8;
            return (bytes[at] == b'"').then_some(at);
        }
        at += 8;
    }
    for (i, b) in bytes[at..].iter().enumerate() {
        match b {
            b'"' => return Some(at + i),
            b'\\' | 0..=0x1f => return None,
            _ => {}
        }
    }
    None
}

/// `2026-11-21T18:00:00[.…](Z|±hh:mm)`; whether it is a real time is for arrow to find.
fn looks_rfc3339(text: &[u8]) -> bool {
    let n = text.len();
    (20..=35).contains(&n)
        && (text[4], text[7], text[10], text[13], text[16]) == (b'-', b'-', b'T', b':', b':')
        && (text[n - 1] == b'Z' || (matches!(text[n - 6], b'+' | b'-') && text[n - 3] == b':'))
}

fn expect(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = blank(bytes, at);
    (bytes.get(at) == Some(&byte)).then_some(at + 1)
}

fn blank(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let all = [
            ("tenant", DataType::Utf8),
            ("n", DataType::Int64),
            ("x", DataType::Float64),
            ("t", DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, None)),
        ];
        all.map(|(name, t)| Column { name: name.into(), prefix: Vec::new(), wants: Wants::of(&t) }).into()
    }

    #[test]
    fn what_passes_is_json_with_the_declared_kinds() {
        let good =
            [r#"{"tenant":"a","n":1,"x":1.5e3,"t":"2026-11-21T18:00:00Z"}"#, r#" { "n" : -12 , "other" : true, "t" : null , "x":0 } "#, r#"{"other":[]}"#];
        let mut scanner = Scanner::new(columns());
        assert!(scanner.fits(good[0].as_bytes()).is_some());
        assert_eq!(&good[0][scanner.spans()[2].clone()], "1.5e3");
        assert!(scanner.fits(good[1].as_bytes()).is_some());
        assert_eq!((&good[1][scanner.spans()[1].clone()], &scanner.spans()[3], &scanner.spans()[0]), ("-12", &(0..0), &(0..0)));
        assert!(scanner.fits(good[2].as_bytes()).is_none(), "nested values are for the exact check");
    }

    #[test]
    fn what_serde_json_refuses_never_passes() {
        let seeds = [r#"{"tenant":"a","n":1,"x":-1.5e3,"t":"2026-11-21T18:00:00Z","u":null}"#, r#"{"n":0,"b":false}"#];
        let mut passed = 0;
        // One has seen the good record before, and knows its names.
        let mut scanner = Scanner::new(columns());
        for seed in seeds {
            assert!(scanner.fits(seed.as_bytes()).is_some());
            for at in 0..seed.len() {
                for byte in 0..=255_u8 {
                    let (mut replaced, mut inserted) = (seed.as_bytes().to_vec(), seed.as_bytes().to_vec());
                    replaced[at] = byte;
                    inserted.insert(at, byte);
                    let cut = seed.as_bytes()[..at].to_vec();
                    for bytes in [replaced, inserted, cut] {
                        let fits = Scanner::new(columns()).fits(&bytes).is_some();
                        assert_eq!(scanner.fits(&bytes).is_some(), fits, "{}", String::from_utf8_lossy(&bytes));
                        if fits {
                            passed += 1;
                            assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok(), "{}", String::from_utf8_lossy(&bytes));
                        }
                    }
                }
            }
        }
        assert!(passed > 1_000);
    }

    #[test]
    fn a_text_ends_at_its_quote_wherever_that_stands() {
        for length in 0..40 {
            for end in [b'"', b'\\', 0x1f, 0x0a, 0x00] {
                for filler in ["a", "\u{7f}", "é", " ", "\u{10ffff}"] {
                    let mut text = filler.repeat(length).into_bytes();
                    let at = text.len();
                    text.push(end);
                    text.extend_from_slice(b"\",\"next\":1");
                    assert_eq!(text_end(&text, 0), (end == b'"').then_some(at), "{length} {end} {filler:?}");
                }
            }
        }
        assert_eq!(text_end(b"never ends, not here", 0), None);
    }

    #[test]
    fn wrong_kinds_never_pass() {
        let bad = [
            r#"{"n":"1"}"#,
            r#"{"n":1.0}"#,
            r#"{"n":1e3}"#,
            r#"{"x":"1"}"#,
            r#"{"t":5}"#,
            r#"{"t":"2026-11-21"}"#,
            r#"{"t":"2026-11-21 18:00:00"}"#,
            r#"{"tenant":1}"#,
            r#"{"n":true}"#,
            r#"{"n":9223372036854775808}"#,
        ];
        let mut scanner = Scanner::new(columns());
        assert!(scanner.fits(br#"{"tenant":"a","n":1,"x":1,"t":null}"#).is_some());
        for text in bad {
            assert!(scanner.fits(text.as_bytes()).is_none(), "{text}");
            assert!(Scanner::new(columns()).fits(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn names_that_are_remembered_change_nothing() {
        let names = ["tenant", "n", "x", "t", "other", "n ", "tenan", "tenantt", "", "specversion"];
        let mut scanner = Scanner::new(columns());
        let mut random = 1_u64;
        let mut draw = |n: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % n
        };
        for _ in 0..20_000 {
            let fields: Vec<String> = (0..1 + draw(6))
                .map(|_| format!("\"{}\"{}{}", names[draw(names.len())], [":", ":", ":", " :", ": "][draw(5)], ["1", "null", "\"a\""][draw(3)]))
                .collect();
            let text = format!("{{{}}}", fields.join([",", ",", " , "][draw(3)]));
            let mut fresh = Scanner::new(columns());
            assert_eq!(scanner.fits(text.as_bytes()), fresh.fits(text.as_bytes()), "{text}");
            assert_eq!(scanner.spans(), fresh.spans(), "{text}");
        }
    }

    #[test]
    fn more_names_than_are_remembered_are_read_all_the_same() {
        let mut scanner = Scanner::new(columns());
        for i in 0..3 * NAMES_MAX {
            let text = format!("{{\"f{i}\":1,\"n\":7}}");
            assert!(scanner.fits(text.as_bytes()).is_some());
            assert_eq!(&text[scanner.spans()[1].clone()], "7");
        }
        assert_eq!(scanner.names.len(), NAMES_MAX);
    }
}
