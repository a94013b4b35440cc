//! The table of queries: the job, the view that answers, how answers are compared, and the model.

use super::{
    event::Event,
    model::{self, Model, Row},
};
use std::{collections::BTreeMap, fmt::Write};

/// Rows that a difference names; the others are counted.
const ROWS_NAMED: usize = 6;

/// What must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// All rows that the view tells, each as often as it is told, in any order.
    AllRows,
    /// The rows that stand at the end, one for each value of these columns; how the view came there is free.
    Standing(&'static [&'static str]),
}

/// A query.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    pub name: &'static str,
    /// The job, `queries/<name>.sql`.
    pub sql: &'static str,
    /// The view that is compared.
    pub view: &'static str,
    /// Sources and tables of the job.
    pub inputs: &'static [&'static str],
    pub compare: Compare,
    pub model: Model,
    /// Why the engine does not run it; none where it does.
    pub unsupported: Option<&'static str>,
}

impl Query {
    /// What `told` lacks and what it has too much, against the model; none where they are equal.
    ///
    /// `told` is every row that the view told or, with [`Compare::Standing`], those that stand at the end. Floats must be equal to the
    /// last bit: rows that are read from text need serde_json's `float_roundtrip`.
    pub fn difference(&self, events: &[Event<'_>], told: &[Row]) -> Option<String> {
        let expected = (self.model)(events);
        let mut balance: BTreeMap<String, i64> = BTreeMap::new();
        expected.iter().for_each(|row| *balance.entry(text(row)).or_default() += 1);
        told.iter().for_each(|row| *balance.entry(text(row)).or_default() -= 1);
        balance.retain(|_, n| *n != 0);
        if balance.is_empty() {
            return None;
        }
        let mut report = format!("`{}`: {} rows for {}, {} differ", self.name, told.len(), expected.len(), balance.len());
        for (row, n) in balance.iter().take(ROWS_NAMED) {
            let _ = write!(report, "\n{} {}: {row}", n.abs(), if *n > 0 { "missing" } else { "too many" });
        }
        Some(report)
    }
}

/// The columns by name, so that equal rows are equal texts.
fn text(row: &Row) -> String {
    let columns: Vec<String> = row.iter().map(|(name, value)| format!("{name}={value}")).collect();
    columns.join(" ")
}

macro_rules! query {
    ($name:ident, $inputs:expr, $compare:expr) => {
        query!($name, $inputs, $compare, None)
    };
    ($name:ident, $inputs:expr, $compare:expr, $unsupported:expr) => {
        Query {
            name: stringify!($name),
            sql: include_str!(concat!("queries/", stringify!($name), ".sql")),
            view: stringify!($name),
            inputs: &$inputs,
            compare: $compare,
            model: model::$name,
            unsupported: $unsupported,
        }
    };
}

use Compare::{AllRows, Standing};

/// All queries. Their sources have a watermark 4 seconds behind; the bounds of their joins hold from 200 events a second of event time on.
pub const QUERIES: &[Query] = &[
    query!(q0, ["bid"], AllRows),
    query!(q1, ["bid"], AllRows),
    query!(q2, ["bid"], AllRows),
    query!(q3, ["person", "auction"], AllRows),
    query!(q4, ["auction", "bid"], Standing(&["category"])),
    query!(q5, ["bid"], AllRows),
    query!(q6, ["auction", "bid"], Standing(&["seller"])),
    query!(q7, ["bid"], AllRows),
    query!(q8, ["person", "auction"], AllRows),
    query!(q9, ["auction", "bid"], Standing(&["id"])),
    query!(q10, ["bid"], AllRows),
    query!(q11, ["bid"], AllRows),
    query!(q12, ["bid"], AllRows),
    query!(q13, ["bid", "side_input"], AllRows),
    query!(q14, ["bid"], AllRows),
    query!(q15, ["bid"], Standing(&["day"])),
    query!(q16, ["bid"], Standing(&["channel", "day"])),
    query!(q17, ["bid"], Standing(&["auction", "day"])),
    query!(q18, ["bid"], Standing(&["bidder", "auction"])),
    query!(q19, ["bid"], Standing(&["auction", "rank_number"])),
    query!(q20, ["auction", "bid"], AllRows),
    query!(q21, ["bid"], AllRows),
    query!(q22, ["bid"], AllRows),
];
