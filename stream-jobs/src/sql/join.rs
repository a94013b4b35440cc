//! Joins of tables by their key: all sides flattened into one, each compared by the same columns in the same order.

use super::{
    catalog::RelationInfo,
    error::{SqlError, list},
    query::{Base, Planned},
    rows::{Place, Rows},
};
use crate::plan::{JoinKind, JoinSide};
use arrow_schema::{Schema, SchemaRef};
use datafusion::{
    common::{JoinType, Result},
    logical_expr::{self as logical, BinaryExpr, Expr, LogicalPlan, Operator, utils::split_conjunction},
};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Joined {
    pub infos: Vec<Arc<RelationInfo>>,
    pub sides: Vec<JoinSide>,
    /// Each side's columns: the relation's column that each is, unchanged.
    origins: Vec<Vec<Option<usize>>>,
    pub schema: SchemaRef,
    /// True when an expression of a side calls `now()`.
    pub uses_now: bool,
}

pub(super) fn build(join: &logical::Join) -> Result<Planned> {
    let kind = match join.join_type {
        JoinType::Inner => JoinKind::Inner,
        JoinType::Left => JoinKind::Left,
        other => {
            let error = SqlError::unplaced(format!("`{} JOIN` is not part of this version", other.to_string().to_uppercase()));
            return Err(error.hint("tables are joined inner or left: turn a right join around").into());
        }
    };
    let left = build_side(&join.left, matches!(join.left.as_ref(), LogicalPlan::Join(_)))?;
    let right = build_side(&join.right, false)?;
    let pairs = equal_columns(join, &left.rows, &right.rows)?;
    let (mut joined, left_rows) = match left.base {
        Base::Join(joined) => (joined, left.rows),
        Base::Relation { info, .. } => {
            let on = pairs.iter().map(|(l, _)| *l).collect();
            (first_side(info, &left.rows, on)?, left.rows)
        }
        Base::Aggregate(_) => return Err(aggregates().into()),
    };
    let on = joined.order_pairs(&pairs, &left_rows)?;
    match right.base {
        Base::Relation { info, .. } => joined.add(info, &right.rows, kind, on)?,
        _ => return Err(aggregates().into()),
    }
    let rows = Rows::new(join.schema.clone());
    Ok(Planned { base: Base::Join(joined), rows })
}

fn aggregates() -> SqlError {
    SqlError::unplaced("a query that aggregates or joins cannot stand in `JOIN` in this version").hint("make it a view of its own")
}

/// A side of a join: a relation with filters and projections, or on the left another join, bare.
fn build_side(plan: &LogicalPlan, join_allowed: bool) -> Result<Planned> {
    let planned = super::query::build(plan)?;
    match &planned.base {
        Base::Join(_) if join_allowed => Ok(planned),
        Base::Relation { window: Some(_), .. } => {
            Err(SqlError::unplaced("`TUMBLE` and `HOP` cannot stand beside `JOIN`").hint("make a view that aggregates by the window, and join it").into())
        }
        Base::Relation { info, .. } => {
            check_table(info)?;
            Ok(planned)
        }
        _ => Err(aggregates().into()),
    }
}

fn check_table(info: &RelationInfo) -> Result<()> {
    let name = &info.name;
    if info.stream {
        let error = SqlError::unplaced(format!("`{name}` is a stream of rows and no table: it cannot be joined"));
        return Err(error.hint("make a view of it that has a key, for example of the last values of each key").into());
    }
    if info.table_key().is_empty() {
        let error = SqlError::unplaced(format!("`{name}` has no key by which it can be joined"));
        return Err(error.hint("select the key of its input in it").into());
    }
    Ok(())
}

/// The conditions of `ON` and `USING` as pairs of columns: physical indices left and right.
fn equal_columns(join: &logical::Join, left: &Rows, right: &Rows) -> Result<Vec<(usize, usize)>> {
    let physical = |rows: &Rows, expr: &Expr| match rows.place_of(expr) {
        Some(Place::Physical(index)) => Some(index),
        _ => None,
    };
    let mut pairs = Vec::new();
    let mut add = |a: &Expr, b: &Expr| {
        let pair = match (physical(left, a), physical(right, b)) {
            (Some(l), Some(r)) => Some((l, r)),
            _ => physical(left, b).zip(physical(right, a)),
        };
        pair.map(|pair| pairs.push(pair)).ok_or_else(|| only_equal(&format!("{a} = {b}")))
    };
    for (a, b) in &join.on {
        add(a, b)?;
    }
    for condition in join.filter.iter().flat_map(split_conjunction) {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => add(left, right)?,
            other => return Err(only_equal(&other.to_string()).into()),
        }
    }
    if pairs.is_empty() {
        return Err(SqlError::unplaced("a join without `ON` or `USING` is not part of this version")
            .hint("tables are joined by their key: `JOIN … USING (…)`")
            .into());
    }
    Ok(pairs)
}

fn only_equal(condition: &str) -> SqlError {
    SqlError::unplaced(format!("a join compares columns of the same type with `=`, and not `{condition}`"))
        .hint("conditions on one side belong into `WHERE`, casts into a view of their own")
}

fn first_side(info: Arc<RelationInfo>, rows: &Rows, on: Vec<usize>) -> Result<Joined> {
    if info.broadcast {
        let error = SqlError::unplaced(format!("`{}` is broadcast: every task has all of it", info.name));
        return Err(error.hint("write it on the right side of the join").into());
    }
    let mut joined = Joined { infos: Vec::new(), sides: Vec::new(), origins: Vec::new(), schema: Arc::new(Schema::empty()), uses_now: false };
    joined.add(info, rows, JoinKind::Inner, on)?;
    Ok(joined)
}

impl Joined {
    fn add(&mut self, info: Arc<RelationInfo>, rows: &Rows, kind: JoinKind, on: Vec<usize>) -> Result<()> {
        if rows.has_keyed_step() {
            return Err(aggregates().into());
        }
        let side = JoinSide { input: info.relation, pre: rows.steps.clone(), schema: rows.schema(), kind, on };
        let fields: Vec<_> = self.schema.fields().iter().chain(side.schema.fields()).cloned().collect();
        self.schema = Arc::new(Schema::new(fields));
        self.uses_now |= rows.uses_now;
        self.origins.push(rows.origins());
        self.infos.push(info);
        self.sides.push(side);
        self.check_key(self.sides.len() - 1)?;
        self.check_task(self.sides.len() - 1)
    }

    /// The right columns of `pairs`, in the order of the first side's.
    fn order_pairs(&self, pairs: &[(usize, usize)], left: &Rows) -> Result<Vec<usize>> {
        let mut on = vec![None; self.sides[0].on.len()];
        for (left_index, right_index) in pairs {
            let position = self.position_of(*left_index).ok_or_else(|| {
                let name = left.schema().field(*left_index).name().clone();
                SqlError::unplaced(format!("`{name}` is not one of the columns by which the tables before are joined"))
                    .hint("compare with the columns of the first table")
            })?;
            on[position] = Some(*right_index);
        }
        on.into_iter()
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| SqlError::unplaced("every table of a `JOIN` is compared by the same columns").hint("join by the whole key").into())
    }

    /// Which of the joined columns the column of all sides together is; null-extended ones are none.
    fn position_of(&self, index: usize) -> Option<usize> {
        let mut start = 0;
        for (number, side) in self.sides.iter().enumerate() {
            let width = side.schema.fields().len();
            if index < start + width {
                let inner = number == 0 || side.kind == JoinKind::Inner;
                return side.on.iter().position(|c| inner && *c == index - start);
            }
            start += width;
        }
        None
    }

    fn on_origins(&self, side: usize) -> Vec<Option<usize>> {
        self.sides[side].on.iter().map(|c| self.origins[side][*c]).collect()
    }

    fn check_key(&self, side: usize) -> Result<()> {
        let (info, mut on) = (&self.infos[side], self.on_origins(side));
        let mut key: Vec<Option<usize>> = info.table_key().into_iter().map(Some).collect();
        on.sort_unstable();
        key.sort_unstable();
        if on == key {
            return Ok(());
        }
        let names: Vec<&str> = info.table_key().into_iter().map(|c| info.column_name(c)).collect();
        Err(SqlError::unplaced(format!("`{}` is joined by other columns than its key, which is {}", info.name, list(&names)))
            .hint("tables are joined by their whole key, unchanged")
            .into())
    }

    /// Where the task key's columns stand among the joined columns.
    fn task_positions(&self, side: usize) -> Option<Vec<usize>> {
        let on = self.on_origins(side);
        let partition = self.infos[side].partition.as_ref()?;
        partition.iter().map(|column| on.iter().position(|o| *o == Some(*column))).collect()
    }

    fn check_task(&self, side: usize) -> Result<()> {
        let (first, this) = (&self.infos[0], &self.infos[side]);
        if side > 0 && this.broadcast && first.level == 1 {
            return Ok(());
        }
        let (a, b) = (&first.name, &this.name);
        if first.level != this.level {
            let message = format!("`{b}` is kept at level {} and `{a}` at level {}: they cannot be joined", this.level, first.level);
            return Err(SqlError::unplaced(message).hint("views by the key of their source and views by another key lie in different tasks").into());
        }
        match (self.task_positions(0), self.task_positions(side)) {
            (Some(first), Some(this)) if first == this => Ok(()),
            _ => {
                let message = format!("the rows of `{b}` and `{a}` with equal keys lie in different tasks: they cannot be joined");
                Err(SqlError::unplaced(message).hint("tables of a join are spread by the same columns in the same order").into())
            }
        }
    }

    /// Columns of all sides together that hold the joined column at `position` and are never null-extended.
    pub fn key_columns(&self, position: usize) -> Vec<usize> {
        let mut start = 0;
        let mut columns = Vec::new();
        for (number, side) in self.sides.iter().enumerate() {
            if number == 0 || side.kind == JoinKind::Inner {
                columns.push(start + side.on[position]);
            }
            start += side.schema.fields().len();
        }
        columns
    }

    /// The task key as positions among the joined columns.
    pub fn partition_positions(&self) -> Vec<usize> {
        self.task_positions(0).unwrap_or_default()
    }
}
