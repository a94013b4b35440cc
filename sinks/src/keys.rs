//! Keys of rows: patterns with columns in braces, and columns as text.

use arrow_array::{Array, RecordBatch, cast::AsArray, types::TimestampMicrosecondType};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use schemas::clock;

/// `subscriber:{tenant}:{subscriber_id}`: text, and columns in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl KeyPattern {
    /// `None` when a brace is not closed or no column is named: all rows would then be one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (column, after) = after.split_once('}')?;
            if column.is_empty() || column.contains('{') {
                return None;
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Column(column.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let brace_left = parts.iter().any(|p| matches!(p, Part::Text(t) if t.contains('}')));
        (parts.len() > 1 && !brace_left).then_some(Self(parts))
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|p| match p {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The key of a row, whose columns of the pattern stand at `at`; `None` when one of them is null.
    pub(crate) fn fill(&self, columns: &[(String, Texts<'_>)], at: &[usize], row: usize) -> Option<String> {
        let mut values = at.iter().map(|&i| columns[i].1.text(row));
        let part = |part: &Part| match part {
            Part::Text(text) => Some(text.clone()),
            Part::Column(_) => values.next().flatten(),
        };
        self.0.iter().map(part).collect()
    }
}

/// The columns of a batch by name, as text.
pub(crate) fn columns_of(batch: &RecordBatch) -> Result<Vec<(String, Texts<'_>)>, ArrowError> {
    batch.schema().fields().iter().zip(batch.columns()).map(|(f, c)| Ok((f.name().clone(), Texts::of(c.as_ref())?))).collect()
}

/// One column as text. Times are RFC 3339 in UTC, as everywhere in Headend.
pub(crate) enum Texts<'a> {
    Times(&'a dyn Array),
    Other(&'a dyn Array, ArrayFormatter<'a>),
}

impl<'a> Texts<'a> {
    pub(crate) fn of(array: &'a dyn Array) -> Result<Self, ArrowError> {
        const OPTIONS: FormatOptions<'_> = FormatOptions::new().with_display_error(false);
        match array.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(Self::Times(array)),
            _ => Ok(Self::Other(array, ArrayFormatter::try_new(array, &OPTIONS)?)),
        }
    }

    pub(crate) fn text(&self, row: usize) -> Option<String> {
        match self {
            Self::Times(array) => array.is_valid(row).then(|| clock::rfc3339(array.as_primitive::<TimestampMicrosecondType>().value(row))),
            Self::Other(array, formatter) => array.is_valid(row).then(|| formatter.value(row).to_string()),
        }
    }
}
