//! What a changed job has of the one before it: which views go on with their state, which begin, and what cannot go on.
//!
//! A view goes on when it is planned as it was and everything that it reads goes on. What is new begins with what comes after the change:
//! views that keep nothing at once, windows with the first that no row from before the change belongs to. A view whose rows
//! stand on everything that ever came can only begin where the log is read from its beginning.

use crate::{
    nodes::{emits_changes, feeds_tables},
    plan::{Aggregate, AggregateCall, AggregateFunction, Body, Job, Phase, Relation, SourceSpec, Step, ViewSpec},
};
use arrow_schema::{Schema, SchemaRef};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// How a view of the new job comes to its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has the state that it had.
    GoesOn,
    /// It has the state that it had, and aggregates more, which begin with the first window that no row from before the change belongs to.
    GoesOnWithMore,
    /// All that it reads is read from its beginning.
    FromBeginning,
    /// It begins with the first window that no row from before the change belongs to.
    NextWindow,
    /// It keeps nothing, and begins with what comes next.
    Now,
}

/// A change that a running job can take.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// By name, views of the planner's own too.
    views: BTreeMap<String, Fate>,
    /// The aggregates that a view had to which more were added.
    had: BTreeMap<String, Vec<AggregateCall>>,
    /// Sources that mean what they meant.
    sources: BTreeSet<String>,
    /// The levels at which they were read: there their place in the log, their watermark and their rows are still good.
    read: BTreeSet<(String, u8)>,
    /// What a person is told: new, changed and removed views and rules.
    told: Vec<String>,
}

/// Why a view cannot go on, and that it can be built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub view: String,
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view `{}` {}", self.view, self.why)
    }
}

impl Change {
    /// Compares two plans, each fresh from its SQL.
    ///
    /// # Errors
    /// Every view that has no state to go on with and cannot begin in the middle.
    pub fn between(old: &Job, new: &Job) -> Result<Self, Vec<Refusal>> {
        let goes_on = |source: &&SourceSpec| old.sources.iter().any(|before| before.name == source.name && reads_on(before, source));
        let sources = new.sources.iter().filter(goes_on).map(|s| s.name.clone()).collect();
        let of_view = |view: &ViewSpec| -> Vec<(String, u8)> {
            let source = |input: Relation| if let Relation::Source(s) = input { Some((old.sources[s].name.clone(), view.level)) } else { None };
            view.body.inputs().into_iter().filter_map(source).collect()
        };
        let mut change = Self { sources, read: old.views.iter().flat_map(of_view).collect(), ..Self::default() };
        let mut refused: Vec<Refusal> = Vec::new();
        for (i, view) in new.views.iter().enumerate() {
            match change.fate_of(old, new, i) {
                Ok(fate) => {
                    if fate == Fate::GoesOnWithMore {
                        let had = old.views.iter().find(|v| v.name == view.name).map(|v| calls_of(v).to_vec());
                        change.had.insert(view.name.clone(), had.unwrap_or_default());
                    }
                    change.views.insert(view.name.clone(), fate);
                }
                Err(why) => {
                    let name = seen_name(&view.name).to_owned();
                    if refused.iter().all(|r| r.view != name) {
                        refused.push(Refusal { view: name, why: why.to_owned() });
                    }
                    change.views.insert(view.name.clone(), Fate::Now);
                }
            }
        }
        change.told = change.tell(old, new);
        if refused.is_empty() { Ok(change) } else { Err(refused) }
    }

    pub fn fate(&self, view: &str) -> Option<Fate> {
        self.views.get(view).copied()
    }

    /// The aggregates of a view before more were added.
    pub fn had(&self, view: &str) -> &[AggregateCall] {
        self.had.get(view).map_or(&[], Vec::as_slice)
    }

    /// The view has the state that it had.
    pub fn goes_on(&self, view: &str) -> bool {
        matches!(self.fate(view), Some(Fate::GoesOn | Fate::GoesOnWithMore))
    }

    /// The source means what it meant.
    pub fn is_as_it_was(&self, source: &str) -> bool {
        self.sources.contains(source)
    }

    /// The tasks of the level have read the source, and go on with it.
    pub fn source_goes_on(&self, source: &str, level: u8) -> bool {
        self.is_as_it_was(source) && self.read.contains(&(source.to_owned(), level))
    }

    /// A sentence for everything that is not as it was.
    pub fn told(&self) -> &[String] {
        &self.told
    }

    fn fate_of(&self, old: &Job, new: &Job, i: usize) -> Result<Fate, &'static str> {
        let view = &new.views[i];
        let before = old.views.iter().position(|v| v.name == view.name);
        let inputs = view.body.inputs();
        let input_goes_on = |input: &Relation| match *input {
            Relation::Source(s) => self.source_goes_on(&new.sources[s].name, view.level),
            Relation::View(v) => self.goes_on(&new.views[v].name),
        };
        let Some(before) = before else { return self.beginning(new, i) };
        let same = identity(old, before) == identity(new, i);
        if same && inputs.iter().all(input_goes_on) {
            return Ok(Fate::GoesOn);
        }
        if keeps_nothing(old, before) && keeps_nothing(new, i) || is_alert(view) {
            return Ok(Fate::Now);
        }
        if inputs.iter().all(input_goes_on) && has_more(old, before, new, i) {
            return Ok(Fate::GoesOnWithMore);
        }
        Err(if same {
            "reads something that was changed, and its rows are made of both; give both another name, and they begin anew"
        } else {
            "is not what it was, and its state is of the old one; under another name it begins anew"
        })
    }

    /// How a view begins that was not there.
    fn beginning(&self, new: &Job, i: usize) -> Result<Fate, &'static str> {
        let view = &new.views[i];
        let inputs = view.body.inputs();
        let is_whole = |input: &Relation| match *input {
            Relation::Source(s) => !self.source_goes_on(&new.sources[s].name, view.level),
            Relation::View(v) => self.fate(&new.views[v].name) == Some(Fate::FromBeginning),
        };
        if inputs.iter().all(is_whole) {
            return Ok(Fate::FromBeginning);
        }
        if keeps_nothing(new, i) || is_alert(view) {
            return Ok(Fate::Now);
        }
        match &view.body {
            Body::Aggregate(a) if a.window.is_some() && !emits_changes(new, a.input) && !shows_one_window(new, i) => Ok(Fate::NextWindow),
            Body::Rank(rank) if is_of_new_windows(self, new, view, rank.input) => Ok(Fate::NextWindow),
            Body::Aggregate(a) if a.window.is_some() => Err("has windows over rows that change, and those that stand came before it"),
            Body::Aggregate(_) => Err("is an aggregate of all rows that ever came, and those that came before it are not in its state"),
            Body::Map { .. } => Err("looks at the rows before a row, and those that came before it are not in its state"),
            _ => Err("keeps rows, and those that came before it are not in its state"),
        }
    }

    fn tell(&self, old: &Job, new: &Job) -> Vec<String> {
        let mut told = Vec::new();
        for source in new.sources.iter().filter(|s| !self.is_as_it_was(&s.name)) {
            told.push(format!("`{}` is read from the beginning of `{}`", source.name, source.topic));
        }
        for view in new.views.iter().filter(|v| v.visible && !is_alert(v)) {
            let was = old.views.iter().any(|v| v.name == view.name);
            told.extend(match self.fate(&view.name) {
                None | Some(Fate::GoesOn) => None,
                Some(Fate::GoesOnWithMore) => Some(format!("view `{}` has new aggregates: null in the windows that rows from before belong to", view.name)),
                Some(Fate::FromBeginning) => Some(format!("view `{}` begins with its sources", view.name)),
                Some(Fate::NextWindow) => Some(format!("view `{}` begins with the first window that no row from before belongs to", view.name)),
                Some(Fate::Now) if was => Some(format!("view `{}` is another one from here on", view.name)),
                Some(Fate::Now) => Some(format!("view `{}` begins with the next row", view.name)),
            });
        }
        for view in old.views.iter().filter(|v| v.visible && !is_alert(v) && new.views.iter().all(|n| n.name != v.name)) {
            told.push(format!("view `{}` is gone, and its state with it", view.name));
        }
        for rule in &new.alerts {
            match old.alerts.iter().find(|r| r.name == rule.name) {
                None => told.push(format!("alert `{}` is new", rule.name)),
                Some(before) if before.version != rule.version => told.push(format!("alert `{}` is another rule: what is open of it expires", rule.name)),
                Some(_) => {}
            }
        }
        for rule in old.alerts.iter().filter(|rule| new.alerts.iter().all(|r| r.name != rule.name)) {
            told.push(format!("alert `{}` is gone: what is open of it expires", rule.name));
        }
        told
    }
}

/// The view that a person knows, of one that the planner made.
fn seen_name(name: &str) -> &str {
    name.split('$').next().unwrap_or(name)
}

fn is_alert(view: &ViewSpec) -> bool {
    matches!(view.body, Body::Candidates { .. } | Body::Alerts(_))
}

/// True where the new source goes on from where the old one stands: the same records mean the same rows, and more columns may follow.
fn reads_on(old: &SourceSpec, new: &SourceSpec) -> bool {
    let (before, after) = (old.schema.fields(), new.schema.fields());
    let columns = if new.table { before == after } else { after.len() >= before.len() && before.iter().zip(after).all(|(a, b)| a == b) };
    let of = |s: &SourceSpec| (s.topic.clone(), s.key.clone(), s.time_column, s.bound_us, s.table, s.broadcast, s.dedup);
    columns && of(old) == of(new)
}

/// True where a row depends on no other.
fn keeps_nothing(job: &Job, i: usize) -> bool {
    let view = &job.views[i];
    match &view.body {
        Body::Map { input, steps, .. } => {
            let looks_back = steps.iter().any(|s| matches!(s, Step::Keyed { .. }));
            let keeps_rows = view.uses_now && emits_changes(job, *input);
            !looks_back && !keeps_rows
        }
        Body::Union(_) => true,
        _ => false,
    }
}

/// A windowed table that shows the window at hand, for joins: it has no first window that is whole.
fn shows_one_window(job: &Job, i: usize) -> bool {
    job.views[i].emit != crate::plan::Emit::OnWindowClose && feeds_tables(job, i)
}

/// A rank in the windows of a view that begins with a window.
fn is_of_new_windows(change: &Change, job: &Job, view: &ViewSpec, input: Relation) -> bool {
    let Relation::View(below) = input else { return false };
    let has_window = view.key.iter().any(|c| view.schema.field(*c).name().starts_with("window_"));
    has_window && change.fate(&job.views[below].name) == Some(Fate::NextWindow)
}

fn calls_of(view: &ViewSpec) -> &[AggregateCall] {
    if let Body::Aggregate(aggregate) = &view.body { &aggregate.aggregates } else { &[] }
}

/// True where the windows of a view are as they were, and it has every aggregate that it had.
fn has_more(old: &Job, before: usize, new: &Job, after: usize) -> bool {
    let is_plain = |job: &Job, i: usize| {
        let windowed = |a: &Aggregate| a.phase == Phase::Single && a.window.is_some_and(|w| w.windows.size_us().is_some());
        matches!(&job.views[i].body, Body::Aggregate(a) if windowed(a)) && !shows_one_window(job, i)
    };
    let frame = |job: &Job, i: usize| {
        let mut frame =
            Job { views: job.views.clone(), sources: job.sources.clone(), name: String::new(), sql_hash: String::new(), sinks: Vec::new(), alerts: Vec::new() };
        let view = &mut frame.views[i];
        view.schema = SchemaRef::new(Schema::empty());
        if let Body::Aggregate(a) = &mut view.body {
            (a.aggregates, a.post, a.schema) = (Vec::new(), Vec::new(), SchemaRef::new(Schema::empty()));
        }
        identity(&frame, i)
    };
    let all_there = || calls_of(&old.views[before]).iter().all(|call| calls_of(&new.views[after]).iter().any(|c| is_same_call(call, c)));
    is_plain(old, before) && is_plain(new, after) && all_there() && frame(old, before) == frame(new, after)
}

/// True where two calls make the same of the same rows.
pub fn is_same_call(a: &AggregateCall, b: &AggregateCall) -> bool {
    let text = |call: &AggregateCall| {
        let plain = AggregateCall { function: AggregateFunction::Count, ..call.clone() };
        without_lookups(&format!("{} {plain:?}", function_text(&call.function)))
    };
    text(a) == text(b)
}

/// DataFusion's own functions carry the whole schema of what they read, which may have more columns than before.
fn function_text(function: &AggregateFunction) -> String {
    match function {
        AggregateFunction::DataFusion(f) => format!("{} {} {} {}", f.fun().name(), f.name(), f.is_distinct(), f.ignore_nulls()),
        own => format!("{own:?}"),
    }
}

/// Everything that a view's state depends on, as text: its plan, with what it reads by name.
pub fn identity(job: &Job, i: usize) -> String {
    let view = &job.views[i];
    let inputs: Vec<(&str, bool)> = view.body.inputs().into_iter().map(|input| (name_of(job, input), emits_changes(job, input))).collect();
    let mut placeless = ViewSpec { sql: String::new(), ..view.clone() };
    for (place, input) in placeless.body.inputs_mut().into_iter().enumerate() {
        *input = match *input {
            Relation::Source(_) => Relation::Source(place),
            Relation::View(_) => Relation::View(place),
        };
    }
    let mut functions = Vec::new();
    match &mut placeless.body {
        // A rule may change under its alerts: they know its version.
        Body::Candidates { alert, .. } => *alert = 0,
        Body::Alerts(alerts) => alerts.alert = 0,
        Body::Aggregate(aggregate) => {
            for call in &mut aggregate.aggregates {
                functions.push(function_text(&std::mem::replace(&mut call.function, AggregateFunction::Count)));
            }
        }
        _ => {}
    }
    // Who reads a windowed table decides what it shows.
    let is_read_as_table = matches!(&view.body, Body::Aggregate(a) if a.window.is_some()) && feeds_tables(job, i);
    without_lookups(&format!("{placeless:?} {inputs:?} {functions:?} {is_read_as_table}"))
}

/// A plan's text without the maps in which DataFusion looks the branches of `CASE x WHEN` up: they are made out of the branches, which stand
/// beside them, and their order is another each time.
fn without_lookups(text: &str) -> String {
    const MAP: &str = "map: {";
    let mut kept = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if !quoted && rest.starts_with(MAP) {
            rest = rest.split_once('}').map_or("", |(_, behind)| behind);
            continue;
        }
        quoted ^= next == '"' && !escaped;
        escaped = next == '\\' && !escaped;
        kept.push(next);
        rest = &rest[next.len_utf8()..];
    }
    kept
}

fn name_of(job: &Job, relation: Relation) -> &str {
    match relation {
        Relation::Source(s) => &job.sources[s].name,
        Relation::View(v) => &job.views[v].name,
    }
}
