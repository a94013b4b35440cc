//! The task of a variant driven by hand: records straight from the generator, one partition, no log and no engine, so that the figures
//! are of decoding and of the task alone. It tells what the engine cannot tell while it runs: the time of each call and the state.

use crate::{
    events::Events,
    machine::{histogram, in_ms, per_event, resident_bytes},
    settings::{Settings, VIEW},
    told::Told,
    variant::Variant,
};
use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use headend::engine::feed::decoder_spec;
use ingest::SourceDecoder;
use schemas::{NewRecord, Record};
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};
use stream_jobs::task::{Content, EpochInput, InputCut, InputSpec, LevelTask, Partitions, Task};

/// Outputs that wait for room, beyond which the engine takes nothing more in.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often the state is looked at on the way; each time it is written out whole, beside the clock.
const LOOKS: u64 = 8;

pub struct ByHand {
    decode: Duration,
    process: Duration,
    process_times: Histogram<u64>,
    /// When the last event was in, and the most that was seen. Rows that wait to leave do not count.
    pub state_bytes: u64,
    state_bytes_peak: u64,
    rss_growth_bytes: u64,
    pub told: Told,
}

struct Driven {
    task: LevelTask,
    /// Of each input.
    decoders: Vec<SourceDecoder>,
    next: Vec<u64>,
    append_us: i64,
    rows_max: usize,
    rows_a_look: u64,
    resident_before: u64,
    ended: bool,
    seen: ByHand,
}

/// Runs the job to the end of the events.
pub fn drive(settings: &Settings, variant: &Variant, events: &Events) -> anyhow::Result<ByHand> {
    let mut driven = Driven::new(settings, variant, events.rows() / LOOKS)?;
    let usage = driven.input(0)?;
    if variant.joins_plans {
        let plans = driven.input(1)?;
        driven.feed(plans, events.plans())?;
        driven.feed(usage, events.records(0, events.stream.events))?;
        driven.look()?;
        driven.feed(plans, std::iter::once(NewRecord::end_of_source()))?;
    } else {
        driven.feed(usage, events.records(0, events.stream.events))?;
        driven.look()?;
    }
    driven.feed(usage, std::iter::once(NewRecord::end_of_source()))?;
    driven.finish()
}

impl Driven {
    fn new(settings: &Settings, variant: &Variant, rows_a_look: u64) -> anyhow::Result<Self> {
        let config = settings.engine_of(variant);
        let (job, now_us) = config.plan()?;
        let set_now = Arc::new(move |us| now_us.store(us, Ordering::Relaxed));
        let resident_before = resident_bytes();
        let task = LevelTask::new(&job, 1, 0, Partitions { level1: 1, upper: 1 }, &config.wanted, set_now)?;
        let sources = task.inputs().iter().filter_map(|input| if let InputSpec::Source { source, .. } = input { Some(*source) } else { None });
        let decoders = sources.map(|source| SourceDecoder::new(decoder_spec(&job.sources[source], 1))).collect::<Result<Vec<_>, _>>()?;
        let append_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as i64;
        let next = vec![0; decoders.len()];
        Ok(Self {
            task,
            decoders,
            next,
            append_us,
            rows_max: config.rows_max,
            rows_a_look: rows_a_look.max(1),
            resident_before,
            ended: false,
            seen: ByHand::new()?,
        })
    }

    /// The place among the inputs of a source that is known by its place in the job.
    fn input(&self, wanted: usize) -> anyhow::Result<usize> {
        let is_wanted = |input: &InputSpec| matches!(input, InputSpec::Source { source, .. } if *source == wanted);
        self.task.inputs().iter().position(is_wanted).context("the task does not read the source")
    }

    /// Takes the records in cuts of the engine's size.
    fn feed(&mut self, input: usize, records: impl Iterator<Item = NewRecord>) -> anyhow::Result<()> {
        let mut records = records.peekable();
        let mut rows = 0;
        while records.peek().is_some() {
            let of_cut: Vec<NewRecord> = records.by_ref().take(self.rows_max).collect();
            rows += of_cut.len() as u64;
            self.cut(input, of_cut)?;
            if rows >= self.rows_a_look {
                rows = 0;
                self.look()?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, input: usize, records: Vec<NewRecord>) -> anyhow::Result<()> {
        let from = self.next[input];
        let append_us = self.append_us;
        let record = |(offset, new): (u64, NewRecord)| Record { offset, append_us, key: new.key, value: new.value, headers: new.headers };
        let records: Vec<Record> = (from..).zip(records).map(record).collect();
        let to = from + records.len() as u64;
        let started = Instant::now();
        let batch = self.decoders[input].decode(0, from, to, &records)?;
        self.seen.decode += started.elapsed();
        self.next[input] = to;
        self.process(Some((input, InputCut { from, to, caught_up: false, content: Content::Source(batch, Arc::new(records)) })))?;
        while self.task.waiting_bytes() >= WAITING_BYTES_MAX {
            self.process(None)?;
        }
        Ok(())
    }

    /// An epoch that takes from one input, or from none.
    fn process(&mut self, taken: Option<(usize, InputCut)>) -> anyhow::Result<()> {
        let nothing = |next: &u64| InputCut { from: *next, to: *next, caught_up: false, content: Content::Nothing };
        let mut inputs: Vec<InputCut> = self.next.iter().map(nothing).collect();
        if let Some((input, cut)) = taken {
            inputs[input] = cut;
        }
        let started = Instant::now();
        let output = self.task.process(EpochInput { now_ms: 0, inputs })?;
        let took = started.elapsed();
        self.seen.process += took;
        self.seen.process_times.saturating_record(took.as_micros() as u64);
        self.ended = output.watermark == Some(i64::MAX);
        self.seen.rss_growth_bytes = self.seen.rss_growth_bytes.max(resident_bytes().saturating_sub(self.resident_before));
        self.seen.told.add(VIEW, output.counters, &output.outputs)
    }

    /// Measures the state as a snapshot would hold it.
    fn look(&mut self) -> anyhow::Result<()> {
        let mut bytes = 0;
        for (name, frozen) in self.task.freeze()? {
            let pieces = frozen()?;
            if name != "outbox" {
                bytes += pieces.batches.iter().map(|(_, batch)| batch.get_array_memory_size() as u64).sum::<u64>();
            }
        }
        self.seen.state_bytes = bytes;
        self.seen.state_bytes_peak = self.seen.state_bytes_peak.max(bytes);
        Ok(())
    }

    /// Lets out what still waits.
    fn finish(mut self) -> anyhow::Result<ByHand> {
        while !self.ended {
            ensure!(self.task.waiting_bytes() > 0, "the task does not come to its end");
            self.process(None)?;
        }
        Ok(self.seen)
    }
}

impl ByHand {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            decode: Duration::ZERO,
            process: Duration::ZERO,
            process_times: histogram()?,
            state_bytes: 0,
            state_bytes_peak: 0,
            rss_growth_bytes: 0,
            told: Told::default(),
        })
    }

    /// Nanoseconds of the task an event.
    pub fn process_ns(&self, n: u64) -> f64 {
        per_event(self.process, n)
    }

    pub fn report(&self, n: u64) -> Value {
        json!({
            "how": "one task over one partition, no log, no engine",
            "decode_ns_per_event": per_event(self.decode, n),
            "process_ns_per_event": self.process_ns(n),
            "process_ms": in_ms(&self.process_times),
            "state_bytes": self.state_bytes,
            "state_bytes_peak": self.state_bytes_peak,
            "rss_growth_bytes": self.rss_growth_bytes,
            "rows_out": self.told.rows,
        })
    }
}
