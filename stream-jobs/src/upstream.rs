//! Another level's epoch topic as an input: the accepted chain of one partition, and the rows of the views that are read.

use crate::{
    delta::{Delta, Op},
    nodes::{Input, Nodes},
    ops::{Flow, OpError},
    plan::Job,
    state::{Pieces, StateError},
};
use arrow_array::{Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int64Type};
use schemas::{ChainPosition, EpochRecord, OP_COLUMN, Output, OutputKind, TIME_COLUMN, Verdict};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Progress {
    position: ChainPosition,
    watermark: Option<i64>,
    watermarks: BTreeMap<String, i64>,
    ignored: u64,
}

pub struct Upstream {
    partition: u32,
    job: Arc<Job>,
    /// Views that are read, by name, with their index in the job.
    views: BTreeMap<String, usize>,
    progress: Progress,
    /// Views that have begun in the records taken last, and after what time.
    begun: Vec<(usize, i64)>,
}

impl Upstream {
    pub fn new(partition: u32, job: Arc<Job>, views: BTreeMap<String, usize>) -> Self {
        Self { partition, job, views, progress: Progress::default(), begun: Vec::new() }
    }

    /// Takes records in offset order and hands their rows to the flows' `by_partition`; returns the earliest append time behind the accepted ones.
    pub fn absorb(&mut self, records: &[(u64, Arc<EpochRecord>)], flows: &mut BTreeMap<Input, Flow>) -> Result<Option<i64>, OpError> {
        let mut appended_us: Option<i64> = None;
        for (offset, record) in records {
            if self.progress.position.epoch == 0 && record.header.epoch > 1 {
                // The records before are deleted, and this one is known to be on the chain: it is what the next ones follow.
                self.progress.position = ChainPosition { next_offset: offset + 1, epoch: record.header.epoch, id: record.header.id };
                continue;
            }
            if self.progress.position.offer(*offset, &record.header) == Verdict::Ignored {
                self.progress.ignored += 1;
                continue;
            }
            appended_us = appended_us.into_iter().chain(record.header.appended_us).min();
            self.progress.watermark = self.progress.watermark.max(record.header.watermark);
            for (view, watermark) in &record.header.watermarks {
                let held = self.progress.watermarks.entry(view.clone()).or_insert(*watermark);
                *held = (*held).max(*watermark);
            }
            let begun = record.header.begins.iter().filter_map(|(view, newest)| Some((*self.views.get(view)?, *newest)));
            self.begun.extend(begun);
            for output in &record.outputs {
                if let Some(view) = self.views.get(&output.name).filter(|_| matches!(output.kind, OutputKind::Rows | OutputKind::Changes)) {
                    self.hand_on(Input::View(*view), read_rows(output)?, flows);
                }
            }
        }
        Ok(appended_us)
    }

    fn hand_on(&self, input: Input, delta: Delta, flows: &mut BTreeMap<Input, Flow>) {
        let flow = flows.entry(input).or_insert_with(|| Flow { delta: Delta::empty(delta.batch.schema()), by_partition: Vec::new() });
        flow.by_partition.push((self.partition, delta));
    }

    /// Views that have begun since this was asked last, and after what time.
    pub fn take_begun(&mut self) -> Vec<(usize, i64)> {
        std::mem::take(&mut self.begun)
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    pub fn serves(&self, view: &str) -> bool {
        self.views.contains_key(view)
    }

    pub fn watermark(&self) -> Option<i64> {
        self.progress.watermark
    }

    /// The view's own watermark where its task tells one, else the task's.
    pub fn watermark_of(&self, view: &str) -> Option<i64> {
        match self.progress.watermarks.get(view) {
            // It has said that it has none yet.
            Some(&i64::MIN) => None,
            Some(watermark) => Some(*watermark),
            // Its level runs a job that does not have it yet.
            None if self.views.get(view).is_some_and(|v| Nodes::tells_watermark(&self.job, *v)) => None,
            None => self.progress.watermark,
        }
    }

    pub fn ignored(&self) -> u64 {
        self.progress.ignored
    }

    pub fn pieces(&self) -> Result<Pieces, StateError> {
        Ok(Pieces { meta: serde_json::to_value(&self.progress).map_err(StateError::Meta)?, batches: Vec::new() })
    }

    pub fn restore(&mut self, pieces: &Pieces) -> Result<(), StateError> {
        self.progress = pieces.meta()?;
        Ok(())
    }
}

/// An output's rows with their hidden columns taken off.
pub fn read_rows(output: &Output) -> Result<Delta, OpError> {
    let schema = output.batch.schema();
    let times = match schema.index_of(TIME_COLUMN) {
        Ok(i) => output.batch.column(i).as_primitive::<Int64Type>().values().to_vec(),
        Err(_) => vec![0; output.batch.num_rows()],
    };
    let ops = schema.index_of(OP_COLUMN).ok().map(|i| output.batch.column(i).as_string::<i32>().iter().flatten().filter_map(Op::parse).collect());
    let seen: Vec<usize> = (0..schema.fields().len()).filter(|i| ![TIME_COLUMN, OP_COLUMN].contains(&schema.field(*i).name().as_str())).collect();
    Ok(Delta { batch: output.batch.project(&seen)?, ops, times, origin: None, gone: None })
}

/// A view's rows as an output: hidden columns first, then what a user sees.
pub fn write_rows(name: &str, delta: &Delta) -> Result<Output, OpError> {
    let mut fields = vec![arrow_schema::Field::new(TIME_COLUMN, arrow_schema::DataType::Int64, false)];
    let mut columns: Vec<arrow_array::ArrayRef> = vec![Arc::new(Int64Array::from(delta.times.clone()))];
    let mut kind = OutputKind::Rows;
    if let Some(ops) = &delta.ops {
        kind = OutputKind::Changes;
        fields.push(arrow_schema::Field::new(OP_COLUMN, arrow_schema::DataType::Utf8, false));
        columns.push(Arc::new(StringArray::from_iter_values(ops.iter().map(|o| o.as_str()))));
    }
    fields.extend(delta.batch.schema().fields().iter().map(|f| f.as_ref().clone()));
    columns.extend(delta.batch.columns().iter().cloned());
    let batch = RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(fields)), columns)?;
    Ok(Output { name: name.to_owned(), kind, batch })
}
