//! The views of one level as nodes in dependency order: who reads whom, and what leaves the task.

use crate::{
    change::{Change, Fate},
    delta::Delta,
    ops::{
        Context, Effects, Flow, OpError, Operator,
        alert::AlertOperator,
        alert_task::AlertTaskOperator,
        as_of::AsOfOperator,
        candidates::CandidatesOperator,
        group::{GroupOperator, Route},
        interval_join::IntervalJoinOperator,
        join::JoinOperator,
        map::MapOperator,
        nullable,
        pair_join::PairJoinOperator,
        rank::RankOperator,
        session::SessionOperator,
        table::TableOperator,
        union::UnionOperator,
        window::WindowOperator,
    },
    plan::{Body, Emit, Job, Join, JoinKind, JoinSide, Phase, Relation, Side, Step, ViewSpec},
    state::{Frozen, Pieces, StateError},
    status::{HeldBy, ViewStatus},
    task::Partitions,
    upstream::write_rows,
    windows::Windows,
};
use arrow_schema::SchemaRef;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The tick of `now()` in a view that names none.
const NOW_TICK_US: i64 = 3_600_000_000;

/// What a node reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    Source(usize),
    /// A table's topic: its rows as they come.
    Rows(usize),
    View(usize),
}

impl From<Relation> for Input {
    fn from(relation: Relation) -> Self {
        match relation {
            Relation::Source(i) => Self::Source(i),
            Relation::View(i) => Self::View(i),
        }
    }
}

pub struct Node {
    view: usize,
    spec: Arc<ViewSpec>,
    operator: Box<dyn Operator>,
    inputs: Vec<Input>,
    /// What an input gives that has nothing.
    empties: Vec<Flow>,
    tick_us: i64,
    /// `now()` of the last epoch: where it stays once every input has ended.
    last_now: i64,
    leaves: bool,
    sends_states: bool,
    /// A table with a time holds the watermark of the view back.
    waits_for_tables: bool,
    /// It reads tables without a time, and nothing else.
    is_timeless: bool,
    seen: Seen,
}

/// What a node has seen since the task was taken over.
#[derive(Default)]
struct Seen {
    watermark: Option<i64>,
    /// Watermarks of the inputs that count, in the last pass.
    inputs: Vec<(Input, Option<i64>)>,
    rows_in: u64,
    rows_out: u64,
    late: u64,
    filtered: u64,
}

impl Node {
    pub fn name(&self) -> &str {
        &self.spec.name
    }
}

/// The names of an input of a view, each with that of the view that is read of another level.
pub type Names<'a> = dyn Fn(&Nodes, Input) -> Vec<(String, Option<String>)> + 'a;

pub struct Nodes {
    job: Arc<Job>,
    tables: BTreeMap<usize, TableOperator>,
    nodes: Vec<Node>,
    level: u8,
    set_now: Arc<dyn Fn(i64) + Send + Sync>,
}

impl Nodes {
    pub fn build(
        job: &Arc<Job>,
        level: u8,
        partition: u32,
        partitions: Partitions,
        wanted: &[String],
        set_now: Arc<dyn Fn(i64) + Send + Sync>,
    ) -> Result<Self, OpError> {
        let route = (level > 1).then_some(Route { partition, partitions: partitions.of(level) });
        let mut nodes = Vec::new();
        for (i, view) in job.views.iter().enumerate().filter(|(_, v)| v.level == level) {
            nodes.push(node(job, i, view, route, wanted)?);
        }
        let mut tables = BTreeMap::new();
        for input in nodes.iter().flat_map(|n| &n.inputs) {
            if let Input::Source(s) = input
                && job.sources[*s].table
            {
                tables.insert(*s, TableOperator::new(&job.sources[*s].schema)?);
            }
        }
        Ok(Self { job: Arc::clone(job), tables, nodes, level, set_now })
    }

    /// Sources that the level reads, in the job's order.
    pub fn sources_used(&self) -> BTreeSet<usize> {
        self.nodes.iter().flat_map(|n| &n.inputs).filter_map(|i| if let Input::Source(s) | Input::Rows(s) = i { Some(*s) } else { None }).collect()
    }

    /// Views of other levels that the level reads: by level, name and index.
    pub fn upstream_views(&self) -> BTreeMap<u8, BTreeMap<String, usize>> {
        let mut upstream: BTreeMap<u8, BTreeMap<String, usize>> = BTreeMap::new();
        for input in self.nodes.iter().flat_map(|n| &n.inputs) {
            if let Input::View(v) = input
                && self.job.views[*v].level != self.level
            {
                upstream.entry(self.job.views[*v].level).or_default().insert(self.job.views[*v].name.clone(), *v);
            }
        }
        upstream
    }

    /// One pass over the views; returns the watermarks of those that leave.
    pub fn run(
        &mut self,
        flows: &mut BTreeMap<Input, Flow>,
        sources: &BTreeMap<usize, Option<i64>>,
        upstream: &dyn Fn(&str) -> Option<i64>,
        effects: &mut Effects,
    ) -> Result<BTreeMap<String, i64>, OpError> {
        let set_now: &dyn Fn(i64) = &|us| (self.set_now)(us);
        for input in self.nodes.iter().flat_map(|n| &n.inputs) {
            if let Input::Rows(source) = input
                && let Some(flow) = flows.get(&Input::Source(*source)).cloned()
            {
                flows.insert(*input, flow);
            }
        }
        for (source, table) in &mut self.tables {
            let flow = flows.remove(&Input::Source(*source)).unwrap_or_else(|| empty_flow(&self.job.sources[*source].schema));
            let context = Context { watermark: None, now_us: 0, set_now };
            let delta = table.process(&context, &[&flow], effects)?;
            flows.insert(Input::Source(*source), Flow { delta, by_partition: Vec::new() });
        }
        let mut watermarks: BTreeMap<usize, Option<i64>> = BTreeMap::new();
        let mut told = BTreeMap::new();
        for node in &mut self.nodes {
            let untimed = |source: usize| !node.waits_for_tables || self.job.sources[source].time_column.is_none();
            let of_input = |input: &Input| match input {
                Input::Source(s) | Input::Rows(s) if self.job.sources[*s].table && node.inputs.len() > 1 && untimed(*s) => None,
                Input::Source(s) | Input::Rows(s) => Some(sources.get(s).copied().flatten()),
                Input::View(v) => Some(watermarks.get(v).copied().unwrap_or_else(|| upstream(&self.job.views[*v].name))),
            };
            let of_inputs: Vec<(Input, Option<i64>)> = node.inputs.iter().filter_map(|input| Some((*input, of_input(input)?))).collect();
            let watermark = of_inputs.iter().map(|(_, watermark)| *watermark).min().flatten();
            let now_us = node.now(watermark);
            let inputs: Vec<&Flow> = node.inputs.iter().zip(&node.empties).map(|(i, empty)| flows.get(i).unwrap_or(empty)).collect();
            let context = Context { watermark, now_us, set_now };
            set_now(context.now_us);
            let (late, filtered) = (effects.counters.late, effects.filtered);
            let rows_in = inputs.iter().map(|flow| flow.delta.len() as u64).sum::<u64>();
            let delta = node.operator.process(&context, &inputs, effects)?;
            node.seen.rows_in += rows_in;
            node.seen.rows_out += delta.len() as u64;
            node.seen.late += effects.counters.late - late;
            node.seen.filtered += effects.filtered - filtered;
            // A `SELECT` that only renames is no step of the plan. States of a partial view have names of their own.
            let delta = if node.sends_states { delta } else { delta.named(&node.spec.schema)? };
            let watermark = watermark.map(|w| node.operator.holds_back().map_or(w, |held| w.min(held)));
            (node.seen.watermark, node.seen.inputs) = (watermark, of_inputs);
            if node.leaves {
                effects.outputs.push(write_rows(&node.spec.name, &delta)?);
                // A view that has no watermark yet says so; rows without a time go by their task's.
                if !node.is_timeless {
                    told.insert(node.spec.name.clone(), watermark.unwrap_or(i64::MIN));
                }
            }
            watermarks.insert(node.view, watermark);
            flows.insert(Input::View(node.view), Flow { delta, by_partition: Vec::new() });
        }
        Ok(told)
    }

    /// What the views have seen.
    pub fn status(&self, name: &Names<'_>) -> Vec<ViewStatus> {
        self.nodes.iter().map(|node| self.status_of(node, name)).collect()
    }

    fn status_of(&self, node: &Node, name: &Names<'_>) -> ViewStatus {
        let least = node.seen.inputs.iter().map(|(_, watermark)| *watermark).min().flatten();
        let of_input = |(input, watermark): &(Input, Option<i64>)| -> Vec<HeldBy> {
            // A view of the same level is held by what holds that one.
            match input {
                Input::View(view) if self.job.views[*view].level == self.level => {
                    self.nodes.iter().find(|n| n.view == *view).map(|n| self.status_of(n, name).held_by).unwrap_or_default()
                }
                _ => name(self, *input).into_iter().map(|(input, view)| HeldBy { input, view, watermark: *watermark }).collect(),
            }
        };
        let mut held_by: Vec<HeldBy> = node.seen.inputs.iter().filter(|(_, watermark)| *watermark == least).flat_map(of_input).collect();
        held_by.dedup();
        ViewStatus {
            name: node.spec.name.clone(),
            watermark: node.seen.watermark,
            held_by,
            rows_in: node.seen.rows_in,
            rows_out: node.seen.rows_out,
            late: node.seen.late,
            filtered: node.seen.filtered,
            open: node.operator.open_windows(),
        }
    }

    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    pub fn level(&self) -> u8 {
        self.level
    }

    pub fn freeze(&mut self) -> Result<Vec<(String, Frozen)>, StateError> {
        let job = &self.job;
        let mut parts: Vec<(String, Frozen)> = self.tables.iter_mut().map(|(i, t)| (table_part(job, *i), t.freeze())).collect();
        let clock = serde_json::json!(self.nodes.iter().map(|n| (n.name(), n.last_now)).collect::<BTreeMap<_, _>>());
        parts.push(("clock".to_owned(), Box::new(move || Ok(Pieces { meta: clock, batches: Vec::new() }))));
        for node in &mut self.nodes {
            parts.push((view_part(&node.spec.name), node.operator.freeze()));
        }
        Ok(parts)
    }

    /// After a change of the job those parts that go on with it are taken, and new windowed views begin. `seen`: the time of the newest row that
    /// a source, or a view of another level, has given so far. Returns the views whose windows another level puts together, with the time that
    /// these begin after.
    pub fn restore(
        &mut self,
        take: &mut dyn FnMut(String) -> Result<Pieces, StateError>,
        change: Option<&Change>,
        seen: &dyn Fn(Input) -> Option<i64>,
    ) -> Result<BTreeMap<String, i64>, StateError> {
        for (i, table) in &mut self.tables {
            if change.is_none_or(|change| change.source_goes_on(&self.job.sources[*i].name, self.level)) {
                table.restore(take(table_part(&self.job, *i))?)?;
            }
        }
        let clock: BTreeMap<String, i64> = take("clock".to_owned())?.meta()?;
        let mut newest_of_views: BTreeMap<usize, Option<i64>> = BTreeMap::new();
        let mut begins = BTreeMap::new();
        for node in &mut self.nodes {
            let newest = node.newest(&newest_of_views, seen);
            newest_of_views.insert(node.view, newest);
            let name = &node.spec.name;
            let fate = change.map_or(Some(Fate::GoesOn), |change| change.fate(name));
            match (fate, change, newest) {
                (Some(Fate::GoesOn), ..) => node.operator.restore(take(view_part(name))?)?,
                (Some(Fate::GoesOnWithMore), Some(change), _) => node.operator.restore_with_more(take(view_part(name))?, change.had(name), newest)?,
                (Some(Fate::NextWindow), _, Some(newest)) if node.sends_states => begins.extend([(name.clone(), newest)]),
                (Some(Fate::NextWindow), _, Some(newest)) => node.operator.begin(newest),
                _ => {}
            }
            if change.is_none_or(|change| change.goes_on(name)) {
                node.last_now = clock.get(name).copied().unwrap_or(0);
            }
        }
        Ok(begins)
    }

    /// Takes back what the views that do not go on have told to stand.
    pub fn end(&mut self, change: &Change, watermark: Option<i64>, effects: &mut Effects) {
        for node in self.nodes.iter_mut().filter(|node| !change.goes_on(&node.spec.name)) {
            node.operator.end(watermark, effects);
        }
    }

    /// Another level has said after what time a view begins whose states it sends.
    pub fn begin_after(&mut self, view: usize, newest: i64) {
        for node in self.nodes.iter_mut().filter(|node| node.inputs.contains(&Input::View(view))) {
            node.operator.begin(newest);
        }
    }

    /// True where the records of the view's level tell its watermark.
    pub fn tells_watermark(job: &Job, view: usize) -> bool {
        !job.views[view].body.inputs().into_iter().all(|input| matches!(input, Relation::Source(s) if job.sources[s].time_column.is_none()))
    }
}

fn table_part(job: &Job, source: usize) -> String {
    format!("table.{}", job.sources[source].name)
}

fn view_part(view: &str) -> String {
    format!("view.{view}")
}

impl Node {
    /// The time of the newest row that may have come to the node so far.
    fn newest(&self, of_views: &BTreeMap<usize, Option<i64>>, seen: &dyn Fn(Input) -> Option<i64>) -> Option<i64> {
        let of_input = |input: &Input| match input {
            Input::View(v) if of_views.contains_key(v) => of_views[v],
            other => seen(*other),
        };
        self.inputs.iter().filter_map(of_input).max()
    }

    /// The watermark cut to the view's tick. Once every input has ended it stays where it was.
    fn now(&mut self, watermark: Option<i64>) -> i64 {
        if let Some(watermark) = watermark.filter(|w| *w != i64::MAX) {
            self.last_now = watermark.div_euclid(self.tick_us) * self.tick_us;
        }
        self.last_now
    }
}

fn empty_flow(schema: &SchemaRef) -> Flow {
    Flow { delta: Delta::empty(Arc::clone(schema)), by_partition: Vec::new() }
}

fn node(job: &Job, index: usize, view: &ViewSpec, route: Option<Route>, wanted: &[String]) -> Result<Node, OpError> {
    let spec = Arc::new(relaxed(view));
    // Rows of the task's own level are the task's already.
    let from_below = |relation: Relation| matches!(relation, Relation::View(v) if job.views[v].level < view.level);
    let route = route.filter(|_| spec.body.inputs().into_iter().any(from_below));
    let mut inputs: Vec<Input> = spec.body.inputs().into_iter().map(Input::from).collect();
    let table = match &spec.body {
        Body::Map { as_they_come: true, .. } => inputs.first_mut(),
        Body::AsOfJoin(_) => inputs.last_mut(),
        _ => None,
    };
    if let Some(input) = table
        && let Input::Source(source) = *input
    {
        *input = Input::Rows(source);
    }
    let empties = inputs.iter().map(|i| empty_flow(&schema_of(job, *i))).collect();
    let operator: Box<dyn Operator> = match spec.body.clone() {
        Body::Aggregate(plan) if plan.window.is_some_and(|w| matches!(w.windows, Windows::Sessions { .. })) => {
            Box::new(SessionOperator::new(Arc::clone(&spec), plan, route)?)
        }
        Body::Aggregate(plan) if plan.window.is_some() => Box::new(WindowOperator::new(Arc::clone(&spec), plan, feeds_tables(job, index), route)?),
        Body::Aggregate(plan) => Box::new(GroupOperator::new(&spec, plan, route)?),
        Body::Join(plan) => Box::new(JoinOperator::new(&spec, plan)?),
        Body::Map { input, steps, .. } if spec.uses_now && emits_changes(job, input) => Box::new(JoinOperator::new(&spec, as_join(job, input, steps))?),
        Body::Map { steps, .. } => Box::new(MapOperator::new(steps, Arc::clone(&spec.schema))),
        Body::PairJoin(plan) => Box::new(PairJoinOperator::new(&spec, plan, route)?),
        Body::IntervalJoin(plan) => Box::new(IntervalJoinOperator::new(Arc::clone(&spec), plan, route)?),
        Body::AsOfJoin(plan) => Box::new(AsOfOperator::new(plan, route)?),
        Body::Union(inputs) => Box::new(UnionOperator::new(inputs, Arc::clone(&spec.schema))),
        Body::Rank(plan) => {
            let appended = !emits_changes(job, plan.input);
            Box::new(RankOperator::new(&spec, plan, appended, route)?)
        }
        Body::Candidates { input, alert, tells } => {
            let rule = &job.alerts[alert];
            Box::new(CandidatesOperator::new(
                AlertOperator::new(rule.clone(), &job.views[rule.view], !emits_changes(job, input)),
                tells,
                read_by_other_level(job, index),
            ))
        }
        Body::Alerts(plan) => Box::new(AlertTaskOperator::new(plan.clone(), job.alerts[plan.alert].clone(), route)),
    };
    let tick_us = match spec.emit {
        Emit::ChangesEvery { interval_us } => interval_us,
        _ => NOW_TICK_US,
    };
    let sends_states = matches!(&spec.body, Body::Aggregate(a) if a.phase == Phase::Partial);
    let is_timeless = !Nodes::tells_watermark(job, index);
    let waits_for_tables = matches!(&spec.body, Body::AsOfJoin(_));
    let leaves = wanted.contains(&spec.name) || job.sinks.iter().any(|s| s.view == index) || read_by_other_level(job, index);
    Ok(Node { view: index, spec, operator, inputs, empties, tick_us, last_now: 0, leaves, sends_states, waits_for_tables, is_timeless, seen: Seen::default() })
}

fn schema_of(job: &Job, input: Input) -> SchemaRef {
    match input {
        Input::Source(s) | Input::Rows(s) => Arc::new(nullable(&job.sources[s].schema)),
        Input::View(v) => Arc::new(nullable(&job.views[v].schema)),
    }
}

/// True when every reader of the view is a join that does not know its windows.
pub fn feeds_tables(job: &Job, view: usize) -> bool {
    let reads = |v: &&ViewSpec| !matches!(v.body, Body::Candidates { .. }) && v.body.inputs().contains(&Relation::View(view));
    let mut readers = job.views.iter().filter(reads).peekable();
    let joined = readers.peek().is_some() && readers.all(|v| matches!(v.body, Body::Join(_) | Body::PairJoin(_)));
    let joins_by_window = job.views.iter().any(|v| match &v.body {
        Body::Join(j) => j.sides.iter().any(|s| s.input == Relation::View(view) && s.on.iter().any(|c| s.schema.field(*c).name().starts_with("window_"))),
        _ => false,
    });
    joined && !joins_by_window
}

/// True when the relation hands on changes and not appended rows.
pub fn emits_changes(job: &Job, relation: Relation) -> bool {
    match relation {
        Relation::Source(s) => job.sources[s].table,
        Relation::View(v) => match &job.views[v].body {
            Body::Map { input, .. } => emits_changes(job, *input),
            Body::Join(_) | Body::PairJoin(_) => true,
            Body::IntervalJoin(_) | Body::AsOfJoin(_) => false,
            Body::Union(_) | Body::Candidates { .. } | Body::Alerts(_) => false,
            Body::Rank(_) => job.views[v].emit != Emit::OnWindowClose,
            Body::Aggregate(a) => a.phase != Phase::Partial && (a.revisions || job.views[v].emit != Emit::OnWindowClose),
        },
    }
}

fn read_by_other_level(job: &Job, view: usize) -> bool {
    job.views.iter().any(|v| v.level != job.views[view].level && v.body.inputs().contains(&Relation::View(view)))
}

/// A map over changes that calls `now()` keeps its rows, so that they can be evaluated again at a tick: a join of one side.
fn as_join(job: &Job, input: Relation, steps: Vec<Step>) -> Join {
    let (schema, key) = match input {
        Relation::Source(s) => (schema_of(job, Input::Source(s)), job.sources[s].key.clone()),
        Relation::View(v) => (schema_of(job, Input::View(v)), job.views[v].key.clone()),
    };
    let side = JoinSide { input, pre: Vec::new(), schema: Arc::clone(&schema), kind: JoinKind::Inner, on: key };
    Join { sides: vec![side], schema, post: steps }
}

/// The view with every column nullable.
fn relaxed(view: &ViewSpec) -> ViewSpec {
    let relax = |schema: &SchemaRef| Arc::new(nullable(schema)) as SchemaRef;
    let steps = |steps: &[Step]| -> Vec<Step> {
        steps
            .iter()
            .cloned()
            .map(|step| match step {
                Step::Project { exprs, schema } => Step::Project { exprs, schema: relax(&schema) },
                Step::Keyed { functions, key, schema } => Step::Keyed { functions, key, schema: relax(&schema) },
                filter @ Step::Filter(_) => filter,
            })
            .collect()
    };
    let side = |side: &mut Side| (side.pre, side.schema) = (steps(&side.pre), relax(&side.schema));
    let body = match view.body.clone() {
        Body::Map { input, steps: s, as_they_come } => Body::Map { input, steps: steps(&s), as_they_come },
        Body::Aggregate(mut a) => {
            a.pre = steps(&a.pre);
            a.post = steps(&a.post);
            a.schema = relax(&a.schema);
            Body::Aggregate(a)
        }
        Body::Join(mut j) => {
            for side in &mut j.sides {
                side.pre = steps(&side.pre);
                side.schema = relax(&side.schema);
            }
            j.post = steps(&j.post);
            j.schema = relax(&j.schema);
            Body::Join(j)
        }
        Body::PairJoin(mut j) => {
            [&mut j.left, &mut j.right].into_iter().for_each(side);
            (j.post, j.schema) = (steps(&j.post), relax(&j.schema));
            Body::PairJoin(j)
        }
        Body::IntervalJoin(mut j) => {
            [&mut j.left, &mut j.right].into_iter().for_each(side);
            (j.post, j.schema) = (steps(&j.post), relax(&j.schema));
            Body::IntervalJoin(j)
        }
        Body::AsOfJoin(mut j) => {
            [&mut j.stream, &mut j.table].into_iter().for_each(side);
            (j.post, j.schema) = (steps(&j.post), relax(&j.schema));
            Body::AsOfJoin(j)
        }
        Body::Union(mut inputs) => {
            inputs.iter_mut().for_each(|input| input.steps = steps(&input.steps));
            Body::Union(inputs)
        }
        Body::Rank(mut rank) => {
            rank.pre = steps(&rank.pre);
            rank.post = steps(&rank.post);
            rank.schema = relax(&rank.schema);
            Body::Rank(rank)
        }
        body @ (Body::Candidates { .. } | Body::Alerts(_)) => body,
    };
    ViewSpec { schema: relax(&view.schema), body, ..view.clone() }
}
