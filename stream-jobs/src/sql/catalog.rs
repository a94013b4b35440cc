//! What a query may name: the relations before it, DataFusion's functions and ours.

use super::{
    error::{SqlError, list, nearest},
    functions::{self, FunctionContext},
    interval::parse_duration_us,
    statement::timestamp,
    tokens::Tokens,
};
use crate::plan::Relation;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::{
    common::{DataFusionError, Result, TableReference, config::ConfigOptions},
    execution::SessionStateDefaults,
    logical_expr::{
        AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, Volatility, WindowUDF,
        planner::{ContextProvider, ExprPlanner, PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning, TypePlanner},
    },
    optimizer::Analyzer,
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
}

impl RelationInfo {
    /// The key by which its newest rows are a table: windows apart.
    pub fn table_key(&self) -> Vec<usize> {
        self.key.iter().copied().filter(|c| !self.window_columns.contains(c)).collect()
    }

    pub fn column_name(&self, index: usize) -> &str {
        self.schema.field(index).name()
    }
}

/// `TUMBLE` and `HOP`, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowCall {
    pub size_us: i64,
    pub slide_us: i64,
    pub offset_us: i64,
}

impl WindowCall {
    /// The greatest pane of which every window is a whole number; panes are aligned to the offset, as windows are.
    pub fn pane_us(&self) -> i64 {
        gcd(self.size_us, self.slide_us)
    }
}

pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A scan of a relation, through a window function or not. A windowed scan shows the window's bounds in place of columns
/// of the same name that the relation may have.
#[derive(Debug)]
pub(super) struct Scan {
    pub info: Arc<RelationInfo>,
    pub window: Option<WindowCall>,
    schema: SchemaRef,
}

impl Scan {
    fn new(info: Arc<RelationInfo>, window: Option<WindowCall>) -> Self {
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

pub(super) struct Catalog {
    relations: BTreeMap<String, Arc<RelationInfo>>,
    scalars: HashMap<String, Arc<ScalarUDF>>,
    aggregates: HashMap<String, Arc<AggregateUDF>>,
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
            expr_planners: SessionStateDefaults::default_expr_planners(),
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
    for function in functions::all(context) {
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
        let message = format!("there is no window function `{name}`; window functions are `TUMBLE` and `HOP`");
        Err(SqlError::unplaced(message).hint_opt(nearest(name, ["tumble", "hop"])).into())
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

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
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

/// `TUMBLE(relation, time, size [, offset])` and `HOP(relation, time, slide, size [, offset])` in `FROM`.
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
        let hop = match function.as_str() {
            "tumble" => false,
            "hop" => true,
            "cumulate" | "session" => return Err(SqlError::at(place, format!("`{}` is not part of this version", name)).hint("use `TUMBLE` or `HOP`").into()),
            other => {
                let message = format!("there is no window function `{other}`; window functions are `TUMBLE` and `HOP`");
                return Err(SqlError::at(place, message).hint_opt(nearest(other, ["tumble", "hop"])).into());
            }
        };
        let args = arguments(&args.args, place, hop)?;
        let info = relation_of(&args[0], context)?;
        check_time(&args[1], &info, context)?;
        let window = window_of(&args[2..], hop)?;
        let plan = LogicalPlanBuilder::scan(info.name.as_str(), Arc::new(Scan::new(info.clone(), Some(window))), None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

fn arguments(args: &[FunctionArg], place: Location, hop: bool) -> Result<Vec<SqlExpr>> {
    let (form, least) = if hop { ("`HOP(relation, time, slide, size [, offset])`", 4) } else { ("`TUMBLE(relation, time, size [, offset])`", 3) };
    let exprs: Option<Vec<SqlExpr>> = args
        .iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect();
    match exprs {
        Some(exprs) if exprs.len() == least || exprs.len() == least + 1 => Ok(exprs),
        _ => Err(SqlError::at(place, format!("expected {form}")).into()),
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

fn window_of(args: &[SqlExpr], hop: bool) -> Result<WindowCall> {
    let lengths = args.iter().map(interval_us).collect::<Result<Vec<i64>>>()?;
    let (slide_us, size_us, offset_us) = match (hop, lengths.as_slice()) {
        (true, [slide, size, rest @ ..]) => (*slide, *size, rest.first().copied().unwrap_or(0)),
        (_, [size, rest @ ..]) => (*size, *size, rest.first().copied().unwrap_or(0)),
        _ => (0, 0, 0),
    };
    let place = args.first().map_or_else(Location::empty, |arg| arg.span().start);
    let refused = |message: String| Err(SqlError::at(place, message).into());
    if size_us == 0 || slide_us == 0 {
        return refused("a window is longer than nothing".into());
    }
    if size_us > WINDOW_SIZE_US_MAX {
        return refused("a window is at most 400 days long".into());
    }
    if slide_us > size_us {
        return refused("the slide of `HOP` is at most its size: rows between the windows would be lost".into());
    }
    let window = WindowCall { size_us, slide_us, offset_us: offset_us % slide_us };
    let panes = size_us / window.pane_us();
    if panes > WINDOW_PANES_MAX {
        let error = SqlError::at(place, format!("a window of {panes} panes: at most {WINDOW_PANES_MAX} are kept"));
        return Err(error.hint("choose a longer slide").into());
    }
    Ok(window)
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
