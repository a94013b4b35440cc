//! A task: one partition of one level of a job. Epoch in, epoch out, and nothing else: no clock, no log, no socket.
//!
//! `process` is a pure function of the state before, the cut, what the log said about its end, `now_ms`, and the versions of engine,
//! SQL and models. That is what makes recovery its own test: the same epochs give the same outputs, compared by hash.

use crate::{
    change::Change,
    delta::Delta,
    nodes::{Input, Nodes},
    ops::{Effects, Flow, OpError},
    outbox::{DEAD_LETTERS, Outbox},
    plan::Job,
    source::SourceState,
    state::{Frozen, Pieces, StateError},
    status::{InputStatus, TaskStatus},
    upstream::Upstream,
};
use schemas::{Counters, DeadLetter, EpochRecord, Output, OutputKind, Record, SourceBatch};
use std::{collections::BTreeMap, sync::Arc};

/// What one epoch takes in.
pub struct EpochInput {
    pub now_ms: i64,
    /// One for each input of the task, in declared order; an input that gives nothing has an empty range.
    pub inputs: Vec<InputCut>,
}

pub struct InputCut {
    pub from: u64,
    pub to: u64,
    pub caught_up: bool,
    pub content: Content,
}

#[expect(clippy::large_enum_variant, reason = "one an input and epoch, never kept in numbers")]
pub enum Content {
    Nothing,
    /// Decoded records of a source, and the raw ones for the bytes of dead letters.
    Source(SourceBatch, Arc<Vec<Record>>),
    /// Records of another level's epoch topic with their offsets, accepted or not.
    Epochs(Vec<(u64, Arc<EpochRecord>)>),
}

/// What one epoch gives out.
#[derive(Debug, Default)]
pub struct EpochOutput {
    pub watermark: Option<i64>,
    pub watermarks: BTreeMap<String, i64>,
    pub appended_us: Option<i64>,
    pub counters: Counters,
    pub outputs: Vec<Output>,
}

/// Where a task's input stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputSpec {
    /// Partition `partition` of a source's topic; index into [`Job::sources`].
    Source { source: usize, topic: String, partition: u32 },
    /// A partition of the epoch topic of group `group`.
    Epochs { group: String, partition: u32 },
}

impl InputSpec {
    /// Topic and partition.
    pub fn place(&self) -> (String, u32) {
        match self {
            Self::Source { topic, partition, .. } => (topic.clone(), *partition),
            Self::Epochs { group, partition } => (epoch_topic(group), *partition),
        }
    }
}

/// A task of any level, as the engine drives it.
pub trait Task: Send {
    fn inputs(&self) -> &[InputSpec];
    fn process(&mut self, input: EpochInput) -> Result<EpochOutput, OpError>;
    /// Watermark of each input, for the order in which inputs are read.
    fn input_watermarks(&self) -> Vec<Option<i64>>;
    /// Bytes that wait for room in an epoch record.
    fn waiting_bytes(&self) -> usize;
    /// The whole state by part, frozen at this epoch.
    fn freeze(&mut self) -> Result<Vec<(String, Frozen)>, StateError>;
    fn restore(&mut self, parts: BTreeMap<String, Pieces>) -> Result<(), StateError>;
    /// The task gives way to that of a changed job: what the views that do not go on have told to stand, taken back.
    fn end(&mut self, _change: &Change) -> Result<Option<Output>, OpError> {
        Ok(None)
    }
    /// Takes over from the task of the job before: its parts, and what it took back at its end. Returns what other levels must know: see
    /// [`EpochHeader::begins`](schemas::EpochHeader).
    fn take_over(&mut self, parts: BTreeMap<String, Pieces>, _ended: Option<Output>, _change: &Change) -> Result<BTreeMap<String, i64>, OpError> {
        self.restore(parts)?;
        Ok(BTreeMap::new())
    }
    /// What the task says of itself to a person.
    fn status(&self) -> TaskStatus {
        TaskStatus::default()
    }
    /// Records of other levels that lost against an earlier one.
    fn ignored(&self) -> u64 {
        0
    }
}

/// The epoch topic of a job group.
pub fn epoch_topic(group: &str) -> String {
    format!("epochs.{group}")
}

/// The group of level `level` of a job.
pub fn level_group(job: &str, level: u8) -> String {
    format!("{job}.l{level}")
}

/// Partitions of each level of a job.
#[derive(Debug, Clone, Copy)]
pub struct Partitions {
    pub level1: u32,
    pub upper: u32,
}

impl Partitions {
    pub fn of(self, level: u8) -> u32 {
        if level == 1 { self.level1 } else { self.upper }
    }
}

/// The time of the newest row that an input has given so far.
fn newest_of(job: &Job, sources: &BTreeMap<usize, SourceState>, upstreams: &[Upstream], input: Input) -> Option<i64> {
    match input {
        Input::Source(s) | Input::Rows(s) => sources.get(&s).and_then(SourceState::newest),
        Input::View(v) => {
            let name = &job.views[v].name;
            upstreams.iter().filter(|u| u.serves(name)).filter_map(|u| u.watermark_of(name)).max().filter(|w| *w != i64::MAX)
        }
    }
}

fn source_part(source: &str) -> String {
    format!("source.{source}")
}

fn upstream_parts(inputs: &[InputSpec]) -> impl Iterator<Item = String> {
    inputs.iter().filter_map(|input| if let InputSpec::Epochs { group, partition } = input { Some(format!("upstream.{group}.{partition}")) } else { None })
}

/// What the inputs of an epoch hand to the views.
struct Absorbed {
    flows: BTreeMap<Input, Flow>,
    appended_us: Option<i64>,
    dead: Vec<DeadLetter>,
}

/// The views of one level, over one partition.
pub struct LevelTask {
    inputs: Vec<InputSpec>,
    sources: BTreeMap<usize, SourceState>,
    upstreams: Vec<Upstream>,
    nodes: Nodes,
    outbox: Outbox,
    /// Of the last epoch.
    now_ms: i64,
}

impl LevelTask {
    /// `wanted` names views that must leave the task beside those that sinks and other levels read.
    pub fn new(
        job: &Arc<Job>,
        level: u8,
        partition: u32,
        partitions: Partitions,
        wanted: &[String],
        set_now: Arc<dyn Fn(i64) + Send + Sync>,
    ) -> Result<Self, OpError> {
        let nodes = Nodes::build(job, level, partition, partitions, wanted, set_now)?;
        let mut inputs = Vec::new();
        let mut sources = BTreeMap::new();
        let mut upstreams = Vec::new();
        for source in nodes.sources_used() {
            let spec = job.sources[source].clone();
            inputs.push(InputSpec::Source { source, topic: spec.topic.clone(), partition });
            sources.insert(source, SourceState::new(spec));
        }
        for (from_level, views) in nodes.upstream_views() {
            let group = level_group(&job.name, from_level);
            for p in 0..partitions.of(from_level) {
                inputs.push(InputSpec::Epochs { group: group.clone(), partition: p });
                upstreams.push(Upstream::new(p, Arc::clone(job), views.clone()));
            }
        }
        Ok(Self { inputs, sources, upstreams, nodes, outbox: Outbox::default(), now_ms: 0 })
    }

    /// What [`Nodes::restore`] returns.
    fn restore_after(&mut self, mut parts: BTreeMap<String, Pieces>, change: Option<&Change>) -> Result<BTreeMap<String, i64>, StateError> {
        let level = self.nodes.level();
        let mut take = |name: String| parts.remove(&name).ok_or(StateError::Missing(name));
        for source in self.sources.values_mut() {
            if change.is_none_or(|change| change.source_goes_on(source.name(), level)) {
                source.restore(take(source_part(source.name()))?)?;
            }
        }
        for (name, upstream) in upstream_parts(&self.inputs).zip(&mut self.upstreams) {
            match (take(name), change) {
                (Ok(pieces), _) => upstream.restore(&pieces)?,
                // A level that was not read before.
                (Err(_), Some(_)) => {}
                (Err(missing), None) => return Err(missing),
            }
        }
        self.outbox.restore(take("outbox".to_owned())?)?;
        let job = Arc::clone(self.nodes.job());
        let seen = |input| newest_of(&job, &self.sources, &self.upstreams, input);
        self.nodes.restore(&mut take, change, &seen)
    }

    fn absorb(&mut self, input: EpochInput, effects: &mut Effects) -> Result<Absorbed, OpError> {
        let mut flows: BTreeMap<Input, Flow> = BTreeMap::new();
        let mut dead = Vec::new();
        let mut appended_us: Option<i64> = None;
        let mut upstream = 0;
        let now_ms = input.now_ms;
        for (spec, cut) in self.inputs.iter().zip(input.inputs) {
            match (spec, cut.content) {
                (InputSpec::Source { source, .. }, content) => {
                    let Some(state) = self.sources.get_mut(source) else { continue };
                    if let Content::Source(batch, records) = content {
                        appended_us = appended_us.into_iter().chain(batch.append_us.values().iter().copied()).min();
                        let delta = state.absorb(batch, &records, now_ms, cut.caught_up, &mut effects.counters, &mut dead)?;
                        flows.insert(Input::Source(*source), Flow { delta, by_partition: Vec::new() });
                    } else {
                        state.silent(now_ms, cut.caught_up);
                    }
                }
                (InputSpec::Epochs { .. }, content) => {
                    if let Content::Epochs(records) = content {
                        appended_us = appended_us.into_iter().chain(self.upstreams[upstream].absorb(&records, &mut flows)?).min();
                        for (view, newest) in self.upstreams[upstream].take_begun() {
                            self.nodes.begin_after(view, newest);
                        }
                    }
                    upstream += 1;
                }
            }
        }
        for flow in flows.values_mut().filter(|f| !f.by_partition.is_empty()) {
            let parts = flow.by_partition.iter().map(|(_, delta)| delta.clone()).collect();
            flow.delta = Delta::concat(&flow.delta.batch.schema(), parts)?;
        }
        Ok(Absorbed { flows, appended_us, dead })
    }

    /// The sources that carry the watermark: a table holds nobody back, unless there is nothing else.
    fn streams(&self) -> impl Iterator<Item = (&usize, &SourceState)> {
        let only_tables = self.sources.values().all(SourceState::is_table);
        self.sources.iter().filter(move |(_, s)| only_tables || !s.is_table())
    }

    /// The watermark that each source gives its views: its own, or the others' while it is silent.
    fn source_watermarks(&mut self, now_ms: i64) -> BTreeMap<usize, Option<i64>> {
        let all_idle = self.streams().all(|(_, s)| s.is_idle(now_ms) && !s.ended());
        if all_idle {
            self.sources.values_mut().for_each(|s| s.follow_clock(now_ms));
        }
        let busy: Option<i64> = self.streams().filter(|(_, s)| !s.is_idle(now_ms)).filter_map(|(_, s)| s.watermark()).min();
        let any = self.streams().filter_map(|(_, s)| s.watermark()).min();
        let watermark = |s: &SourceState| match s.watermark() {
            own if !s.is_idle(now_ms) || s.ended() => own,
            None if s.may_be_empty() => busy.or(any),
            None if !s.is_table() => None,
            own => own.max(busy),
        };
        self.sources.iter().map(|(i, s)| (*i, watermark(s))).collect()
    }

    fn watermark_of(&self, source_watermarks: &BTreeMap<usize, Option<i64>>, now_ms: i64) -> Option<i64> {
        let streams: Vec<(&usize, &SourceState)> = self.streams().collect();
        let held = streams.iter().filter(|(_, s)| !s.is_idle(now_ms) || s.ended()).map(|(i, _)| source_watermarks[i]);
        let from_sources: Vec<Option<i64>> = held.collect();
        let from_upstream = self.upstreams.iter().map(Upstream::watermark);
        let all: Vec<Option<i64>> = from_sources.into_iter().chain(from_upstream).collect();
        if all.is_empty() {
            return streams.iter().filter_map(|(i, _)| source_watermarks[i]).min();
        }
        let watermark = all.into_iter().min().flatten();
        // The end is told when the tables have ended as well: what they still hold may change joined rows.
        let all_ended = self.sources.values().all(SourceState::ended);
        if watermark == Some(i64::MAX) && !all_ended { self.outbox.watermark().0.filter(|w| *w != i64::MAX) } else { watermark }
    }

    /// The names of an input of a view: of a view of another level those partitions whose watermark is the least.
    fn names_of(&self, nodes: &Nodes, input: Input) -> Vec<(String, Option<String>)> {
        let view = match input {
            Input::Source(wanted) | Input::Rows(wanted) => {
                let is_wanted = |spec: &&InputSpec| matches!(spec, InputSpec::Source { source, .. } if *source == wanted);
                let name =
                    |spec: &InputSpec| if let InputSpec::Source { topic, partition, .. } = spec { format!("{topic}/{partition}") } else { String::new() };
                return self.inputs.iter().filter(is_wanted).map(|spec| (name(spec), None)).collect();
            }
            Input::View(view) => &nodes.job().views[view],
        };
        let serving = || self.upstreams.iter().filter(|upstream| upstream.serves(&view.name));
        let least = serving().map(|upstream| upstream.watermark_of(&view.name)).min().flatten();
        let topic = epoch_topic(&level_group(&nodes.job().name, view.level));
        let held = serving().filter(|upstream| upstream.watermark_of(&view.name) == least);
        held.map(|upstream| (format!("{topic}/{}", upstream.partition()), Some(view.name.clone()))).collect()
    }

    fn set_ended(&mut self, sources: &[usize], ended: bool) {
        for i in sources {
            if let Some(source) = self.sources.get_mut(i) {
                source.set_ended(ended);
            }
        }
    }

    /// One pass over the views; returns the watermark of the task and those of the views that leave it.
    fn run_views(&mut self, now_ms: i64, flows: &mut BTreeMap<Input, Flow>, effects: &mut Effects) -> Result<(Option<i64>, BTreeMap<String, i64>), OpError> {
        let source_watermarks = self.source_watermarks(now_ms);
        let watermark = self.watermark_of(&source_watermarks, now_ms);
        let upstreams = &self.upstreams;
        let upstream_watermark = |view: &str| upstreams.iter().filter(|u| u.serves(view)).map(|u| u.watermark_of(view)).min().flatten();
        let watermarks = self.nodes.run(flows, &source_watermarks, &upstream_watermark, effects)?;
        Ok((watermark, watermarks))
    }
}

impl Task for LevelTask {
    fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    fn process(&mut self, input: EpochInput) -> Result<EpochOutput, OpError> {
        let mut effects = Effects::default();
        let now_ms = input.now_ms;
        self.now_ms = now_ms;
        let before = self.outbox.watermark();
        let open: Vec<usize> = self.sources.iter().filter(|(_, s)| !s.ended()).map(|(i, _)| *i).collect();
        let Absorbed { mut flows, appended_us, dead } = self.absorb(input, &mut effects)?;
        let ends: Vec<usize> = open.into_iter().filter(|i| self.sources[i].ended()).collect();
        if !ends.is_empty() {
            // The last rows are seen by the clock before the end is: whether both came in one epoch must not show.
            self.set_ended(&ends, false);
            self.run_views(now_ms, &mut flows, &mut effects)?;
            flows.clear();
            self.set_ended(&ends, true);
        }
        let (watermark, watermarks) = self.run_views(now_ms, &mut flows, &mut effects)?;
        if !dead.is_empty() {
            effects.outputs.push(Output { name: DEAD_LETTERS.to_owned(), kind: OutputKind::Dead, batch: DeadLetter::to_batch(&dead)? });
        }
        effects.outputs.extend(effects.raised.into_output()?);
        for output in effects.outputs {
            effects.counters.dead += self.outbox.push(output, before.clone())?;
        }
        self.outbox.set_watermarks(watermark, watermarks);
        let outputs = self.outbox.take();
        effects.counters.rows_out = outputs.iter().map(|o| o.batch.num_rows() as u64).sum();
        let (watermark, watermarks) = self.outbox.told_watermarks();
        Ok(EpochOutput { watermark, watermarks, appended_us, counters: effects.counters, outputs })
    }

    fn input_watermarks(&self) -> Vec<Option<i64>> {
        let mut upstream = self.upstreams.iter();
        self.inputs
            .iter()
            .map(|input| match input {
                InputSpec::Source { source, .. } => self.sources.get(source).and_then(SourceState::watermark),
                InputSpec::Epochs { .. } => upstream.next().and_then(Upstream::watermark),
            })
            .collect()
    }

    fn waiting_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    fn freeze(&mut self) -> Result<Vec<(String, Frozen)>, StateError> {
        let mut parts: Vec<(String, Frozen)> = Vec::new();
        for source in self.sources.values() {
            let pieces = source.pieces()?;
            parts.push((source_part(source.name()), Box::new(move || Ok(pieces))));
        }
        for (name, upstream) in upstream_parts(&self.inputs).zip(&self.upstreams) {
            let pieces = upstream.pieces()?;
            parts.push((name, Box::new(move || Ok(pieces))));
        }
        let outbox = self.outbox.pieces()?;
        parts.push(("outbox".to_owned(), Box::new(move || Ok(outbox))));
        parts.extend(self.nodes.freeze()?);
        Ok(parts)
    }

    fn restore(&mut self, parts: BTreeMap<String, Pieces>) -> Result<(), StateError> {
        self.restore_after(parts, None)?;
        Ok(())
    }

    fn end(&mut self, change: &Change) -> Result<Option<Output>, OpError> {
        let mut effects = Effects::default();
        let watermark = self.outbox.watermark().0;
        self.nodes.end(change, watermark, &mut effects);
        effects.raised.into_output()
    }

    fn take_over(&mut self, parts: BTreeMap<String, Pieces>, ended: Option<Output>, change: &Change) -> Result<BTreeMap<String, i64>, OpError> {
        let begins = self.restore_after(parts, Some(change))?;
        let hold = self.outbox.watermark();
        if let Some(output) = ended {
            self.outbox.push(output, hold)?;
        }
        Ok(begins)
    }

    fn status(&self) -> TaskStatus {
        let mut upstreams = self.upstreams.iter();
        let input = |spec: &InputSpec| match spec {
            InputSpec::Source { source, partition, .. } => self.sources.get(source).map(|s| s.status(*partition, self.now_ms)),
            InputSpec::Epochs { group, partition } => upstreams.next().map(|upstream| InputStatus {
                name: format!("{}/{partition}", epoch_topic(group)),
                source: None,
                watermark: upstream.watermark(),
                caught_up: false,
                idle: false,
                ended: upstream.watermark() == Some(i64::MAX),
                counters: Counters::default(),
            }),
        };
        TaskStatus { inputs: self.inputs.iter().filter_map(input).collect(), views: self.nodes.status(&|nodes, input| self.names_of(nodes, input)) }
    }

    fn ignored(&self) -> u64 {
        self.upstreams.iter().map(Upstream::ignored).sum()
    }
}
