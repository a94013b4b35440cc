//! What a query may name: the relations before it, DataFusion's functions and ours.

use super::{
    error::{SqlError, list, nearest},
    functions::{self, FunctionContext},
    json::{self, JsonOperators},
    rows::Rows,
    statement::timestamp,
    tokens::Tokens,
    window::{WindowPlanner, unknown_window_function},
};
use crate::{plan::Relation, windows::Windows};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::{
    common::{DFSchema, Result, TableReference, config::ConfigOptions, tree_node::TreeNode},
    execution::SessionStateDefaults,
    logical_expr::{
        AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, Volatility, WindowUDF,
        planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner},
    },
    optimizer::{Analyzer, analyzer::type_coercion::TypeCoercionRewriter},
    sql::{
        planner::{ParserOptions, PlannerContext, SqlToRel},
        sqlparser::ast::{DataType as SqlType, Expr as SqlExpr, Query, Statement, TimezoneInfo},
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

pub(super) const WINDOW_START: &str = "window_start";
pub(super) const WINDOW_END: &str = "window_end";

/// Functions that look outside of the rows; in their place stand `now()` and columns.
const NOT_REPLAYABLE: [&str; 9] = ["random", "uuid", "current_date", "current_time", "today", "input_file_name", "file_row_index", "version", "arrow_metadata"];

/// A source, table or view, as the queries after it see it.
#[derive(Debug, Clone)]
pub(super) struct RelationInfo {
    pub name: String,
    pub relation: Relation,
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// Those columns of the key that are bounds of a window.
    pub window_columns: Vec<usize>,
    pub time_column: Option<usize>,
    /// The time is 1 µs before the value of the time column.
    pub time_is_window_end: bool,
    /// The key of the task that holds a row; `None` when it is not among the columns.
    pub partition: Option<Vec<usize>>,
    pub level: u8,
    /// Rows of it may be taken back: upserts and deletes.
    pub changes: bool,
    /// `CREATE SOURCE`: rows that are no table yet.
    pub stream: bool,
    pub broadcast: bool,
    /// A part of the statement that is being planned: what the statement says of emission is meant for it.
    pub part: bool,
}

impl RelationInfo {
    /// The key by which its newest rows are a table: windows apart.
    pub fn table_key(&self) -> Vec<usize> {
        self.key.iter().copied().filter(|c| !self.window_columns.contains(c)).collect()
    }

    /// The relation as its rows are after filters and projections: a column that was lost is none.
    pub fn after(&self, rows: &Rows) -> Self {
        let kept = |columns: &[usize]| columns.iter().map(|column| rows.column_of(*column)).collect::<Option<Vec<usize>>>();
        Self {
            schema: rows.schema(),
            key: kept(&self.key).unwrap_or_default(),
            window_columns: self.window_columns.iter().filter_map(|column| rows.column_of(*column)).collect(),
            time_column: self.time_column.and_then(|time| rows.column_of(time)),
            partition: self.partition.as_ref().and_then(|columns| kept(columns)),
            ..self.clone()
        }
    }

    pub fn column_name(&self, index: usize) -> &str {
        self.schema.field(index).name()
    }
}

/// A scan of a relation, through a window function or not. A windowed scan shows the window's bounds in place of columns
/// of the same name that the relation may have.
#[derive(Debug)]
pub(super) struct Scan {
    pub info: Arc<RelationInfo>,
    pub window: Option<Windows>,
    schema: SchemaRef,
}

impl Scan {
    pub fn new(info: Arc<RelationInfo>, window: Option<Windows>) -> Self {
        let schema = match window {
            None => info.schema.clone(),
            Some(_) => {
                let own = info.schema.fields().iter().filter(|f| f.name() != WINDOW_START && f.name() != WINDOW_END).cloned();
                let bounds = [WINDOW_START, WINDOW_END].map(|name| Arc::new(Field::new(name, timestamp(), true)));
                Arc::new(Schema::new(own.chain(bounds).collect::<Vec<FieldRef>>()))
            }
        };
        Self { info, window, schema }
    }
}

impl TableSource for Scan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

#[derive(Clone)]
pub(super) struct Catalog {
    relations: BTreeMap<String, Arc<RelationInfo>>,
    scalars: HashMap<String, Arc<ScalarUDF>>,
    aggregates: HashMap<String, Arc<AggregateUDF>>,
    row_number: Option<Arc<WindowUDF>>,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    options: ConfigOptions,
    pub functions: FunctionContext,
}

impl Catalog {
    pub fn new(functions: &FunctionContext) -> Self {
        let mut options = ConfigOptions::new();
        // Text is `Utf8` from the decoder to the sinks: one layout, one hash.
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.collect_spans = true;
        // An `ORDER BY` must reach us to be refused.
        options.sql_parser.enable_subquery_sort_elimination = false;
        options.execution.time_zone = Some("UTC".into());
        Self {
            relations: BTreeMap::new(),
            scalars: scalar_functions(functions),
            aggregates: aggregate_functions(),
            row_number: SessionStateDefaults::default_window_functions().into_iter().find(|function| function.name() == "row_number"),
            expr_planners: std::iter::once(Arc::new(JsonOperators) as Arc<dyn ExprPlanner>).chain(SessionStateDefaults::default_expr_planners()).collect(),
            relation_planners: vec![Arc::new(WindowPlanner)],
            options,
            functions: functions.clone(),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Arc<RelationInfo>> {
        self.relations.get(name)
    }

    pub fn add(&mut self, info: RelationInfo) {
        self.relations.insert(info.name.clone(), Arc::new(info));
    }

    pub fn has_function(&self, name: &str) -> bool {
        self.scalars.contains_key(name) || self.aggregates.contains_key(name)
    }

    pub fn add_function(&mut self, function: ScalarUDF) {
        self.scalars.insert(function.name().to_string(), Arc::new(function));
    }

    /// An expression over the columns of `schema`, with its types made to fit.
    pub fn plan_expression(&self, expr: SqlExpr, schema: &DFSchema) -> Result<Expr> {
        let expr = self.planner().sql_to_expr(expr, schema, &mut PlannerContext::new())?;
        expr.rewrite(&mut TypeCoercionRewriter::new(schema)).map(|coerced| coerced.data)
    }

    pub fn unknown_relation(&self, name: &str) -> SqlError {
        let names: Vec<&str> = self.relations.keys().map(String::as_str).collect();
        let known = if names.is_empty() { "none stands before".into() } else { format!("before it stand {}", list(&names)) };
        SqlError::unplaced(format!("there is no relation `{name}`; {known}")).hint_opt(nearest(name, names))
    }

    pub fn plan_query(&self, query: Box<Query>) -> Result<LogicalPlan> {
        self.planner().sql_statement_to_plan(Statement::Query(query))
    }

    /// `expr` over the columns of a relation, typed.
    pub fn plan_condition(&self, expr: SqlExpr, info: &Arc<RelationInfo>) -> Result<LogicalPlan> {
        let scan = LogicalPlanBuilder::scan(info.name.as_str(), Arc::new(Scan::new(info.clone(), None)), None)?;
        let expr = self.planner().sql_to_expr(expr, scan.schema(), &mut PlannerContext::new())?;
        match expr.get_type(scan.schema())? {
            DataType::Boolean => scan.filter(expr)?.build(),
            other => Err(SqlError::unplaced(format!("the condition is `{other}`, expected a boolean")).into()),
        }
    }

    fn planner(&self) -> SqlToRel<'_, Self> {
        SqlToRel::new_with_options(self, ParserOptions::from(&self.options.sql_parser))
    }

    pub fn analyze(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        Analyzer::new().execute_and_check(plan, &self.options, |_, _| {})
    }

    /// A better sentence for DataFusion's ``Invalid function `x` ``.
    pub fn unknown_function(&self, message: &str, tokens: &Tokens) -> Option<SqlError> {
        let name = message.split_once("Invalid function '")?.1.split('\'').next()?;
        let place = tokens.find_call(name).or_else(|| tokens.find_word(name)).unwrap_or_else(|| tokens.start());
        if NOT_REPLAYABLE.contains(&name) {
            let message = format!("`{name}` is not allowed in a job: it would give another value on every replay");
            return Some(SqlError::at(place, message).hint("for the time write `now()`"));
        }
        if matches!(name, "tumble" | "hop" | "cumulate" | "session") {
            return Some(SqlError::at(place, format!("`{name}` stands in `FROM`")));
        }
        let known = self.scalars.keys().chain(self.aggregates.keys()).map(String::as_str);
        Some(SqlError::at(place, format!("there is no function `{name}`")).hint_opt(nearest(name, known)))
    }
}

fn scalar_functions(context: &FunctionContext) -> HashMap<String, Arc<ScalarUDF>> {
    let mut functions = HashMap::new();
    for function in SessionStateDefaults::default_scalar_functions() {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            let replayable = function.signature().volatility == Volatility::Immutable && !NOT_REPLAYABLE.contains(&name);
            if replayable {
                functions.insert(name.to_string(), function.clone());
            }
        }
    }
    for function in functions::all(context).into_iter().chain(json::all()) {
        functions.insert(function.name().to_string(), Arc::new(function));
    }
    if let Some(now) = functions.get("now").cloned() {
        functions.insert("current_timestamp".into(), now);
    }
    functions
}

fn aggregate_functions() -> HashMap<String, Arc<AggregateUDF>> {
    let mut functions = HashMap::new();
    for function in SessionStateDefaults::default_aggregate_functions() {
        for name in std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str)) {
            functions.insert(name.to_string(), function.clone());
        }
    }
    functions
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let info = self.get(name.table()).ok_or_else(|| self.unknown_relation(name.table()))?;
        Ok(Arc::new(Scan::new(info.clone(), None)))
    }

    fn get_table_function_source(&self, name: &str, _args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        Err(unknown_window_function(name).into())
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(name).cloned()
    }

    /// `ROW_NUMBER` alone has a meaning here; an aggregate with `OVER` is refused where its plan is met.
    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.row_number.iter().find(|function| function.name() == name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.scalars.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Every time of a job is in UTC microseconds.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let time =
            matches!(sql_type, SqlType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::Tz | TimezoneInfo::WithTimeZone | TimezoneInfo::WithoutTimeZone));
        Ok(time.then(|| Arc::new(Field::new("", timestamp(), true))))
    }
}
