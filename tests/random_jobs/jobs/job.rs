//! A job as data: sources with their rows, views, and which view is read at the end.

use super::{
    expression::Expression,
    value::{Type, Value},
};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub seed: u64,
    pub sources: Vec<Source>,
    /// In the order of the file; the last one is read.
    pub views: Vec<View>,
}

/// A stream of rows, or a table: the newest row per key.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub name: String,
    pub table: bool,
    /// How far the watermark stands behind the greatest time.
    pub bound_us: i64,
    /// `dedup`, by the column `event_id`.
    pub dedup_us: Option<i64>,
    pub columns: Vec<(String, Type)>,
    pub rows: Vec<SourceRow>,
}

/// The columns that are the key of each source.
pub const KEY: [&str; 2] = ["tenant", "sub"];
/// The column of a source's event time.
pub const TIME: &str = "t";

#[derive(Debug, Clone, PartialEq)]
pub struct SourceRow {
    pub fields: BTreeMap<String, Value>,
    /// A record without a value, which deletes its key from a table.
    pub tombstone: bool,
}

impl SourceRow {
    /// Only the generator makes rows, and it gives each a time.
    pub fn time(&self) -> i64 {
        if let Some(Value::Time(t)) = self.fields.get(TIME) { *t } else { 0 }
    }

    pub fn key(&self) -> String {
        let text = |column: &str| if let Some(Value::Text(t)) = self.fields.get(column) { t.as_str() } else { "" };
        KEY.map(text).join("|")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub name: String,
    pub body: Body,
    pub emit: Emit,
    pub place: Place,
}

/// Where a view is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A statement of its own.
    Statement,
    /// In a `WITH` of the view that reads it.
    With,
    /// As a subquery in the `FROM` of the view that reads it.
    Subquery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// Rows by themselves: no clause.
    Rows,
    OnWindowClose,
    Changes,
    ChangesEvery(i64),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Map(Map),
    Group(Group),
    Join(Join),
    Interval(IntervalJoin),
    Union(Union),
    Top(Top),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    pub input: String,
    pub items: Vec<(String, Expression)>,
    pub filter: Option<Expression>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub input: String,
    pub window: Option<Window>,
    pub filter: Option<Expression>,
    pub keys: Vec<String>,
    pub calls: Vec<Call>,
    /// Over the names of `calls`.
    pub having: Option<Expression>,
    /// `late = 'drop'` instead of `'side'`.
    pub drops_late: bool,
    pub allowed_lateness_us: Option<i64>,
    /// Written as `SELECT DISTINCT` of its keys.
    pub distinct: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub kind: WindowKind,
    /// The column of the time: that of a source, or `window_end` of a view.
    pub time: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    Tumble { size: i64, offset: i64 },
    Hop { slide: i64, size: i64, offset: i64 },
    Cumulate { step: i64, size: i64, offset: i64 },
    Session { gap: i64 },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    pub function: Function,
    pub distinct: bool,
    /// None: `count(*)`.
    pub argument: Option<Expression>,
    pub filter: Option<Expression>,
    /// `ORDER BY` of these columns inside; true: descending.
    pub order: Vec<(String, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Count,
    Sum,
    Min,
    Max,
    Avg,
    First,
    Last,
    Median,
    Stddev,
    StddevPop,
    BoolAnd,
    BoolOr,
    StringAgg,
}

impl Function {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Avg => "avg",
            Self::First => "first_value",
            Self::Last => "last_value",
            Self::Median => "median",
            Self::Stddev => "stddev",
            Self::StddevPop => "stddev_pop",
            Self::BoolAnd => "bool_and",
            Self::BoolOr => "bool_or",
            Self::StringAgg => "string_agg",
        }
    }

    /// Another order of the same rows may give another result.
    pub fn depends_on_order(self) -> bool {
        matches!(self, Self::First | Self::Last | Self::Stddev | Self::StddevPop | Self::StringAgg)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Full,
}

/// Tables, or views that close the same windows, joined by equal columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    pub left: String,
    pub right: String,
    pub kind: JoinKind,
    /// Columns of the left and of the right.
    pub on: Vec<(String, String)>,
    pub items: Vec<JoinItem>,
    pub filter: Option<Expression>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JoinItem {
    pub name: String,
    pub side: JoinSide,
    pub column: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinSide {
    Left,
    Right,
    /// The column of `USING`: that of the left, and of the right where the left has no row.
    Both,
}

/// Streams joined by equal columns and a bound on both times: `right.t BETWEEN left.t - before AND left.t + after`.
#[derive(Debug, Clone, PartialEq)]
pub struct IntervalJoin {
    pub left: String,
    pub right: String,
    pub kind: JoinKind,
    pub on: Vec<String>,
    pub before_us: i64,
    pub after_us: i64,
    pub items: Vec<JoinItem>,
}

/// The same columns of several inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Union {
    pub inputs: Vec<String>,
    pub columns: Vec<String>,
}

/// The first `n` rows of each part by an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    pub input: String,
    pub partition: Vec<String>,
    /// True: descending.
    pub order: Vec<(String, bool)>,
    pub n: i64,
    /// Columns that are selected beside `rn`; those of `partition` are among them.
    pub columns: Vec<String>,
}

/// The records of a source in log order.
pub struct Stream {
    pub source: String,
    pub records: Vec<Record>,
}

pub struct Record {
    pub key: Option<String>,
    /// JSON.
    pub value: Option<String>,
}

/// What must come out.
#[derive(Debug)]
pub struct Expected {
    pub view: String,
    pub compare: Compare,
    pub rows: Vec<BTreeMap<String, serde_json::Value>>,
    /// Rows that were late, in all views together.
    pub late: Option<u64>,
    pub duplicate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// All rows, in any order.
    Rows,
    /// The rows that stand at the end, by key.
    Standing { key: Vec<String> },
}

impl Job {
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|s| s.name == name)
    }

    pub fn view(&self, name: &str) -> Option<&View> {
        self.views.iter().find(|v| v.name == name)
    }

    pub fn output(&self) -> &str {
        self.views.last().map_or("", |v| v.name.as_str())
    }

    pub fn streams(&self) -> Vec<Stream> {
        self.sources.iter().map(|s| Stream { source: s.name.clone(), records: s.rows.iter().map(|row| record(s, row)).collect() }).collect()
    }
}

fn record(source: &Source, row: &SourceRow) -> Record {
    let fields: serde_json::Map<_, _> = source.columns.iter().map(|(name, _)| (name.clone(), written(&row.fields[name]))).collect();
    Record { key: Some(row.key()), value: (!row.tombstone).then(|| serde_json::Value::Object(fields).to_string()) }
}

/// Decimals as text, as exact as they are.
fn written(value: &Value) -> serde_json::Value {
    match value {
        Value::Decimal(..) => serde_json::Value::String(value.decimal_text()),
        other => other.json(),
    }
}

impl Body {
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Self::Map(map) => vec![&map.input],
            Self::Group(group) => vec![&group.input],
            Self::Join(join) => vec![&join.left, &join.right],
            Self::Interval(join) => vec![&join.left, &join.right],
            Self::Union(union) => union.inputs.iter().map(String::as_str).collect(),
            Self::Top(top) => vec![&top.input],
        }
    }
}
