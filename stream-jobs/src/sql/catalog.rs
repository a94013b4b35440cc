//! What a query may name: the relations before it, DataFusion's functions and ours.

use super::{
    error::{SqlError, list, nearest},
    functions::{self, FunctionContext},
    interval::{display_us, parse_duration_us},
    json::{self, JsonOperators},
    rows::Rows,
    statement::timestamp,
    tokens::Tokens,
};
use crate::{plan::Relation, windows::Windows};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::{
    common::{DFSchema, DataFusionError, Result, TableReference, config::ConfigOptions, tree_node::TreeNode},
    execution::SessionStateDefaults,
    logical_expr::{
        AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, Volatility, WindowUDF,
        planner::{ContextProvider, ExprPlanner, PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning, TypePlanner},
    },
    optimizer::{Analyzer, analyzer::type_coercion::TypeCoercionRewriter},
    sql::{
        planner::{ParserOptions, PlannerContext, SqlToRel},
        sqlparser::{
            ast::{
                DataType as SqlType, Expr as SqlExpr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, Spanned, Statement, TableFactor, TimezoneInfo,
            },
            tokenizer::Location,
        },
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

const DAY_US: i64 = 86_400_000_000;
const WINDOW_SIZE_US_MAX: i64 = 400 * DAY_US;
const WINDOW_PANES_MAX: i64 = 10_000;
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
    fn new(info: Arc<RelationInfo>, window: Option<Windows>) -> Self {
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

/// A window function in `FROM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowFunction {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

const WINDOW_FUNCTIONS: [(&str, WindowFunction); 4] =
    [("tumble", WindowFunction::Tumble), ("hop", WindowFunction::Hop), ("cumulate", WindowFunction::Cumulate), ("session", WindowFunction::Session)];

impl WindowFunction {
    fn of(name: &str, place: Location) -> Result<Self> {
        if let Some((_, function)) = WINDOW_FUNCTIONS.iter().find(|(known, _)| *known == name) {
            return Ok(*function);
        }
        Err(unknown_window_function(name).placed(place).into())
    }

    fn form(self) -> &'static str {
        match self {
            Self::Tumble => "`TUMBLE(relation, time, size [, offset])`",
            Self::Hop => "`HOP(relation, time, slide, size [, offset])`",
            Self::Cumulate => "`CUMULATE(relation, time, step, size [, offset])`",
            Self::Session => "`SESSION(relation, time, gap)`",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(usage, event_time, INTERVAL '1 minute')",
            Self::Hop => "HOP(usage, event_time, INTERVAL '1 minute', INTERVAL '1 hour')",
            Self::Cumulate => "CUMULATE(usage, event_time, INTERVAL '1 minute', INTERVAL '1 hour')",
            Self::Session => "SESSION(usage, event_time, INTERVAL '5 minutes')",
        }
    }

    /// The least and the greatest number of arguments.
    fn arguments(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Tumble => 3..=4,
            Self::Hop | Self::Cumulate => 4..=5,
            Self::Session => 3..=3,
        }
    }
}

fn unknown_window_function(name: &str) -> SqlError {
    let message = format!("there is no window function `{name}`; window functions are `TUMBLE`, `HOP`, `CUMULATE` and `SESSION`");
    SqlError::unplaced(message).hint_opt(nearest(name, WINDOW_FUNCTIONS.map(|(known, _)| known)))
}

/// The window functions in `FROM`.
#[derive(Debug)]
struct WindowPlanner;

impl RelationPlanner for WindowPlanner {
    fn plan_relation(&self, relation: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let function = match &relation {
            TableFactor::Table { name, args: Some(_), .. } => name.to_string().to_ascii_lowercase(),
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let TableFactor::Table { name, alias, args: Some(args), .. } = relation else {
            return Err(DataFusionError::Internal("a table function without arguments".into()));
        };
        let place = name.span().start;
        let function = WindowFunction::of(&function, place)?;
        let args = arguments(&args.args, place, function)?;
        let info = relation_of(&args[0], context)?;
        check_time(&args[1], &info, context)?;
        let window = window_of(&args[2..], function)?;
        let plan = LogicalPlanBuilder::scan(info.name.as_str(), Arc::new(Scan::new(info.clone(), Some(window))), None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

fn arguments(args: &[FunctionArg], place: Location, function: WindowFunction) -> Result<Vec<SqlExpr>> {
    let exprs: Option<Vec<SqlExpr>> = args
        .iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect();
    match exprs {
        Some(exprs) if function.arguments().contains(&exprs.len()) => Ok(exprs),
        _ => {
            let error = SqlError::at(place, format!("expected {}, found {} arguments", function.form(), args.len()));
            Err(error.hint(format!("for example `{}`", function.example())).into())
        }
    }
}

fn relation_of(arg: &SqlExpr, context: &mut dyn RelationPlannerContext) -> Result<Arc<RelationInfo>> {
    let SqlExpr::Identifier(ident) = arg else {
        return Err(SqlError::at(arg.span().start, "the first argument of a window function is the name of a relation").into());
    };
    let reference = context.object_name_to_table_reference(ObjectName::from(vec![ident.clone()]))?;
    let source = context.context_provider().get_table_source(reference).map_err(|e| match e {
        DataFusionError::External(inner) => match inner.downcast::<SqlError>() {
            Ok(own) => own.placed(ident.span.start).into(),
            Err(other) => DataFusionError::External(other),
        },
        other => other,
    })?;
    let scan = source.downcast_ref::<Scan>().ok_or_else(|| DataFusionError::Internal("a foreign table source".into()))?;
    Ok(scan.info.clone())
}

fn check_time(arg: &SqlExpr, info: &RelationInfo, context: &mut dyn RelationPlannerContext) -> Result<()> {
    let place = arg.span().start;
    let name = &info.name;
    let refused = |message: String| SqlError::at(place, message);
    if info.changes {
        let message = format!("a window needs rows that are never taken back, and `{name}` emits changes");
        return Err(refused(message).hint("window its input, or let it `EMIT ON WINDOW CLOSE`").into());
    }
    let Some(time) = info.time_column else {
        return Err(refused(format!("`{name}` has no time: none of its columns is the watermark's or a `window_end`")).into());
    };
    let time = info.column_name(time);
    let written = match arg {
        SqlExpr::Identifier(ident) => context.normalize_ident(Ident::clone(ident)),
        other => other.to_string(),
    };
    if written != time {
        return Err(refused(format!("the time of `{name}` is `{time}`, not `{written}`")).into());
    }
    Ok(())
}

fn window_of(args: &[SqlExpr], function: WindowFunction) -> Result<Windows> {
    let lengths = args.iter().map(interval_us).collect::<Result<Vec<i64>>>()?;
    let place = args.first().map_or_else(Location::empty, |arg| arg.span().start);
    let refused = |message: String| Err(SqlError::at(place, message).into());
    if function == WindowFunction::Session {
        let gap_us = lengths.first().copied().unwrap_or(0);
        return match gap_us {
            0 => {
                let error = SqlError::at(place, format!("the gap of a session is `{}`, expected more than nothing", args[0]));
                Err(error.hint("for example `INTERVAL '5 minutes'`").into())
            }
            _ if gap_us > WINDOW_SIZE_US_MAX => refused("the gap of `SESSION` is at most 400 days".into()),
            _ => Ok(Windows::Sessions { gap_us }),
        };
    }
    let (step_us, size_us, offset_us) = match (function, lengths.as_slice()) {
        (WindowFunction::Tumble, [size, rest @ ..]) => (*size, *size, rest.first().copied().unwrap_or(0)),
        (_, [step, size, rest @ ..]) => (*step, *size, rest.first().copied().unwrap_or(0)),
        _ => (0, 0, 0),
    };
    if size_us == 0 || step_us == 0 {
        return refused("a window is longer than nothing".into());
    }
    if size_us > WINDOW_SIZE_US_MAX {
        return refused(format!("a window of {} is too long: at most 400 days", display_us(size_us)));
    }
    let windows = if function == WindowFunction::Cumulate {
        if size_us % step_us != 0 {
            let message = format!("the step of `CUMULATE` is {}, which does not divide its size of {}", display_us(step_us), display_us(size_us));
            let hint =
                if step_us > size_us { "the step comes first and the size is a multiple of it" } else { "choose a step of which the size is a multiple" };
            return Err(SqlError::at(place, message).hint(hint).into());
        }
        Windows::Growing { size_us, step_us, offset_us: offset_us % size_us }
    } else {
        if step_us > size_us {
            let message =
                format!("the slide of `HOP`, {}, is at most its size, {}: rows between the windows would be lost", display_us(step_us), display_us(size_us));
            return Err(SqlError::at(place, message).hint("the slide stands before the size").into());
        }
        Windows::Sliding { size_us, slide_us: step_us, offset_us: offset_us % step_us }
    };
    let panes = size_us / windows.pane_us();
    if panes > WINDOW_PANES_MAX {
        let error = SqlError::at(place, format!("a window of {panes} panes: at most {WINDOW_PANES_MAX} are kept"));
        return Err(error.hint("choose a longer slide").into());
    }
    Ok(windows)
}

fn interval_us(arg: &SqlExpr) -> Result<i64> {
    let wrong = || SqlError::at(arg.span().start, format!("`{arg}` is no length of time")).hint("for example `INTERVAL '1 minute'`");
    let SqlExpr::Interval(interval) = arg else { return Err(wrong().into()) };
    let value = match interval.value.as_ref() {
        SqlExpr::Value(value) => value.value.clone().into_string().unwrap_or_default(),
        _ => String::new(),
    };
    let unit = interval.leading_field.as_ref().map(ToString::to_string).unwrap_or_default();
    Ok(parse_duration_us(&format!("{value} {unit}")).ok_or_else(wrong)?)
}
