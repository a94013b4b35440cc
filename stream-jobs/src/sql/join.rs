//! Joins: which kind one is, and tables by their key, all sides flattened into one and compared by the same columns in the same order.

use super::{
    catalog::RelationInfo,
    error::SqlError,
    query::{Base, Planned},
    rows::{Place, Rows},
    scope::Scope,
    two::{self, Input},
};
use crate::plan::{JoinKind, JoinSide};
use arrow_schema::{Schema, SchemaRef};
use datafusion::{
    common::{DataFusionError, JoinType, Result},
    logical_expr::{
        self as logical, BinaryExpr, Expr, LogicalPlan, Operator,
        utils::{conjunction, split_conjunction},
    },
};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub infos: Vec<Arc<RelationInfo>>,
    pub sides: Vec<JoinSide>,
    /// Each side's columns: the relation's column that each is, unchanged.
    origins: Vec<Vec<Option<usize>>>,
    pub schema: SchemaRef,
    /// True when an expression of a side calls `now()`.
    pub uses_now: bool,
}

/// `above`: what a `WHERE` around the join asks of its rows.
pub(super) fn build(join: &logical::Join, above: Option<&Expr>, scope: &mut Scope<'_>) -> Result<Planned> {
    let kind = match join.join_type {
        JoinType::Inner => JoinKind::Inner,
        JoinType::Left => JoinKind::Left,
        JoinType::Full => JoinKind::Full,
        JoinType::Right => {
            return Err(SqlError::unplaced("`RIGHT JOIN` is not part of this version").hint("turn it around: `b LEFT JOIN a`").into());
        }
        other => {
            let error = SqlError::unplaced(format!("`{} JOIN` is not part of this version", other.to_string().to_uppercase()));
            return Err(error.hint("write an inner, a left or a full join").into());
        }
    };
    let left = build_side(&join.left, kind != JoinKind::Full && matches!(join.left.as_ref(), LogicalPlan::Join(_)), scope)?;
    let right = build_side(&join.right, false, scope)?;
    // What is asked of the rows of an inner join may as well be asked when they are joined.
    let (taken, left_over) = if kind == JoinKind::Inner { (above, None) } else { (None, above) };
    let conditions = Conditions::of(join, taken, &left.rows, &right.rows);
    let mut planned = meet(kind, left, right, &conditions, join, scope)?;
    if let Some(above) = left_over {
        planned.rows.filter(above)?;
    }
    Ok(planned)
}

fn meet(kind: JoinKind, left: Planned, right: Planned, conditions: &Conditions, join: &logical::Join, scope: &mut Scope<'_>) -> Result<Planned> {
    let logical = &join.schema;
    if let (Base::Relation { .. }, Base::Relation { .. }) = (&left.base, &right.base) {
        let (left_input, right_input) = (Input::of(left.clone())?, Input::of(right.clone())?);
        if let Some(planned) = two::streams(kind, &left_input, &right_input, conditions, logical, scope)? {
            return Ok(planned);
        }
        let as_of = !scope.settings.as_of.is_empty() && left_input.is_stream();
        match (left_input.info.stream || as_of, right_input.info.stream) {
            (true, false) => return two::lookup(kind, &left_input, &right_input, conditions, logical, scope),
            (true, true) => return Err(unbounded(&left_input.info.name, &right_input.info.name).into()),
            (false, true) => {
                let error = SqlError::unplaced(format!("`{}` is a stream of rows and no table: a table cannot look it up", right_input.info.name));
                return Err(error.hint("turn the join around, or make a view of it that has a key, for example of the last values of each key").into());
            }
            (false, false) => {}
        }
    }
    if conditions.pairs.is_empty() {
        return Err(conditions.without_pairs().into());
    }
    if kind != JoinKind::Full && conditions.others.is_empty() | (kind == JoinKind::Inner) {
        match by_whole_keys(kind, &left, &right, conditions) {
            Ok(joined) => {
                let mut rows = Rows::new(logical.clone());
                if let Some(rest) = conjunction(conditions.others.clone()) {
                    rows.filter(&rest)?;
                }
                return Ok(Planned { base: Base::Join(joined), rows });
            }
            Err(Refused::Told(error)) => return Err(error),
            Err(Refused::OtherWay) => {}
        }
    }
    let left = match left.base {
        Base::Join(_) => scope.as_view(left)?,
        _ => left,
    };
    two::tables(kind, &Input::of(left)?, &Input::of(right)?, conditions, logical, scope)
}

fn unbounded(left: &str, right: &str) -> SqlError {
    SqlError::unplaced(format!("a join of the streams `{left}` and `{right}` needs a bound on both times, found none"))
        .hint("add `AND b.t BETWEEN a.t AND a.t + INTERVAL '10 minutes'`, or join windows of them")
}

/// Why tables are not joined by their whole keys in one task.
enum Refused {
    Told(DataFusionError),
    OtherWay,
}

impl From<DataFusionError> for Refused {
    fn from(error: DataFusionError) -> Self {
        Self::Told(error)
    }
}

/// All sides by one key, in the task that holds it.
fn by_whole_keys(kind: JoinKind, left: &Planned, right: &Planned, conditions: &Conditions) -> std::result::Result<Joined, Refused> {
    let mut joined = match &left.base {
        Base::Join(joined) => joined.clone(),
        Base::Relation { info, .. } => {
            check_table(info).map_err(Refused::Told)?;
            first_side(info.clone(), &left.rows, conditions.pairs.iter().map(|(l, _)| *l).collect())?
        }
        _ => return Err(Refused::OtherWay),
    };
    if matches!(&left.base, Base::Join(_)) && !left.rows.steps.is_empty() {
        return Err(Refused::OtherWay);
    }
    let Some(on) = joined.order_pairs(&conditions.pairs) else { return Err(Refused::OtherWay) };
    match &right.base {
        Base::Relation { info, .. } => {
            check_table(info).map_err(Refused::Told)?;
            joined.add(info.clone(), &right.rows, kind, on)?;
            Ok(joined)
        }
        _ => Err(Refused::OtherWay),
    }
}

/// A side of a join: a relation with filters and projections, or on the left another join.
fn build_side(plan: &LogicalPlan, join_allowed: bool, scope: &mut Scope<'_>) -> Result<Planned> {
    let planned = super::query::build(plan, scope)?;
    match &planned.base {
        Base::Join(_) if join_allowed => Ok(planned),
        Base::Relation { window: Some(_), .. } => {
            Err(SqlError::unplaced("a window function cannot stand beside `JOIN`").hint("make a view that aggregates by the window, and join it").into())
        }
        Base::Relation { .. } if !planned.rows.has_keyed_step() => Ok(planned),
        _ => scope.as_view(planned),
    }
}

pub(super) fn check_table(info: &RelationInfo) -> Result<()> {
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

/// What is asked of two rows that are joined.
pub(super) struct Conditions {
    /// Equal columns: physical indices left and right.
    pub pairs: Vec<(usize, usize)>,
    pub others: Vec<Expr>,
}

impl Conditions {
    fn of(join: &logical::Join, above: Option<&Expr>, left: &Rows, right: &Rows) -> Self {
        let physical = |rows: &Rows, expr: &Expr| match rows.place_of(expr) {
            Some(Place::Physical(index)) => Some(index),
            _ => None,
        };
        let mut conditions = Self { pairs: Vec::new(), others: Vec::new() };
        let equal = join.on.iter().map(|(a, b)| a.clone().eq(b.clone()));
        let asked = join.filter.iter().chain(above).flat_map(|filter| split_conjunction(filter)).cloned();
        for condition in equal.chain(asked) {
            let pair = match &condition {
                Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) => {
                    physical(left, a).zip(physical(right, b)).or_else(|| physical(left, b).zip(physical(right, a)))
                }
                _ => None,
            };
            match pair {
                Some(pair) if !conditions.pairs.contains(&pair) => conditions.pairs.push(pair),
                Some(_) => {}
                None => conditions.others.push(condition),
            }
        }
        conditions
    }

    /// For joins whose condition can only be equality.
    pub fn refused(&self) -> SqlError {
        let condition = self.others.first().map(ToString::to_string).unwrap_or_default();
        SqlError::unplaced(format!("a join compares columns of the same type with `=`, and not `{condition}`"))
            .hint("conditions on one side belong into `WHERE`, casts into a view of their own")
    }

    pub fn without_pairs(&self) -> SqlError {
        if !self.others.is_empty() {
            return self.refused();
        }
        SqlError::unplaced("a join without `ON` or `USING` is not part of this version").hint("tables are joined by columns: `JOIN … USING (…)`")
    }
}

fn first_side(info: Arc<RelationInfo>, rows: &Rows, on: Vec<usize>) -> std::result::Result<Joined, Refused> {
    if info.broadcast {
        return Err(Refused::OtherWay);
    }
    let mut joined = Joined { infos: Vec::new(), sides: Vec::new(), origins: Vec::new(), schema: Arc::new(Schema::empty()), uses_now: false };
    joined.add(info, rows, JoinKind::Inner, on)?;
    Ok(joined)
}

impl Joined {
    fn add(&mut self, info: Arc<RelationInfo>, rows: &Rows, kind: JoinKind, on: Vec<usize>) -> std::result::Result<(), Refused> {
        let side = JoinSide { input: info.relation, pre: rows.steps.clone(), schema: rows.schema(), kind, on };
        let fields: Vec<_> = self.schema.fields().iter().chain(side.schema.fields()).cloned().collect();
        self.schema = Arc::new(Schema::new(fields));
        self.uses_now |= rows.uses_now;
        self.origins.push(rows.origins());
        self.infos.push(info);
        self.sides.push(side);
        let side = self.sides.len() - 1;
        if self.by_whole_key(side) && self.in_one_task(side) { Ok(()) } else { Err(Refused::OtherWay) }
    }

    /// The right columns of `pairs`, in the order of the first side's.
    fn order_pairs(&self, pairs: &[(usize, usize)]) -> Option<Vec<usize>> {
        let mut on = vec![None; self.sides[0].on.len()];
        for (left_index, right_index) in pairs {
            on[self.position_of(*left_index)?] = Some(*right_index);
        }
        on.into_iter().collect()
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

    fn by_whole_key(&self, side: usize) -> bool {
        let (info, mut on) = (&self.infos[side], self.on_origins(side));
        let mut key: Vec<Option<usize>> = info.table_key().into_iter().map(Some).collect();
        on.sort_unstable();
        key.sort_unstable();
        on == key
    }

    /// Where the task key's columns stand among the joined columns.
    fn task_positions(&self, side: usize) -> Option<Vec<usize>> {
        let on = self.on_origins(side);
        let partition = self.infos[side].partition.as_ref()?;
        partition.iter().map(|column| on.iter().position(|o| *o == Some(*column))).collect()
    }

    fn in_one_task(&self, side: usize) -> bool {
        let (first, this) = (&self.infos[0], &self.infos[side]);
        if side > 0 && this.broadcast && first.level == 1 {
            return true;
        }
        let (positions, of_first) = (self.task_positions(side), self.task_positions(0));
        first.level == this.level && positions.is_some() && positions == of_first
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
