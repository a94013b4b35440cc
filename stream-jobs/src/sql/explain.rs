//! The plan of a job for people and programs: what is read, kept, and sent, and what may be relied on.

use super::interval::display_us;
use crate::plan::{Aggregate, AggregateCall, AggregateFunction, Body, Emit, GroupColumn, Job, JoinKind, LatePolicy, Phase, Relation, Step, ViewSpec};
use crate::{
    nodes::emits_changes as emits_changes_below,
    state::{exact::ExactSum, number, whole},
    windows::Windows,
};
use arrow_schema::{DataType, Schema};
use serde_json::{Value, json};
use std::fmt::Write;

/// The plan as text.
pub fn explain(job: &Job) -> String {
    let plan = explain_json(job);
    let mut out = format!("job {} (sql {})\n", job.name, &job.sql_hash[..job.sql_hash.len().min(16)]);
    for (title, field) in [("sources", "sources"), ("views", "views"), ("sinks", "sinks"), ("alerts", "alerts")] {
        let entries = plan[field].as_array().map(Vec::as_slice).unwrap_or_default();
        if !entries.is_empty() {
            let _ = write!(out, "\n{title}\n");
            entries.iter().for_each(|entry| write_entry(&mut out, entry));
        }
    }
    let _ = writeln!(out, "\nepoch topics: {}", words(&plan["epoch_topics"]));
    out
}

fn write_entry(out: &mut String, entry: &Value) {
    let _ = writeln!(out, "  {}", words(&entry["name"]));
    for (name, value) in entry.as_object().into_iter().flatten() {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if name != "name" && !empty {
            let _ = writeln!(out, "    {:<14}{}", name.replace('_', " "), words(value));
        }
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.iter().map(|(name, value)| format!("{name}={}", words(value))).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The plan as a value for programs; the same facts.
pub fn explain_json(job: &Job) -> Value {
    let levels = job.views.iter().map(|v| v.level).max().unwrap_or(1).max(1);
    let mut topics: Vec<String> = (1..=levels).map(|level| format!("epochs.{}.l{level}", job.name)).collect();
    if !job.alerts.is_empty() || job.sinks.iter().any(|sink| sink.connector == "room" || sink.connector == "rooms") {
        topics.push(format!("epochs.{}.rooms", job.name));
    }
    json!({
        "job": job.name,
        "sql_hash": job.sql_hash,
        "sources": job.sources.iter().map(source).collect::<Vec<_>>(),
        "views": job.views.iter().filter(|v| !is_of_alerts(v)).map(|v| view(job, v)).collect::<Vec<_>>(),
        "sinks": job.sinks.iter().map(|s| json!({"name": s.name, "from": job.views[s.view].name, "connector": s.connector, "options": s.options})).collect::<Vec<_>>(),
        "alerts": job.alerts.iter().map(|a| alert(job, a)).collect::<Vec<_>>(),
        "epoch_topics": topics,
    })
}

/// What is told under the rule.
fn is_of_alerts(view: &ViewSpec) -> bool {
    matches!(view.body, Body::Candidates { .. } | Body::Alerts(_))
}

fn names(columns: &[usize], schema: &Schema) -> Vec<String> {
    columns.iter().map(|c| schema.field(*c).name().clone()).collect()
}

fn source(source: &crate::plan::SourceSpec) -> Value {
    let watermark = source.time_column.map(|c| format!("{} - {}", source.schema.field(c).name(), display_us(source.bound_us)));
    json!({
        "name": source.name,
        "kind": match (source.table, source.broadcast) { (false, _) => "stream", (true, false) => "table", (true, true) => "broadcast table" },
        "topic": source.topic,
        "key": names(&source.key, &source.schema),
        "watermark": watermark,
        "dedup": source.dedup.map(|(column, us)| format!("by {} within {}, 8 bytes a row of that time", source.schema.field(column).name(), display_us(us))),
        "misplaced": if source.trust_partition { "accepted" } else { "dead letter" },
        "max_skew": display_us(source.max_skew_us),
        "idle_timeout": display_us(source.idle_timeout_ms * 1_000),
    })
}

fn alert(job: &Job, alert: &crate::plan::AlertSpec) -> Value {
    json!({
        "name": alert.name,
        "on": job.views[alert.view].name,
        "raise": alert.raise_sql,
        "clear": alert.clear_sql,
        "severity": alert.severity,
        "for": display_us(alert.for_us),
        "min_hold": display_us(alert.min_hold_us),
        "flapping": alert.flapping.map(|f| format!("{} times in {}: one alert until it has been calm so long", f.times, display_us(f.within_us))),
        "inhibited_by": alert.inhibited_by.iter().map(|by| format!("{} by {}", by.rule, names(&by.columns, &job.views[alert.view].schema).join(" and "))).collect::<Vec<_>>(),
        "commands": alert.commands,
        "told_by": told_by(job, &alert.name),
        "rooms": alert.rooms,
        "version": alert.version,
    })
}

/// Where a rule's alerts are told, and in what order what they depend on is taken.
fn told_by(job: &Job, rule: &str) -> String {
    let told = job.views.iter().find_map(|view| match &view.body {
        Body::Candidates { alert, tells: true, .. } if job.alerts[*alert].name == rule => Some(format!("level {}, beside the view", view.level)),
        Body::Alerts(alerts) if job.alerts[alerts.alert].name == rule => {
            let order = if alerts.in_order { "in the order of event time" } else { "as it comes" };
            Some(format!("level {}, its alert task, which takes everything {order}", view.level))
        }
        _ => None,
    });
    told.unwrap_or_default()
}

fn view(job: &Job, view: &ViewSpec) -> Value {
    let (window, panes) = match &view.body {
        Body::Aggregate(aggregate) => (window(aggregate), panes(aggregate)),
        _ => (None, None),
    };
    let (rerun, why) = determinism(job, view);
    // Lateness is decided beside the rows, once.
    let decides_late = matches!(&view.body, Body::Aggregate(a) if a.window.is_some() && a.phase != Phase::Final);
    json!({
        "name": view.name,
        "made_by": (!view.visible).then_some("the planner"),
        "level": view.level,
        "reads": view.body.inputs().into_iter().map(|input| relation_name(job, input)).collect::<Vec<_>>(),
        "key": names(&view.key, &view.schema),
        "task_key": task_key(view),
        "window": window,
        "panes": panes,
        "emits": emission(job, view),
        "late": decides_late.then(|| late(view)),
        "results": format!("{rerun}: {why}"),
        "clock": view.uses_now.then(|| format!("now() is the watermark, in ticks of {}", display_us(tick_us(view)))),
        "state": state(job, view),
    })
}

fn task_key(view: &ViewSpec) -> Value {
    if view.partition_key.is_empty() {
        return match (view.level, &view.body) {
            (1, _) => json!("that of its input"),
            _ => json!("none: one task holds all rows"),
        };
    }
    json!(names(&view.partition_key, &view.schema))
}

fn tick_us(view: &ViewSpec) -> i64 {
    match view.emit {
        Emit::ChangesEvery { interval_us } => interval_us,
        _ => 3_600_000_000,
    }
}

fn relation_name(job: &Job, relation: Relation) -> &str {
    match relation {
        Relation::Source(index) => &job.sources[index].name,
        Relation::View(index) => &job.views[index].name,
    }
}

fn window(aggregate: &Aggregate) -> Option<String> {
    let windows = aggregate.window?.windows;
    let offset = if windows.offset_us() == 0 { String::new() } else { format!(", offset {}", display_us(windows.offset_us())) };
    Some(match windows {
        Windows::Sliding { size_us, slide_us, .. } if size_us == slide_us => format!("every {}{offset}", display_us(size_us)),
        Windows::Sliding { size_us, slide_us, .. } => format!("of {} sliding by {}{offset}", display_us(size_us), display_us(slide_us)),
        Windows::Growing { size_us, step_us, .. } => format!("growing by {} up to {}{offset}", display_us(step_us), display_us(size_us)),
        Windows::Sessions { gap_us } => format!("sessions: rows of a key less than {} apart", display_us(gap_us)),
    })
}

fn panes(aggregate: &Aggregate) -> Option<String> {
    let windows = aggregate.window?.windows;
    let pane_us = windows.pane_us();
    Some(format!("{} of {} a window", windows.size_us()? / pane_us, display_us(pane_us)))
}

fn emission(job: &Job, view: &ViewSpec) -> String {
    match (&view.body, view.emit) {
        (Body::Map { .. } | Body::Union(_), Emit::OnWindowClose) => "each row once, at once".into(),
        (Body::IntervalJoin(_), _) => "each pair once, when its second row is there".into(),
        (Body::AsOfJoin(_), _) => "each row once, when the watermark has passed it".into(),
        (Body::Map { .. }, _) => "changes, at once".into(),
        (Body::Aggregate(a), Emit::OnWindowClose) if a.phase == Phase::Partial => format!("states of panes to level {}, when the pane closes", view.level + 1),
        (_, Emit::OnWindowClose) => "each row once, when its window closes".into(),
        (_, Emit::Changes) if view.uses_now => "changes, at once and at each tick".into(),
        (_, Emit::Changes) => "changes, at once".into(),
        (_, Emit::ChangesEvery { interval_us }) => {
            format!("changes, every {} of event time, {} behind it", display_us(interval_us), display_us(bound_us(job, view)))
        }
    }
}

/// The greatest watermark bound below a view.
fn bound_us(job: &Job, view: &ViewSpec) -> i64 {
    let bound = |relation: Relation| match relation {
        Relation::Source(index) => job.sources[index].bound_us,
        Relation::View(index) => bound_us(job, &job.views[index]),
    };
    view.body.inputs().into_iter().map(bound).max().unwrap_or(0)
}

fn late(view: &ViewSpec) -> String {
    let policy = match view.late {
        LatePolicy::Side => "to the late output",
        LatePolicy::Drop => "dropped and counted",
    };
    match view.allowed_lateness_us {
        0 => policy.into(),
        us => format!("{policy}, after {} in which windows are corrected", display_us(us)),
    }
}

/// Whether other cuts of the same log give the same rows, and why (not).
fn determinism(job: &Job, view: &ViewSpec) -> (&'static str, String) {
    const INDEPENDENT: &str = "independent of the cut";
    const EXACT: &str = "replay-exact only";
    if let Some(table) = lookup_below(job, view) {
        return (EXACT, format!("it looks rows up in `{table}` as it stands at the time"));
    }
    match (&view.body, view.emit) {
        (Body::Map { .. }, Emit::OnWindowClose) if view.uses_now => (EXACT, "`now()` moves with the cuts".into()),
        (_, Emit::Changes) => (EXACT, "it emits changes at once; the rows at rest are the same".into()),
        (Body::Map { input, .. }, _) => match input {
            Relation::Source(_) => (INDEPENDENT, "each row by itself".into()),
            Relation::View(index) => determinism(job, &job.views[*index]),
        },
        (_, Emit::OnWindowClose) => match view.body.inputs().first() {
            Some(Relation::View(index)) => match determinism(job, &job.views[*index]) {
                (INDEPENDENT, _) => (INDEPENDENT, "results when the window closes".into()),
                (below, why) => (below, why),
            },
            _ => (INDEPENDENT, "results when the window closes".into()),
        },
        (_, Emit::ChangesEvery { .. }) => (INDEPENDENT, "changes at ticks of the watermark".into()),
    }
}

/// The table of a topic that a join at or below this view looks up.
fn lookup_below<'a>(job: &'a Job, view: &ViewSpec) -> Option<&'a str> {
    view.body.inputs().into_iter().find_map(|input| match input {
        Relation::Source(index) => job.sources[index].table.then_some(job.sources[index].name.as_str()),
        Relation::View(index) => lookup_below(job, &job.views[index]),
    })
}

/// Bytes of the columns that a group has, and how many of the aggregates keep their rows instead.
fn state_of_calls(aggregate: &Aggregate) -> (usize, usize) {
    /// The group's number, its key's, and the rows behind it.
    const GROUP_BYTES: usize = 16;
    /// A sum of floats without the parts that it needs seldom, and its count.
    const EXACT_BYTES: usize = size_of::<ExactSum>() + 8;
    // Where every row brings a value, these are the rows behind the group.
    let count = |call: &AggregateCall| if call.filter.is_some() { 8 } else { 0 };
    let bytes = |call: &AggregateCall| match &call.function {
        AggregateFunction::Count => count(call),
        AggregateFunction::Avg => EXACT_BYTES,
        AggregateFunction::Sum if call.data_type == DataType::Float64 => EXACT_BYTES,
        AggregateFunction::Sum => count(call) + whole::kept_type(&call.data_type).primitive_width().unwrap_or(32),
        AggregateFunction::Min | AggregateFunction::Max if number::is_i64(&call.data_type) => count(call) + 8,
        AggregateFunction::Min | AggregateFunction::Max => 8 + call.data_type.primitive_width().unwrap_or(32),
        AggregateFunction::FirstValue | AggregateFunction::LastValue => 16 + call.data_type.primitive_width().unwrap_or(32),
        AggregateFunction::DataFusion(_) => 24,
    };
    let kept = aggregate.aggregates.iter().filter(|call| matches!(call.function, AggregateFunction::DataFusion(_))).count();
    (GROUP_BYTES + aggregate.aggregates.iter().map(bytes).sum::<usize>(), kept)
}

fn state(job: &Job, view: &ViewSpec) -> String {
    match &view.body {
        Body::Map { steps, .. } => {
            let functions = steps.iter().map(|step| if let Step::Keyed { functions, .. } = step { functions.len() } else { 0 }).sum::<usize>();
            if functions == 0 { "none".into() } else { format!("earlier values of each key, for {functions} calls of keyed functions") }
        }
        Body::Aggregate(aggregate) => {
            let keys = aggregate.group.iter().filter(|g| matches!(g, GroupColumn::Expr(_))).count();
            let by = if aggregate.by_record_key { "the record's key".into() } else { format!("{keys} columns") };
            let unit = match aggregate.window.map(|window| window.windows) {
                Some(Windows::Sessions { .. }) => "an open session and group",
                Some(_) => "a pane and group",
                None => "a group",
            };
            let (columns, kept) = state_of_calls(aggregate);
            let rows = if kept == 0 { String::new() } else { format!(", and the arguments of every row for {kept} of them") };
            format!("{} aggregates {unit}, about {columns} bytes{rows}, groups by {by}", aggregate.aggregates.len())
        }
        Body::Union(_) => "none".into(),
        Body::Candidates { .. } | Body::Alerts(_) => "open alerts".into(),
        Body::PairJoin(join) => {
            let name = |input| relation_name(job, input);
            format!("the newest row a key of {} and of {}, and each joined row", name(join.left.input), name(join.right.input))
        }
        Body::IntervalJoin(join) => {
            let (left, right) = (relation_name(job, join.left.input), relation_name(job, join.right.input));
            let kept = |us: i64| display_us(us.max(join.upper_us - join.lower_us).max(0));
            format!("rows of {left} for {}, of {right} for {} behind the watermark", kept(join.upper_us), kept(-join.lower_us))
        }
        Body::AsOfJoin(join) => {
            let (stream, table) = (relation_name(job, join.stream.input), relation_name(job, join.table.input));
            format!("rows of {stream} until the watermark passes them, and of {table} those of 400 days behind it, and the one before a key")
        }
        Body::Rank(rank) if emits_changes_below(job, rank.input) => "every row below, by partition and order".into(),
        Body::Rank(rank) => format!("{} rows a partition", rank.limit),
        Body::Join(join) => {
            let side = |side: &crate::plan::JoinSide| format!("{}{}", if side.kind == JoinKind::Left { "left " } else { "" }, relation_name(job, side.input));
            format!("the newest row a key of {}", join.sides.iter().map(side).collect::<Vec<_>>().join(", "))
        }
    }
}
