//! The pieces of the window operator driven by hand over the same batches: keys, aggregates, rows out.

use crate::settings::{BOUND_US, FETCH_BYTES, PARTITIONS, Settings, TOPIC, WINDOW_US};
use anyhow::{Context, bail, ensure};
use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, cast::AsArray, types::TimestampMicrosecondType};
use arrow_schema::DataType;
use headend::engine::feed::decoder_spec;
use ingest::{Log, SourceDecoder, log::LogReader};
use schemas::SourceBatch;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use stream_jobs::{
    delta::Delta,
    ops::{batch_of, fold_rows, keys_of, nullable, values_of},
    outbox::Outbox,
    plan::{Aggregate, Body, GroupColumn, Job},
    state::{Groups, KeyCodec, KeyDictionary},
    upstream::write_rows,
};

#[derive(Default)]
pub struct Pieces {
    /// Record keys to ids.
    pub key: Duration,
    /// Arguments evaluated, groups found, values folded.
    pub aggregate: Duration,
    /// Rows of closed windows: sorted, evaluated, cut into records' sizes.
    pub emit: Duration,
    rows_out: u64,
}

struct Operator {
    partition: u32,
    reader: Box<dyn LogReader>,
    decoder: SourceDecoder,
    plan: Aggregate,
    codec: KeyCodec,
    dictionary: KeyDictionary,
    panes: BTreeMap<i64, Groups>,
    outbox: Outbox,
    time_column: usize,
    watermark: i64,
    ended: bool,
}

pub async fn drive(settings: &Settings, log: &Arc<dyn Log>) -> anyhow::Result<Pieces> {
    let (job, _) = settings.engine().plan()?;
    let mut operators = (0..PARTITIONS).map(|p| Operator::new(&job, log, p)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut pieces = Pieces::default();
    while operators.iter().any(|o| !o.ended) {
        for operator in operators.iter_mut().filter(|o| !o.ended) {
            let batch = operator.next(settings).await?;
            operator.fold(batch, &mut pieces)?;
            operator.close(&mut pieces)?;
        }
    }
    ensure!(pieces.rows_out > 0, "no window closed");
    Ok(pieces)
}

impl Operator {
    fn new(job: &Job, log: &Arc<dyn Log>, partition: u32) -> anyhow::Result<Self> {
        let Body::Aggregate(plan) = job.views[0].body.clone() else { bail!("the view is no aggregate") };
        let window = plan.window.context("the view has no window")?;
        let keys: Vec<DataType> =
            plan.group.iter().zip(plan.schema.fields()).filter(|(g, _)| matches!(g, GroupColumn::Expr(_))).map(|(_, f)| f.data_type().clone()).collect();
        Ok(Self {
            partition,
            reader: log.reader(TOPIC, partition, 0)?,
            decoder: SourceDecoder::new(decoder_spec(&job.sources[0], PARTITIONS))?,
            codec: KeyCodec::new(&keys, plan.by_record_key)?,
            time_column: window.time_column,
            plan,
            dictionary: KeyDictionary::default(),
            panes: BTreeMap::new(),
            outbox: Outbox::default(),
            watermark: i64::MIN,
            ended: false,
        })
    }

    async fn next(&mut self, settings: &Settings) -> anyhow::Result<SourceBatch> {
        let from = self.reader.position();
        let fetched = self.reader.fetch(settings.engine().rows_max, FETCH_BYTES, Duration::ZERO).await?;
        let batch = self.decoder.decode(self.partition, from, self.reader.position(), &fetched.records)?;
        self.ended = batch.end_of_source.is_some();
        Ok(batch)
    }

    fn fold(&mut self, batch: SourceBatch, pieces: &mut Pieces) -> anyhow::Result<()> {
        let started = Instant::now();
        let ids = keys_of(&self.plan.group, &self.codec, &mut self.dictionary, &batch.rows, Some(&batch.keys))?;
        pieces.key += started.elapsed();
        let started = Instant::now();
        let rows = Delta::rows(batch.rows, Vec::new()).through(&self.plan.pre)?.batch;
        let times = rows.column(self.time_column).as_primitive::<TimestampMicrosecondType>().values();
        let values = values_of(&self.plan.aggregates, &rows)?;
        for (start, picked) in by_pane(times) {
            let pane = self.panes.entry(start).or_insert_with(|| Groups::new(&self.plan.aggregates));
            fold_rows(pane, picked.as_deref(), &ids, &values, times, false)?;
        }
        pieces.aggregate += started.elapsed();
        self.watermark = if self.ended { i64::MAX } else { times.iter().copied().max().map_or(self.watermark, |t| self.watermark.max(t - BOUND_US)) };
        Ok(())
    }

    fn close(&mut self, pieces: &mut Pieces) -> anyhow::Result<()> {
        while let Some((start, pane)) = self.panes.first_key_value().filter(|(start, _)| **start + WINDOW_US <= self.watermark) {
            let started = Instant::now();
            let output = write_rows("rows", &self.rows(*start, pane)?)?;
            pieces.rows_out += output.batch.num_rows() as u64;
            self.outbox.push(output, (None, BTreeMap::new()))?;
            while !self.outbox.take().is_empty() {}
            pieces.emit += started.elapsed();
            self.panes.pop_first();
        }
        Ok(())
    }

    /// The rows of a pane as they leave a tumbling window.
    fn rows(&self, start: i64, pane: &Groups) -> anyhow::Result<Delta> {
        let mut ids: Vec<u32> = pane.live_ids().collect();
        self.dictionary.sort(&mut ids);
        let time = |us: i64| Arc::new(TimestampMicrosecondArray::from_value(us, ids.len()).with_timezone("UTC")) as ArrayRef;
        let mut keys = self.codec.decode(ids.iter().map(|id| self.dictionary.key(*id)))?.into_iter();
        let mut columns = Vec::new();
        for group in &self.plan.group {
            columns.push(match group {
                GroupColumn::Expr(_) => keys.next().context("a key has fewer columns than its view")?,
                GroupColumn::WindowStart => time(start),
                GroupColumn::WindowEnd => time(start + WINDOW_US),
            });
        }
        columns.extend(pane.evaluate(&ids)?);
        let batch: RecordBatch = batch_of(&Arc::new(nullable(&self.plan.schema)), columns, ids.len())?;
        Ok(Delta::rows(batch, vec![start + WINDOW_US - 1; ids.len()]).through(&self.plan.post)?)
    }
}

/// Rows by the start of their pane; `None` where all are in one.
fn by_pane(times: &[i64]) -> BTreeMap<i64, Option<Vec<u32>>> {
    let start = |t: i64| t - t.rem_euclid(WINDOW_US);
    let (Some(least), Some(greatest)) = (times.iter().min(), times.iter().max()) else { return BTreeMap::new() };
    if start(*least) == start(*greatest) {
        return BTreeMap::from([(start(*least), None)]);
    }
    let mut panes: BTreeMap<i64, Option<Vec<u32>>> = BTreeMap::new();
    for (row, time) in times.iter().enumerate() {
        panes.entry(start(*time)).or_insert_with(|| Some(Vec::new())).get_or_insert_default().push(row as u32);
    }
    panes
}
