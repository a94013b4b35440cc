//! One CSV record (RFC 4180): where its values end, and whether a quote is still open.
//!
//! A quote counts only where a value begins; behind a closing quote the text goes on as it stands. That is how the widely used
//! readers take it. Records are found line by line here and not by a reader over the whole file: a lost quote costs its own
//! line and not the rest of the file.

/// The values of one record.
#[derive(Debug, Default)]
pub struct Fields {
    text: String,
    ends: Vec<usize>,
}

impl Fields {
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.ends.iter().scan(0, |start, end| {
            let value = &self.text[*start..*end];
            *start = *end;
            Some(value)
        })
    }

    /// Splits `record`; false when a quote is open at its end.
    pub fn split(&mut self, record: &str) -> bool {
        self.text.clear();
        self.ends.clear();
        let mut rest = record;
        loop {
            let closed = match rest.strip_prefix('"') {
                None => self.plain(&mut rest),
                Some(quoted) => {
                    rest = quoted;
                    self.quoted(&mut rest) && self.plain(&mut rest)
                }
            };
            self.ends.push(self.text.len());
            match rest.strip_prefix(',') {
                Some(next) if closed => rest = next,
                _ => return closed,
            }
        }
    }

    /// Takes what stands before the next comma.
    fn plain(&mut self, rest: &mut &str) -> bool {
        let (value, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
        self.text.push_str(value);
        *rest = behind;
        true
    }

    /// Takes what stands before the closing quote; false when there is none.
    fn quoted(&mut self, rest: &mut &str) -> bool {
        while let Some(quote) = rest.find('"') {
            self.text.push_str(&rest[..quote]);
            *rest = &rest[quote + 1..];
            match rest.strip_prefix('"') {
                Some(behind) => {
                    self.text.push('"');
                    *rest = behind;
                }
                None => return true,
            }
        }
        self.text.push_str(rest);
        *rest = "";
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_split_as_the_csv_crate_splits_them() {
        let records =
            ["a,b,c", ",,", "a", "\"a,b\",c", "\"a\"\"b\",\"\"", "5\" nail,x", "\"two\nlines\",y", "\"a\"tail,b", "ü,\"é,\"", "\"\"\"\",1", " \"a\" ,b"];
        let mut fields = Fields::default();
        for record in records {
            let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(record.as_bytes());
            let expected = reader.records().next().unwrap().unwrap();
            assert!(fields.split(record), "{record}");
            assert_eq!(fields.iter().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>(), "{record}");
        }
    }

    #[test]
    fn an_open_quote_is_told() {
        let mut fields = Fields::default();
        for record in ["\"", "a,\"b", "\"a\"\"", "\"a,b"] {
            assert!(!fields.split(record), "{record}");
        }
    }
}
