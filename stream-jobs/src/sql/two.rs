//! Joins of two inputs: streams within bounds of time, a stream with a table, and tables by other columns than their keys.

use super::{
    catalog::RelationInfo,
    error::{SqlError, list},
    join::{Conditions, check_table},
    query::{Base, Planned},
    rows::{Place, Rows},
    scope::Scope,
};
use crate::plan::{Expr as Compiled, JoinKind, Relation, Side};
use arrow_schema::{Schema, SchemaRef};
use datafusion::{
    common::{DFSchemaRef, Result, ScalarValue},
    logical_expr::{Between, BinaryExpr, Expr, Operator, utils::conjunction},
};
use std::sync::Arc;

/// How the rows of two inputs find one another.
#[derive(Debug, Clone)]
pub(super) enum Meeting {
    /// Times of the right rows minus those of the left, in microseconds, both bounds included; and the rest of the condition.
    Within { lower_us: i64, upper_us: i64, filter: Option<Compiled> },
    /// The table's row as of the stream's time; a table without a time has its newest.
    AsOf { timed: bool },
    /// Rows of tables.
    Tables,
}

#[derive(Debug, Clone)]
pub(super) struct Two {
    pub meeting: Meeting,
    pub kind: JoinKind,
    pub sides: [Side; 2],
    /// The relations as they are after what stands below the join.
    pub infos: [RelationInfo; 2],
    pub level: u8,
    /// The task key as positions among the compared columns.
    pub partition: Vec<usize>,
    pub schema: SchemaRef,
    pub uses_now: bool,
}

/// One side: a plain relation with its filters and projections.
pub(super) struct Input {
    pub info: Arc<RelationInfo>,
    pub rows: Rows,
}

impl Input {
    pub fn of(planned: Planned) -> Result<Self> {
        match planned.base {
            Base::Relation { info, window: None } => Ok(Self { info, rows: planned.rows }),
            _ => Err(SqlError::unplaced("this query cannot stand in `JOIN` in this version").hint("make it a view of its own").into()),
        }
    }

    fn time(&self) -> Option<usize> {
        self.rows.column_of(self.info.time_column?)
    }

    /// Rows that are appended, with a time.
    pub fn is_stream(&self) -> bool {
        !self.info.changes && self.time().is_some()
    }
}

/// Bounds of the right time minus the left, as conditions give them.
#[derive(Debug, Default)]
struct Bounds {
    lower_us: Option<i64>,
    upper_us: Option<i64>,
    rest: Vec<Expr>,
}

impl Bounds {
    fn of(conditions: &[Expr], left: &Input, right: &Input) -> Self {
        let mut bounds = Self::default();
        for condition in conditions {
            if bounds.take(condition, left, right).is_none() {
                bounds.rest.push(condition.clone());
            }
        }
        bounds
    }

    fn take(&mut self, condition: &Expr, left: &Input, right: &Input) -> Option<()> {
        match condition {
            Expr::Between(Between { expr, negated: false, low, high }) => {
                let (middle, low, high) = (linear(expr, left, right)?, linear(low, left, right)?, linear(high, left, right)?);
                if middle.0 == low.0 || middle.0 == high.0 {
                    return None;
                }
                self.not_less(middle, low, 0);
                self.not_less(high, middle, 0);
            }
            Expr::BinaryExpr(BinaryExpr { left: a, op, right: b }) => {
                let (a, b) = (linear(a, left, right)?, linear(b, left, right)?);
                if a.0 == b.0 {
                    return None;
                }
                match op {
                    Operator::GtEq => self.not_less(a, b, 0),
                    Operator::Gt => self.not_less(a, b, 1),
                    Operator::LtEq => self.not_less(b, a, 0),
                    Operator::Lt => self.not_less(b, a, 1),
                    Operator::Eq => {
                        self.not_less(a, b, 0);
                        self.not_less(b, a, 0);
                    }
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// `a >= b + by`, where one is a time of the left side and the other of the right, each with what is added to it.
    fn not_less(&mut self, (a_is_right, a): (bool, i64), (_, b): (bool, i64), by: i64) {
        if a_is_right {
            let lower = b - a + by;
            self.lower_us = Some(self.lower_us.map_or(lower, |held| held.max(lower)));
        } else {
            let upper = a - b - by;
            self.upper_us = Some(self.upper_us.map_or(upper, |held| held.min(upper)));
        }
    }
}

/// A side's time with something added: true for the right side, and what is added to the row's time in microseconds.
fn linear(expr: &Expr, left: &Input, right: &Input) -> Option<(bool, i64)> {
    let of = |input: &Input| match input.rows.place_of(expr) {
        Some(Place::Physical(index)) => input.time() == Some(index),
        _ => false,
    };
    match expr {
        Expr::Column(_) if of(left) => Some((false, i64::from(left.info.time_is_window_end))),
        Expr::Column(_) if of(right) => Some((true, i64::from(right.info.time_is_window_end))),
        Expr::Cast(cast) => linear(&cast.expr, left, right),
        Expr::BinaryExpr(BinaryExpr { left: a, op: op @ (Operator::Plus | Operator::Minus), right: b }) => {
            if let Some((side, added)) = linear(a, left, right) {
                let us = interval_us(b)?;
                return Some((side, if *op == Operator::Plus { added + us } else { added - us }));
            }
            let (side, added) = linear(b, left, right).filter(|_| *op == Operator::Plus)?;
            Some((side, added + interval_us(a)?))
        }
        _ => None,
    }
}

fn interval_us(expr: &Expr) -> Option<i64> {
    const DAY_US: i64 = 86_400_000_000;
    match expr {
        Expr::Cast(cast) => interval_us(&cast.expr),
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(v)), _) if v.months == 0 => Some(i64::from(v.days) * DAY_US + v.nanoseconds / 1_000),
        Expr::Literal(ScalarValue::IntervalDayTime(Some(v)), _) => Some(i64::from(v.days) * DAY_US + i64::from(v.milliseconds) * 1_000),
        Expr::Literal(ScalarValue::DurationMicrosecond(Some(us)), _) => Some(*us),
        Expr::Literal(ScalarValue::DurationNanosecond(Some(ns)), _) => Some(ns / 1_000),
        _ => None,
    }
}

/// Streams, when conditions bound their times, or when both are windows that close and are joined by them.
pub(super) fn streams(
    kind: JoinKind,
    left: &Input,
    right: &Input,
    conditions: &Conditions,
    logical: &DFSchemaRef,
    scope: &mut Scope<'_>,
) -> Result<Option<Planned>> {
    if !left.is_stream() || !right.is_stream() {
        return Ok(None);
    }
    let bounds = Bounds::of(&conditions.others, left, right);
    let by_window = conditions.pairs.iter().any(|(l, r)| Some(*l) == left.time() && Some(*r) == right.time());
    let (lower_us, upper_us) = match (bounds.lower_us, bounds.upper_us) {
        _ if by_window => (0, 0),
        (Some(lower), Some(upper)) => (lower, upper),
        (None, None) => return Ok(None),
        _ => {
            let (a, b) = (&left.info.name, &right.info.name);
            let error = SqlError::unplaced(format!("the times of `{a}` and `{b}` are bounded on one side only: rows would have to be kept for ever"));
            return Err(error.hint("write `b.t BETWEEN a.t AND a.t + INTERVAL '10 minutes'`").into());
        }
    };
    if lower_us > upper_us {
        return Err(SqlError::unplaced("no two times lie within these bounds").hint("the lower bound stands first in `BETWEEN`").into());
    }
    let rest = if by_window { conditions.others.clone() } else { bounds.rest };
    let mut rows = Rows::new(logical.clone());
    if kind == JoinKind::Full {
        rows.merge_pairs(merged(left, conditions));
    }
    let filter = conjunction(rest).map(|rest| rows.compile(&rest)).transpose()?;
    let meeting = Meeting::Within { lower_us, upper_us, filter };
    joined(meeting, kind, left, right, conditions, rows, scope).map(Some)
}

/// A stream that looks a table up.
pub(super) fn lookup(kind: JoinKind, left: &Input, right: &Input, conditions: &Conditions, logical: &DFSchemaRef, scope: &mut Scope<'_>) -> Result<Planned> {
    check_table(&right.info)?;
    let time = left.info.time_column.map(|time| left.info.column_name(time)).unwrap_or_default();
    if let Some(wrong) = scope.settings.as_of.iter().find(|name| name.text != time) {
        let error = SqlError::at(wrong.place, format!("a table is looked up as of the stream's own time, `{time}`, and not as of `{}`", wrong.text));
        return Err(error.into());
    }
    if kind == JoinKind::Full {
        return Err(SqlError::unplaced("a stream is joined with a table inner or left").into());
    }
    let (info, on) = (&right.info, conditions.pairs.iter().map(|(_, r)| right.rows.origins()[*r]).collect::<Vec<_>>());
    let key = info.table_key();
    if !key.iter().all(|column| on.contains(&Some(*column))) {
        let names: Vec<&str> = key.iter().map(|c| info.column_name(*c)).collect();
        let error = SqlError::unplaced(format!("a stream looks `{}` up by its whole key, which is {}", info.name, list(&names)));
        return Err(error.hint("compare every column of the key").into());
    }
    if !conditions.others.is_empty() && kind == JoinKind::Left {
        return Err(conditions.refused().into());
    }
    let mut rows = Rows::new(logical.clone());
    if let Some(rest) = conjunction(conditions.others.clone()) {
        rows.filter(&rest)?;
    }
    joined(Meeting::AsOf { timed: right.time().is_some() }, kind, left, right, conditions, rows, scope)
}

/// Tables by any columns.
pub(super) fn tables(kind: JoinKind, left: &Input, right: &Input, conditions: &Conditions, logical: &DFSchemaRef, scope: &mut Scope<'_>) -> Result<Planned> {
    check_table(&left.info)?;
    check_table(&right.info)?;
    if !conditions.others.is_empty() && kind != JoinKind::Inner {
        return Err(conditions.refused().into());
    }
    let mut rows = Rows::new(logical.clone());
    if kind == JoinKind::Full {
        rows.merge_pairs(merged(left, conditions));
    }
    if let Some(rest) = conjunction(conditions.others.clone()) {
        rows.filter(&rest)?;
    }
    joined(Meeting::Tables, kind, left, right, conditions, rows, scope)
}

/// The compared columns of both sides, among the columns of both together.
fn merged(left: &Input, conditions: &Conditions) -> Vec<(usize, usize)> {
    let width = left.rows.schema().fields().len();
    conditions.pairs.iter().map(|(l, r)| (*l, width + r)).collect()
}

fn joined(meeting: Meeting, kind: JoinKind, left: &Input, right: &Input, conditions: &Conditions, rows: Rows, scope: &mut Scope<'_>) -> Result<Planned> {
    if conditions.pairs.is_empty() {
        return Err(conditions.without_pairs().into());
    }
    let infos = [left.info.after(&left.rows), right.info.after(&right.rows)];
    let on: [Vec<usize>; 2] = [conditions.pairs.iter().map(|(l, _)| *l).collect(), conditions.pairs.iter().map(|(_, r)| *r).collect()];
    let positions =
        |side: usize| -> Option<Vec<usize>> { infos[side].partition.as_ref()?.iter().map(|column| on[side].iter().position(|c| c == column)).collect() };
    let together = infos[0].level == infos[1].level && positions(0).is_some() && positions(0) == positions(1);
    let level = infos[0].level.max(infos[1].level) + u8::from(!together);
    let mut sides = Vec::new();
    for ((input, info), on) in [left, right].into_iter().zip(&infos).zip(on.clone()) {
        let key = info.table_key();
        if matches!(meeting, Meeting::Tables) && key.is_empty() {
            let names: Vec<&str> = input.info.table_key().into_iter().map(|c| input.info.column_name(c)).collect();
            let error = SqlError::unplaced(format!("the query over `{}` loses its key, which is {}", input.info.name, list(&names)));
            return Err(error.hint("select it").into());
        }
        let mut side = Side { input: input.info.relation, pre: input.rows.steps.clone(), schema: info.schema.clone(), on, key, routed: !together };
        if !together && (matches!(side.input, Relation::Source(_)) || !side.pre.is_empty()) {
            let as_they_come = sides.len() == 1 && matches!(meeting, Meeting::AsOf { .. });
            side.input = scope.rows_of(info, &input.rows, as_they_come);
            side.pre = Vec::new();
        }
        sides.push(side);
    }
    let [left_side, right_side]: [Side; 2] = sides.try_into().map_err(|_| SqlError::unplaced("a join has two sides"))?;
    let fields: Vec<_> = infos.iter().flat_map(|info| info.schema.fields().iter().cloned()).collect();
    let partition = if together { positions(0).unwrap_or_default() } else { (0..conditions.pairs.len()).collect() };
    let uses_now = left.rows.uses_now || right.rows.uses_now;
    let schema = Arc::new(Schema::new(fields));
    let two = Two { meeting, kind, sides: [left_side, right_side], infos, level, partition, schema, uses_now };
    Ok(Planned { base: Base::Two(Box::new(two)), rows })
}

impl Two {
    /// The column of both sides together that is column `column` of side `side`.
    pub fn column(&self, side: usize, column: usize) -> usize {
        if side == 0 { column } else { self.infos[0].schema.fields().len() + column }
    }

    /// True when rows of that side are made up of nulls where there is no partner.
    pub fn fills_up(&self, side: usize) -> bool {
        matches!((self.kind, side), (JoinKind::Left, 1) | (JoinKind::Full, _))
    }

    /// The position among the compared columns where both sides' times stand.
    pub fn compared_time(&self) -> Option<usize> {
        (0..self.sides[0].on.len()).find(|i| (0..2).all(|side| Some(self.sides[side].on[*i]) == self.infos[side].time_column))
    }

    /// Columns that hold a compared column and are never filled up.
    pub fn compared(&self, position: usize) -> Vec<usize> {
        let mut columns: Vec<usize> = (0..2).filter(|side| !self.fills_up(*side)).map(|side| self.column(side, self.sides[side].on[position])).collect();
        if self.kind == JoinKind::Full {
            columns.push(Rows::merged(position));
        }
        columns
    }

    /// True when at most one row of that side stands for a value of the compared columns.
    pub fn is_unique(&self, side: usize) -> bool {
        self.sides[side].key.iter().all(|column| self.sides[side].on.contains(column))
    }
}
