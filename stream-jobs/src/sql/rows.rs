//! Rows on their way through filters and projections, while they are planned.
//!
//! DataFusion's plan knows logical columns; the batches that will run have physical ones. They differ: the bounds of a window
//! are logical columns before `GROUP BY` and no column of any batch, and a batch may carry columns that nobody named
//! (the time of a window's rows, the results of keyed functions).

use super::{
    catalog::RelationInfo,
    error::{SqlError, plain_error},
    keyed,
    statement::timestamp,
};
use crate::{
    ops::nullable,
    plan::{Expr as Compiled, KeyedCall, Step},
};
use arrow_array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::{
    common::{
        Column, DFSchema, DFSchemaRef, DataFusionError, Result, TableReference,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, execution_props::ExecutionProps, physical_planning_context::PhysicalPlanningContext, simplify::SimplifyContext},
    optimizer::simplify_expressions::ExprSimplifier,
    physical_expr::{
        create_physical_expr,
        expressions::{BinaryExpr as PhysicalBinaryExpr, CastExpr, Column as PhysicalColumnExpr},
    },
};
use std::{collections::BTreeSet, sync::Arc};

/// Where a logical column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Physical(usize),
    WindowStart,
    WindowEnd,
}

#[derive(Debug, Clone)]
struct PhysicalColumn {
    qualifier: Option<TableReference>,
    field: FieldRef,
    /// The column of the base (relation, aggregate, join) that this one is, unchanged.
    origin: Option<usize>,
}

/// Whether functions with a memory per key may stand here.
#[derive(Debug, Clone)]
pub(super) enum KeyedPolicy {
    /// Over rows with a key: the columns of the relation that are it.
    Allowed {
        key: Vec<usize>,
        relation: String,
    },
    Refused,
}

#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub steps: Vec<Step>,
    logical: DFSchemaRef,
    places: Vec<Place>,
    physical: Vec<PhysicalColumn>,
    /// The base's column that a projection must not lose.
    keep: Option<usize>,
    /// The name under which the kept column ends the view.
    keep_as: Option<&'static str>,
    keyed: KeyedPolicy,
    keyed_calls: usize,
    pub uses_now: bool,
    /// Columns of a full join that are compared: where one side has no row, `coalesce` of the two is the other's.
    merged: Vec<(usize, usize)>,
}

/// Base columns from here on are compared columns of a full join.
const MERGED: usize = 1 << 32;

impl Rows {
    /// All columns of `schema`, which are those of `logical`.
    pub fn new(logical: DFSchemaRef) -> Self {
        let physical =
            logical.iter().enumerate().map(|(i, (qualifier, field))| PhysicalColumn { qualifier: qualifier.cloned(), field: field.clone(), origin: Some(i) });
        Self {
            steps: Vec::new(),
            places: (0..logical.fields().len()).map(Place::Physical).collect(),
            physical: physical.collect(),
            logical,
            keep: None,
            keep_as: None,
            keyed: KeyedPolicy::Refused,
            keyed_calls: 0,
            uses_now: false,
            merged: Vec::new(),
        }
    }

    /// The columns of a view that the planner made, under the names that the query above knows.
    pub fn of_view(logical: DFSchemaRef, info: &RelationInfo, keyed: KeyedPolicy) -> Self {
        let mut rows = Self::new(logical);
        let known = rows.physical.len();
        for (i, field) in info.schema.fields().iter().enumerate().skip(known) {
            rows.physical.push(PhysicalColumn { qualifier: None, field: Arc::new(field.as_ref().clone().with_name(format!("__{i}"))), origin: Some(i) });
        }
        Self { keyed, ..rows.with_types(&info.schema) }
    }

    /// Adds a column that the plan does not know: it goes through every projection and ends the view.
    pub fn carry(&mut self, name: &'static str, data_type: DataType) {
        self.keep = Some(self.physical.len());
        self.keep_as = Some(name);
        self.physical.push(PhysicalColumn { qualifier: None, field: Arc::new(Field::new(format!("__{name}"), data_type, true)), origin: self.keep });
    }

    /// All columns of the base as they stand in it.
    pub fn is_whole(&self) -> bool {
        self.places.iter().enumerate().all(|(i, place)| *place == Place::Physical(i)) && self.physical.iter().enumerate().all(|(i, c)| c.origin == Some(i))
    }

    /// Makes the physical columns those that the plan knows, in its order.
    pub fn settle(&mut self) -> Result<()> {
        let logical = self.logical.clone();
        let columns: Vec<Expr> = logical.columns().into_iter().map(Expr::Column).collect();
        self.project(&columns, &logical)
    }

    /// The same columns under the names of `logical`.
    pub fn relabel(&mut self, logical: &DFSchemaRef) {
        self.logical = logical.clone();
    }

    /// The columns that the plan knows.
    pub fn logical(&self) -> &DFSchemaRef {
        &self.logical
    }

    /// A relation as it is scanned. A windowed scan ends with the two bounds, and hides columns of their names.
    pub fn of_scan(logical: DFSchemaRef, info: &RelationInfo, windowed: bool, keyed: KeyedPolicy) -> Self {
        let qualifier = logical.iter().next().and_then(|(qualifier, _)| qualifier.cloned());
        let column = |(i, field): (usize, &FieldRef)| PhysicalColumn { qualifier: qualifier.clone(), field: field.clone(), origin: Some(i) };
        let physical: Vec<PhysicalColumn> = info.schema.fields().iter().enumerate().map(column).collect();
        let count = logical.fields().len();
        let place = |(i, field): (usize, &FieldRef)| match i {
            _ if windowed && i + 2 == count => Place::WindowStart,
            _ if windowed && i + 1 == count => Place::WindowEnd,
            _ => Place::Physical(info.schema.index_of(field.name()).unwrap_or(i)),
        };
        let places = logical.fields().iter().enumerate().map(place).collect();
        let keep = if windowed { info.time_column } else { None };
        Self { places, physical, keep, keyed, ..Self::new(logical) }
    }

    /// Replaces the names by those of an alias.
    pub fn rename(&mut self, logical: DFSchemaRef) {
        for (place, (qualifier, field)) in self.places.iter().zip(logical.iter()) {
            if let Place::Physical(index) = place {
                let column = &mut self.physical[*index];
                column.qualifier = qualifier.cloned();
                column.field = Arc::new(column.field.as_ref().clone().with_name(field.name()));
            }
        }
        self.logical = logical;
    }

    pub fn filter(&mut self, predicate: &Expr) -> Result<()> {
        let mut exprs = self.take_keyed_calls(vec![predicate.clone()])?;
        let predicate = exprs.pop().unwrap_or_else(|| predicate.clone());
        let predicate = self.compile(&predicate)?;
        self.steps.push(Step::Filter(predicate));
        Ok(())
    }

    pub fn project(&mut self, exprs: &[Expr], logical: &DFSchemaRef) -> Result<()> {
        let exprs = self.take_keyed_calls(exprs.to_vec())?;
        let (mut compiled, mut physical, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (expr, (qualifier, field)) in exprs.iter().zip(logical.iter()) {
            let expr = expr.clone().unalias_nested().data;
            if let Some(bound @ (Place::WindowStart | Place::WindowEnd)) = self.place_of(&expr) {
                places.push(bound);
                continue;
            }
            let (column, origin) = (self.compile(&expr)?, self.origin_of(&expr));
            let field = Arc::new(Field::new(field.name(), column.data_type(&self.schema())?, true));
            places.push(Place::Physical(compiled.len()));
            compiled.push(column);
            physical.push(PhysicalColumn { qualifier: qualifier.cloned(), field, origin });
        }
        if let Some(kept) = self.kept_column().filter(|_| physical.iter().all(|c| c.origin != self.keep)) {
            let field = Arc::new(self.physical[kept].field.as_ref().clone().with_name("__time"));
            compiled.push(self.column_expr(kept));
            physical.push(PhysicalColumn { qualifier: None, field, origin: self.keep });
        }
        // New names are a change too: a batch carries its names.
        let named_alike = physical.iter().zip(&self.physical).all(|(new, old)| new.field.name() == old.field.name());
        let in_place = compiled.len() == self.physical.len() && compiled.iter().enumerate().all(|(i, e)| column_index(e) == Some(i));
        let unchanged = in_place && named_alike;
        self.logical = logical.clone();
        self.places = places;
        self.physical = physical;
        if !unchanged {
            self.steps.push(Step::Project { exprs: compiled, schema: self.schema() });
        }
        Ok(())
    }

    /// The physical columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.physical.iter().map(|c| c.field.clone()).collect::<Vec<_>>()))
    }

    /// The base's column that each physical column is.
    pub fn origins(&self) -> Vec<Option<usize>> {
        self.physical.iter().map(|c| c.origin).collect()
    }

    /// The physical column that still is the base's column `origin`.
    pub fn column_of(&self, origin: usize) -> Option<usize> {
        self.physical.iter().position(|c| c.origin == Some(origin))
    }

    pub fn place_of(&self, expr: &Expr) -> Option<Place> {
        match expr {
            Expr::Column(column) => self.logical.maybe_index_of_column(column).map(|i| self.places[i]),
            _ => None,
        }
    }

    /// The column that `coalesce` of the compared columns at `position` is.
    pub fn merged(position: usize) -> usize {
        MERGED + position
    }

    pub fn merge_pairs(&mut self, pairs: Vec<(usize, usize)>) {
        self.merged = pairs;
    }

    fn merged_of(&self, expr: &Expr) -> Option<usize> {
        let Expr::ScalarFunction(call) = expr else { return None };
        let [a, b] = call.args.as_slice() else { return None };
        let pair = (self.origin_of(a)?, self.origin_of(b)?);
        let position = self.merged.iter().position(|held| *held == pair || *held == (pair.1, pair.0))?;
        (call.func.name() == "coalesce").then_some(MERGED + position)
    }

    pub fn origin_of(&self, expr: &Expr) -> Option<usize> {
        if let Some(merged) = self.merged_of(expr) {
            return Some(merged);
        }
        match self.place_of(expr)? {
            Place::Physical(index) => self.physical[index].origin,
            Place::WindowStart | Place::WindowEnd => None,
        }
    }

    pub fn has_keyed_step(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Keyed { .. }))
    }

    /// `expr` over the rows as they are now.
    pub fn compile(&mut self, expr: &Expr) -> Result<Compiled> {
        expr.apply(|node| {
            match node {
                Expr::Column(_) if matches!(self.place_of(node), Some(Place::WindowStart | Place::WindowEnd)) => {
                    let message = format!("`{}` is known after `GROUP BY` only", node.schema_name().to_string().rsplit('.').next().unwrap_or_default());
                    return Err(SqlError::unplaced(message).hint("compute with it in a view over this one, or in the select list over the group").into());
                }
                Expr::ScalarFunction(call) if call.func.name() == "now" => self.uses_now = true,
                Expr::ScalarFunction(call) if keyed::as_call(node).is_some() => return Err(keyed_refused(call.func.name()).into()),
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) | Expr::OuterReferenceColumn(..) => {
                    return Err(SqlError::unplaced("a query inside of an expression is not part of this version").hint("make it a view and join it").into());
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        // `COALESCE` and its like exist in their simplified form only.
        let schema = Arc::new(self.physical_dfschema()?);
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(schema.clone()).build());
        let expr = simplifier.simplify(expr.clone())?;
        let compiled = create_physical_expr(&expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
        // A number that its type cannot hold is null, as other faults of a row are, and not another number.
        let strict = |expr: Compiled| {
            Ok(match expr.downcast_ref::<PhysicalBinaryExpr>() {
                Some(binary) => Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as Compiled),
                None => Transformed::no(expr),
            })
        };
        let compiled = compiled.transform_up(strict)?.data;
        self.check_evaluates(&expr, &compiled)?;
        Ok(compiled)
    }

    /// What fails over a row of nulls fails for its constants: a time zone that is not there, a part of a time that has no name.
    fn check_evaluates(&self, expr: &Expr, compiled: &Compiled) -> Result<()> {
        let schema = Arc::new(nullable(&self.schema()));
        let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let row = RecordBatch::try_new_with_options(schema, nulls, &RecordBatchOptions::new().with_row_count(Some(1)))?;
        let Err(error) = compiled.evaluate(&row) else { return Ok(()) };
        // A branch that nulls alone take may divide by zero.
        if matches!(error.find_root(), DataFusionError::ArrowError(inner, _) if matches!(inner.as_ref(), ArrowError::DivideByZero | ArrowError::ArithmeticOverflow(_)))
        {
            return Ok(());
        }
        let why = plain_error(&error.strip_backtrace());
        Err(SqlError::unplaced(format!("`{}` fails for every row: {}", expr.human_display(), why.message)).into())
    }

    fn physical_dfschema(&self) -> Result<DFSchema> {
        let fields = self.physical.iter().map(|c| (c.qualifier.clone(), c.field.clone())).collect();
        DFSchema::new_with_metadata(fields, Default::default())
    }

    pub fn column_expr(&self, index: usize) -> Compiled {
        Arc::new(PhysicalColumnExpr::new(self.physical[index].field.name(), index))
    }

    fn kept_column(&self) -> Option<usize> {
        self.column_of(self.keep?)
    }

    /// Moves keyed calls into a step of their own and puts its columns in their place.
    fn take_keyed_calls(&mut self, exprs: Vec<Expr>) -> Result<Vec<Expr>> {
        let mut calls: Vec<(Expr, String)> = Vec::new();
        let mut functions = Vec::new();
        let mut result = Vec::with_capacity(exprs.len());
        for expr in exprs {
            let replaced = expr.transform_down(|node| {
                let Some(call) = keyed::as_call(&node) else { return Ok(Transformed::no(node)) };
                if let Some((_, name)) = calls.iter().find(|(known, _)| *known == node) {
                    return Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name))));
                }
                if matches!(self.keyed, KeyedPolicy::Refused) {
                    return Err(keyed_refused(call.func.name()).into());
                }
                let function = keyed::function_of(call)?;
                // What stands inside is compiled as an ordinary expression, which refuses another keyed call.
                let arg = self.compile(&call.args[0])?;
                let result_type = keyed::return_type(call.func.name(), &[arg.data_type(&self.schema())?]);
                let name = format!("__keyed_{}", self.keyed_calls + calls.len());
                functions.push(KeyedCall { function, arg, data_type: result_type });
                calls.push((node, name.clone()));
                Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name))))
            })?;
            result.push(replaced.data);
        }
        if !functions.is_empty() {
            let names = calls.into_iter().map(|(_, name)| name).collect();
            self.push_keyed_step(functions, names)?;
        }
        Ok(result)
    }

    fn push_keyed_step(&mut self, functions: Vec<KeyedCall>, names: Vec<String>) -> Result<()> {
        let KeyedPolicy::Allowed { key, relation } = &self.keyed else { return Ok(()) };
        let columns: Option<Vec<usize>> = key.iter().map(|origin| self.column_of(*origin)).collect();
        let Some(key) = columns else {
            return Err(SqlError::unplaced(format!("the subquery does not keep the key of `{relation}`, by which the rows before are found")).into());
        };
        for (function, name) in functions.iter().zip(&names) {
            let field = Arc::new(Field::new(name, function.data_type.clone(), true));
            self.physical.push(PhysicalColumn { qualifier: None, field, origin: None });
        }
        self.keyed_calls += functions.len();
        self.steps.push(Step::Keyed { functions, key, schema: self.schema() });
        Ok(())
    }

    /// Ends the rows as those of a view: the logical columns alone, under their names, in types that can leave.
    pub fn finish(&mut self) -> Result<SchemaRef> {
        let names: Vec<String> = self.logical.fields().iter().map(|f| f.name().clone()).collect();
        let mut seen: BTreeSet<&str> = self.keep_as.into_iter().collect();
        if let Some(taken) = self.keep_as.filter(|kept| names.iter().any(|name| name == kept)) {
            let message = format!("a view with `allowed_lateness` has a column `{taken}` of its own: how often its row was put right");
            return Err(SqlError::unplaced(message).hint("give the other column another name with `AS`").into());
        }
        if let Some(twice) = names.iter().find(|name| !seen.insert(name)) {
            return Err(SqlError::unplaced(format!("two columns are named `{twice}`")).hint("give one of them another name with `AS`").into());
        }
        if let Some(own) = names.iter().find(|name| name.starts_with('_')) {
            return Err(SqlError::unplaced(format!("column `{own}` begins with `_`: such names are Headend's own")).into());
        }
        self.finish_as(names)
    }

    /// Ends the rows as those of a view that the planner makes: any names will do.
    pub fn finish_inner(&mut self) -> Result<SchemaRef> {
        let mut seen = BTreeSet::new();
        let named = |(i, f): (usize, &FieldRef)| if seen.insert(f.name().clone()) { f.name().clone() } else { format!("{}${i}", f.name()) };
        let names = self.logical.fields().iter().enumerate().map(named).collect();
        self.finish_as(names)
    }

    fn finish_as(&mut self, names: Vec<String>) -> Result<SchemaRef> {
        let before = self.schema();
        let (mut exprs, mut physical) = (Vec::new(), Vec::new());
        for (name, place) in names.iter().zip(&self.places) {
            let Place::Physical(index) = place else {
                return Err(SqlError::unplaced("a window function needs `GROUP BY`").into());
            };
            let column = &self.physical[*index];
            let wanted = output_type(name, column.field.data_type())?;
            let expr = self.column_expr(*index);
            let changed = wanted != *column.field.data_type();
            exprs.push(if changed { Arc::new(CastExpr::new(expr, wanted.clone(), None)) as Compiled } else { expr });
            physical.push(PhysicalColumn { qualifier: None, field: Arc::new(Field::new(name, wanted, true)), origin: column.origin });
        }
        if let Some((name, kept)) = self.keep_as.zip(self.kept_column()) {
            exprs.push(self.column_expr(kept));
            let field = self.physical[kept].field.as_ref().clone().with_name(name);
            physical.push(PhysicalColumn { qualifier: None, field: Arc::new(field), origin: self.keep });
        }
        let untouched = exprs.len() == before.fields().len() && exprs.iter().enumerate().all(|(i, e)| column_index(e) == Some(i));
        self.places = (0..physical.len()).map(Place::Physical).collect();
        self.physical = physical;
        let schema = self.schema();
        self.logical = Arc::new(DFSchema::try_from(schema.as_ref().clone())?);
        match self.steps.last_mut() {
            Some(Step::Project { schema: last, .. }) if untouched => *last = schema.clone(),
            _ if untouched && schema.fields().iter().zip(before.fields()).all(|(a, b)| a.name() == b.name()) => {}
            _ => self.steps.push(Step::Project { exprs, schema: schema.clone() }),
        }
        Ok(schema)
    }

    /// The same steps over rows of `given`, where they were planned over rows of `planned`.
    pub fn over(mut self, given: &Schema, planned: &SchemaRef) -> Self {
        let column = |i: usize, field: &FieldRef| Arc::new(PhysicalColumnExpr::new(field.name(), i)) as Compiled;
        let pairs = given.fields().iter().zip(planned.fields()).enumerate();
        let exprs: Vec<Compiled> = pairs
            .map(|(i, (given, planned))| match given.data_type() == planned.data_type() {
                true => column(i, given),
                false => Arc::new(CastExpr::new(column(i, given), planned.data_type().clone(), None)),
            })
            .collect();
        if exprs.iter().any(|expr| column_index(expr).is_none()) {
            self.steps.insert(0, Step::Project { exprs, schema: planned.clone() });
        }
        self
    }

    /// Starts anew from `schema`: the same columns, but these types (a group's text is always `Utf8`), and casts back to what the
    /// plan above was typed with.
    pub fn with_types(mut self, schema: &Schema) -> Self {
        let planned = self.schema();
        for (column, field) in self.physical.iter_mut().zip(schema.fields()) {
            column.field = Arc::new(column.field.as_ref().clone().with_data_type(field.data_type().clone()));
        }
        if planned.fields().iter().zip(schema.fields()).all(|(a, b)| a.data_type() == b.data_type()) {
            return self;
        }
        let cast = |(i, field): (usize, &FieldRef)| Arc::new(CastExpr::new(self.column_expr(i), field.data_type().clone(), None)) as Compiled;
        let exprs = planned.fields().iter().enumerate().map(cast).collect();
        for (column, field) in self.physical.iter_mut().zip(planned.fields()) {
            column.field = field.clone();
        }
        self.steps.push(Step::Project { exprs, schema: planned });
        self
    }
}

fn column_index(expr: &Compiled) -> Option<usize> {
    expr.downcast_ref::<PhysicalColumnExpr>().map(PhysicalColumnExpr::index)
}

fn keyed_refused(name: &str) -> SqlError {
    SqlError::unplaced(format!("`{name}` looks at the rows before of the same key, and cannot stand here")).hint(
        "it stands in the select list or the `WHERE` of a view without `GROUP BY` and `JOIN` over rows that are never taken back, and not inside of itself",
    )
}

/// Types that every output knows.
fn output_type(name: &str, data_type: &DataType) -> Result<DataType> {
    Ok(match data_type {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => DataType::Utf8,
        DataType::Timestamp(..) => timestamp(),
        DataType::Boolean | DataType::Utf8 | DataType::Date32 | DataType::Decimal128(..) => data_type.clone(),
        DataType::List(item) | DataType::LargeList(item) => DataType::List(Arc::new(Field::new_list_field(output_type(name, item.data_type())?, true))),
        numeric if numeric.is_integer() || matches!(numeric, DataType::Float32 | DataType::Float64) => numeric.clone(),
        other => {
            let hint = match other {
                DataType::Interval(_) | DataType::Duration(_) => "write `extract(epoch FROM …)` for its seconds",
                _ => "cast it to a type that a source may have",
            };
            return Err(SqlError::unplaced(format!("column `{name}` is `{other}`, which no output can hold")).hint(hint).into());
        }
    })
}
