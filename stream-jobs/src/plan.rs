//! A planned job: what the SQL file says, typed, with every expression compiled.
//!
//! `sql` makes these values out of a file; `task` runs them. Views refer only to sources and to views before them, so a
//! pass in order is a pass in dependency order.

use crate::{state::bag::Order, windows::Windows};
use arrow_schema::{DataType, SchemaRef, SortOptions};
use datafusion::physical_expr::{PhysicalExpr, aggregate::AggregateFunctionExpr};
use std::{collections::BTreeMap, sync::Arc};

pub type Expr = Arc<dyn PhysicalExpr>;

#[derive(Debug)]
pub struct Job {
    /// From the file's name: `retail.sql` is `retail`.
    pub name: String,
    /// Hex hash of the SQL text; part of every epoch's versions.
    pub sql_hash: String,
    pub sources: Vec<SourceSpec>,
    pub views: Vec<ViewSpec>,
    pub sinks: Vec<SinkSpec>,
    pub alerts: Vec<AlertSpec>,
}

/// `CREATE SOURCE` or, over a compacted topic, `CREATE TABLE`.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    pub name: String,
    pub topic: String,
    /// The declared columns. `TIMESTAMPTZ` is `Timestamp(Microsecond, "UTC")`, `TEXT` is `Utf8`.
    pub schema: SchemaRef,
    /// Indices of the key columns; the record key is their texts joined by `|`.
    pub key: Vec<usize>,
    /// Index of the event-time column (`WATERMARK FOR`); `None` only for a table without one.
    pub time_column: Option<usize>,
    /// The watermark's bound in microseconds.
    pub bound_us: i64,
    /// True for `CREATE TABLE`: newest row per key, tombstones delete.
    pub table: bool,
    /// Nothing may ever come in: silent and caught up, it goes by the other sources from the start.
    pub may_be_empty: bool,
    /// Tables with `broadcast = true` are read whole by every task.
    pub broadcast: bool,
    pub trust_partition: bool,
    /// `dedup = '10m'`: column index of `event_id` and the horizon in microseconds.
    pub dedup: Option<(usize, i64)>,
    pub max_skew_us: i64,
    pub idle_timeout_ms: i64,
}

/// Where rows come from: index into [`Job::sources`] or [`Job::views`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Source(usize),
    View(usize),
}

/// Straight work over a batch: the rows of one step are the input of the next.
#[derive(Debug, Clone)]
pub enum Step {
    Filter(Expr),
    /// Output columns in order, with the schema of the result.
    Project {
        exprs: Vec<Expr>,
        schema: SchemaRef,
    },
    /// Appends one column per function: functions with a state per key (`prev`, `robust_z`, `percent_rank`). `key`: the columns
    /// of the step's input that make the key of the history (window columns apart).
    Keyed {
        functions: Vec<KeyedCall>,
        key: Vec<usize>,
        schema: SchemaRef,
    },
}

#[derive(Debug, Clone)]
pub struct KeyedCall {
    pub function: KeyedFunction,
    /// The value whose history the function keeps, evaluated on the step's input.
    pub arg: Expr,
    /// Type of the result column.
    pub data_type: DataType,
}

/// A function that looks at the earlier rows of the same key, in log order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyedFunction {
    /// The value in the key's row before this one; null in its first.
    Prev,
    /// Robust z-score (Iglewicz and Hoaglin 1993): 0.6745 (x − median) / MAD of the key's `size` rows before this one; null with fewer
    /// than 8 of them or a MAD of zero.
    RobustZ { size: usize },
    /// Empirical quantile: share of the key's `size` rows before this one that are ≤ x; null in its first row.
    PercentRank { size: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    OnWindowClose,
    Changes,
    ChangesEvery { interval_us: i64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatePolicy {
    Side,
    Drop,
}

#[derive(Debug, Clone)]
pub struct ViewSpec {
    pub name: String,
    pub body: Body,
    pub emit: Emit,
    pub late: LatePolicy,
    pub allowed_lateness_us: i64,
    /// The columns that a user sees, in order.
    pub schema: SchemaRef,
    /// Indices of the output columns that make a row's key (group columns, window columns included; join columns; for a map
    /// the key of its input, where it is projected). Empty: rows without a key.
    pub key: Vec<usize>,
    /// Output column whose value is the row's time for later windows; windowed views: their `window_end` (the time is
    /// `window_end` − 1 µs), when projected.
    pub time_column: Option<usize>,
    /// The key of the task that holds a row, as output columns: all rows with equal values stand in one task.
    pub partition_key: Vec<usize>,
    /// 1: in the task of its source's partition. A view grouped by another key stands one level above its input and reads its
    /// input's epoch topic.
    pub level: u8,
    /// True when an expression calls `now()`.
    pub uses_now: bool,
    /// The view's own SQL, for `explain`.
    pub sql: String,
    /// False for views that the planner made itself (partial aggregates, named `X$partial`).
    pub visible: bool,
}

#[derive(Debug, Clone)]
pub enum Body {
    Map {
        input: Relation,
        steps: Vec<Step>,
        /// Over a table's topic: its rows as they come, and not what they make of the table in an epoch.
        as_they_come: bool,
    },
    Aggregate(Aggregate),
    Join(Join),
    PairJoin(PairJoin),
    IntervalJoin(IntervalJoin),
    AsOfJoin(AsOfJoin),
    Union(Vec<UnionInput>),
    Rank(Rank),
    /// A rule's alerts before anything of another rule or of people is known.
    Candidates {
        input: Relation,
        /// Index into [`Job::alerts`].
        alert: usize,
        /// They are told at once; else [`Body::Alerts`] tells them.
        tells: bool,
    },
    Alerts(Alerts),
}

impl Body {
    /// What the view reads, in the order in which its operator takes it.
    pub fn inputs(&self) -> Vec<Relation> {
        match self {
            Self::Map { input, .. } | Self::Candidates { input, .. } => vec![*input],
            Self::Aggregate(aggregate) => vec![aggregate.input],
            Self::Join(join) => join.sides.iter().map(|side| side.input).collect(),
            Self::PairJoin(join) => vec![join.left.input, join.right.input],
            Self::IntervalJoin(join) => vec![join.left.input, join.right.input],
            Self::AsOfJoin(join) => vec![join.stream.input, join.table.input],
            Self::Union(inputs) => inputs.iter().map(|input| input.input).collect(),
            Self::Rank(rank) => vec![rank.input],
            Self::Alerts(alerts) => alerts.commands.into_iter().chain(alerts.incidents.iter().copied()).chain([alerts.candidates]).collect(),
        }
    }
}

impl Body {
    /// [`Body::inputs`], to be renamed.
    pub fn inputs_mut(&mut self) -> Vec<&mut Relation> {
        match self {
            Self::Map { input, .. } | Self::Candidates { input, .. } => vec![input],
            Self::Aggregate(aggregate) => vec![&mut aggregate.input],
            Self::Join(join) => join.sides.iter_mut().map(|side| &mut side.input).collect(),
            Self::PairJoin(join) => vec![&mut join.left.input, &mut join.right.input],
            Self::IntervalJoin(join) => vec![&mut join.left.input, &mut join.right.input],
            Self::AsOfJoin(join) => vec![&mut join.stream.input, &mut join.table.input],
            Self::Union(inputs) => inputs.iter_mut().map(|input| &mut input.input).collect(),
            Self::Rank(rank) => vec![&mut rank.input],
            Self::Alerts(alerts) => alerts.commands.iter_mut().chain(&mut alerts.incidents).chain([&mut alerts.candidates]).collect(),
        }
    }
}

/// The alert task of a rule: its alerts, after what people say of them and what other alerts explain.
#[derive(Debug, Clone)]
pub struct Alerts {
    pub alert: usize,
    pub candidates: Relation,
    /// Candidates of the rules that inhibit it, in the order of [`AlertSpec::inhibited_by`].
    pub incidents: Vec<Relation>,
    /// Rows that acknowledge and silence.
    pub commands: Option<Relation>,
    /// Everything is taken in the order of event time, so that the cut does not show; else as it comes.
    pub in_order: bool,
}

/// One of two sides of a join.
#[derive(Debug, Clone)]
pub struct Side {
    pub input: Relation,
    pub pre: Vec<Step>,
    /// The side's columns after `pre`.
    pub schema: SchemaRef,
    /// The columns that are compared with the other side's, in one order for both.
    pub on: Vec<usize>,
    /// The columns by which a row of a table is known.
    pub key: Vec<usize>,
    /// Rows come from other tasks: those whose compared columns belong to the task are taken.
    pub routed: bool,
}

/// Tables joined by any columns.
#[derive(Debug, Clone)]
pub struct PairJoin {
    pub left: Side,
    pub right: Side,
    pub kind: JoinKind,
    /// The columns of both sides: the input of `post`.
    pub schema: SchemaRef,
    pub post: Vec<Step>,
}

/// Streams joined by columns and time.
#[derive(Debug, Clone)]
pub struct IntervalJoin {
    pub left: Side,
    pub right: Side,
    /// Inner or left.
    pub kind: JoinKind,
    /// The right row's time minus the left's lies within these, both included; in microseconds.
    pub lower_us: i64,
    pub upper_us: i64,
    /// The rest of the condition, over the columns of both sides.
    pub filter: Option<Expr>,
    /// The time of a joined row is that of its right row, and not of its left.
    pub time_of_right: bool,
    pub schema: SchemaRef,
    pub post: Vec<Step>,
}

/// A stream joined with a table as of the stream's time.
#[derive(Debug, Clone)]
pub struct AsOfJoin {
    pub stream: Side,
    pub table: Side,
    /// Inner or left.
    pub kind: JoinKind,
    /// The table's rows have times; else the newest counts, whenever it came.
    pub timed: bool,
    pub schema: SchemaRef,
    pub post: Vec<Step>,
}

/// `UNION ALL`: rows of one input after its steps, which give the columns of the view.
#[derive(Debug, Clone)]
pub struct UnionInput {
    pub input: Relation,
    pub steps: Vec<Step>,
}

/// `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= limit`.
#[derive(Debug, Clone)]
pub struct Rank {
    pub input: Relation,
    pub pre: Vec<Step>,
    /// Over the rows after `pre`.
    pub partition: Vec<Expr>,
    pub order: Vec<(Expr, SortOptions)>,
    pub limit: usize,
    /// The row number shows in the view, or there is one row a partition: a row that changes its place is an update of that place.
    pub by_place: bool,
    /// The rows below were told at the ticks at which these are told.
    pub told_at_ticks: bool,
    /// Columns after `pre`, then the row number: the input of `post`.
    pub schema: SchemaRef,
    pub post: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Rows in, results out.
    Single,
    /// Level 1 of an aggregate over another key: rows in, states of panes out (group columns, window columns, state columns).
    Partial,
    /// Its level 2: states in, results out.
    Final,
}

#[derive(Debug, Clone)]
pub struct Aggregate {
    pub input: Relation,
    pub pre: Vec<Step>,
    pub phase: Phase,
    pub window: Option<WindowSpec>,
    pub group: Vec<GroupColumn>,
    pub aggregates: Vec<AggregateCall>,
    /// Group columns then aggregates: the input of `post`.
    pub schema: SchemaRef,
    pub post: Vec<Step>,
    /// The group (window columns apart) is exactly the source's key: keys are interned by the record's key bytes.
    pub by_record_key: bool,
    /// [`Phase::Partial`]: the windows above, of which its own are the panes.
    pub pane_of: Option<Windows>,
    /// The last column of `schema` counts how often the row of a closed window was put right (`allowed_lateness`).
    pub revisions: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// Column of the rows after `pre` (or of the input, which `pre` keeps) whose value is the row's time.
    pub time_column: usize,
    /// True when the time column is the `window_end` of a view: the time is 1 µs before it.
    pub time_is_window_end: bool,
    pub windows: Windows,
}

#[derive(Debug, Clone)]
pub enum GroupColumn {
    Expr(Expr),
    WindowStart,
    WindowEnd,
}

#[derive(Debug, Clone)]
pub struct AggregateCall {
    pub function: AggregateFunction,
    /// The arguments, then the columns of `ORDER BY` inside of the call. In [`Phase::Final`] the columns of the state.
    pub args: Vec<Expr>,
    /// Types of the arguments over rows, in every phase.
    pub arg_types: Vec<DataType>,
    /// `ORDER BY` inside of the call, as indices of arguments.
    pub order: Order,
    pub filter: Option<Expr>,
    /// Type of the result.
    pub data_type: DataType,
}

#[derive(Debug, Clone)]
pub enum AggregateFunction {
    /// `COUNT(*)` has no argument.
    Count,
    Sum,
    Min,
    Max,
    Avg,
    /// By event time, then log order.
    FirstValue,
    LastValue,
    DataFusion(Arc<AggregateFunctionExpr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    /// Of two tables.
    Full,
}

/// Tables joined by one key: the first side, then each further one inner or left.
#[derive(Debug, Clone)]
pub struct Join {
    pub sides: Vec<JoinSide>,
    /// The sides' columns one after another (each side's own schema, keys included), input of `post`.
    pub schema: SchemaRef,
    pub post: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct JoinSide {
    pub input: Relation,
    pub pre: Vec<Step>,
    /// The side's columns after `pre`.
    pub schema: SchemaRef,
    /// Ignored for the first side.
    pub kind: JoinKind,
    /// The side's columns that are compared with the other sides', in one order for all.
    pub on: Vec<usize>,
}

/// `CREATE SINK name FROM view WITH (…)`; the options as written.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    pub name: String,
    pub view: usize,
    pub connector: String,
    pub options: BTreeMap<String, String>,
}

/// `CREATE ALERT name ON view RAISE WHEN … CLEAR WHEN … WITH (…)`.
#[derive(Debug, Clone)]
pub struct AlertSpec {
    pub name: String,
    pub view: usize,
    /// Over the view's output columns.
    pub raise: Expr,
    pub raise_sql: String,
    pub clear: Option<Expr>,
    pub clear_sql: Option<String>,
    pub severity: String,
    pub for_us: i64,
    pub min_hold_us: i64,
    pub flapping: Option<Flapping>,
    pub inhibited_by: Vec<Inhibitor>,
    /// The relation whose rows acknowledge and silence.
    pub commands: Option<String>,
    /// Room name patterns: `sub:{tenant}:{subscriber_id}`.
    pub rooms: Vec<String>,
    pub summary: String,
    /// What the alert is about: `kind` option, default the rule's name.
    pub kind: String,
    /// Output columns of the view: `tenant`, the score (option `score`, default a column called `score` when there is one), and the reasons
    /// (a text column called `reasons` that holds a JSON array, when there is one).
    pub tenant_column: Option<usize>,
    pub score_column: Option<usize>,
    pub reasons_column: Option<usize>,
    /// Hash of the statement's text: a changed rule is a new version.
    pub version: String,
}

/// `flapping = 'N in W'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flapping {
    pub times: u32,
    pub within_us: i64,
}

/// A rule whose open alert explains those of another rule.
#[derive(Debug, Clone)]
pub struct Inhibitor {
    pub rule: String,
    /// Output columns of the inhibited rule's view that are the key of the inhibiting rule's alerts, in its order.
    pub columns: Vec<usize>,
}
