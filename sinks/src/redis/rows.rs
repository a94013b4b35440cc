//! Rows as Redis hashes: which key a row has, and its columns as text.

use crate::SinkError;
use arrow_array::{Array, RecordBatch, cast::AsArray, types::TimestampMicrosecondType};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use schemas::{OP_COLUMN, clock, op};
use std::collections::BTreeMap;

/// `subscriber:{tenant}:{subscriber_id}`: text, and columns in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl KeyPattern {
    /// `None` when a brace is not closed or no column is named: all rows would then be one.
    pub(super) fn parse(text: &str) -> Option<Self> {
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

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|p| match p {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }
}

/// What is to stand under one key when the batch is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set { values: Vec<(String, String)>, nulls: Vec<String> },
    Delete,
}

/// The newest change of every key; what a later row of the same key replaced is never sent.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) by_key: BTreeMap<String, Change>,
    pub(super) rows: usize,
    /// Rows with a null in a column of the key.
    pub(super) keyless: usize,
}

/// How the rows of one view become changes.
pub(super) struct RowShape<'a> {
    pub(super) sink: &'a str,
    pub(super) view: &'a str,
    pub(super) key: &'a KeyPattern,
    /// Columns to write; `None`: all.
    pub(super) fields: Option<&'a [String]>,
}

impl RowShape<'_> {
    pub(super) fn collect(&self, batch: &RecordBatch, changes: &mut Changes) -> Result<(), SinkError> {
        let encode = |e: ArrowError| SinkError::Encode { sink: self.sink.to_owned(), view: self.view.to_owned(), reason: e.to_string() };
        let columns = batch
            .schema()
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(f, c)| Ok((f.name().clone(), Texts::of(c.as_ref())?)))
            .collect::<Result<Vec<_>, ArrowError>>()
            .map_err(encode)?;
        let find = |name: &str, option| match columns.iter().position(|(n, _)| n == name) {
            Some(i) => Ok(i),
            None => Err(SinkError::NoColumn { sink: self.sink.to_owned(), view: self.view.to_owned(), column: name.to_owned(), option }),
        };
        let key: Vec<usize> = self.key.columns().map(|c| find(c, "key")).collect::<Result<_, _>>()?;
        let fields: Vec<usize> = match self.fields {
            Some(names) => names.iter().map(|n| find(n, "fields")).collect::<Result<_, _>>()?,
            None => (0..columns.len()).filter(|&i| columns[i].0 != OP_COLUMN).collect(),
        };
        let op = columns.iter().position(|(n, _)| n == OP_COLUMN);
        for row in 0..batch.num_rows() {
            changes.rows += 1;
            let Some(key) = self.key_of(&columns, &key, row) else {
                changes.keyless += 1;
                continue;
            };
            let op = op.and_then(|i| columns[i].1.text(row));
            changes.by_key.insert(key, change_of(&columns, &fields, op.as_deref(), row));
        }
        Ok(())
    }

    fn key_of(&self, columns: &[(String, Texts<'_>)], key: &[usize], row: usize) -> Option<String> {
        let mut values = key.iter().map(|&i| columns[i].1.text(row));
        self.key
            .0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.clone()),
                Part::Column(_) => values.next().flatten(),
            })
            .collect()
    }
}

/// A row before a change is a deletion until the row after it comes: when both have the same key, only the latter is
/// left; when the key itself changed, the old one goes.
fn change_of(columns: &[(String, Texts<'_>)], fields: &[usize], op: Option<&str>, row: usize) -> Change {
    if matches!(op, Some(op::DELETE | op::UPDATE_BEFORE)) {
        return Change::Delete;
    }
    let (mut values, mut nulls) = (Vec::with_capacity(fields.len()), Vec::new());
    for (name, texts) in fields.iter().map(|&i| &columns[i]) {
        match texts.text(row) {
            Some(text) => values.push((name.clone(), text)),
            None => nulls.push(name.clone()),
        }
    }
    Change::Set { values, nulls }
}

/// One column as text. Times are RFC 3339 in UTC, as everywhere in Headend.
enum Texts<'a> {
    Times(&'a dyn Array),
    Other(&'a dyn Array, ArrayFormatter<'a>),
}

impl<'a> Texts<'a> {
    fn of(array: &'a dyn Array) -> Result<Self, ArrowError> {
        const OPTIONS: FormatOptions<'_> = FormatOptions::new().with_display_error(false);
        match array.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(Self::Times(array)),
            _ => Ok(Self::Other(array, ArrayFormatter::try_new(array, &OPTIONS)?)),
        }
    }

    fn text(&self, row: usize) -> Option<String> {
        match self {
            Self::Times(array) => array.is_valid(row).then(|| clock::rfc3339(array.as_primitive::<TimestampMicrosecondType>().value(row))),
            Self::Other(array, formatter) => array.is_valid(row).then(|| formatter.value(row).to_string()),
        }
    }
}
