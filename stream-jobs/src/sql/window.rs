//! `TUMBLE`, `HOP`, `CUMULATE` and `SESSION` in `FROM`.

use super::{
    catalog::{RelationInfo, Scan},
    error::{SqlError, nearest},
    interval::{display_us, parse_duration_us},
};
use crate::windows::Windows;
use datafusion::{
    common::{DataFusionError, Result},
    logical_expr::{
        LogicalPlanBuilder,
        planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    },
    sql::sqlparser::{
        ast::{Expr as SqlExpr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Spanned, TableFactor},
        tokenizer::Location,
    },
};
use std::sync::Arc;

const DAY_US: i64 = 86_400_000_000;
const WINDOW_SIZE_US_MAX: i64 = 400 * DAY_US;
const WINDOW_PANES_MAX: i64 = 10_000;

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

pub(super) fn unknown_window_function(name: &str) -> SqlError {
    let message = format!("there is no window function `{name}`; window functions are `TUMBLE`, `HOP`, `CUMULATE` and `SESSION`");
    SqlError::unplaced(message).hint_opt(nearest(name, WINDOW_FUNCTIONS.map(|(known, _)| known)))
}

/// The window functions in `FROM`.
#[derive(Debug)]
pub(super) struct WindowPlanner;

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
