//! Rows as Redis hashes: which key a row has, and its columns as text.

use crate::{
    SinkError,
    keys::{KeyPattern, Texts, columns_of},
};
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use schemas::{OP_COLUMN, op};
use std::collections::BTreeMap;

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
        let columns = columns_of(batch).map_err(encode)?;
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
            let Some(key) = self.key.fill(&columns, &key, row) else {
                changes.keyless += 1;
                continue;
            };
            let op = op.and_then(|i| columns[i].1.text(row));
            changes.by_key.insert(key, change_of(&columns, &fields, op.as_deref(), row));
        }
        Ok(())
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
