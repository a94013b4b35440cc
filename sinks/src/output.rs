//! What of an epoch belongs to a sink, and whether an epoch is the next one.

use crate::SinkError;
use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use schemas::{AcceptedEpoch, ChainPosition, EpochRecord, Output, OutputKind, TIME_COLUMN};

/// The rows that `record` has for the output `view`, hidden columns dropped; `None` when there are none. A view's late
/// rows are the output `<view>.late`; dead letters and alerts go by the names of their outputs. Room messages and
/// copied tables are the program's own and never leave through a sink. Rows that had waited for room in a record stand there as
/// outputs of their own: all of them count, in order.
pub(crate) fn rows_of(record: &EpochRecord, view: &str) -> Result<Option<(OutputKind, RecordBatch)>, ArrowError> {
    let ours = record.outputs.iter().filter(|o| o.name == view && !matches!(o.kind, OutputKind::Rooms | OutputKind::Table) && o.batch.num_rows() > 0);
    let outputs: Vec<&Output> = ours.collect();
    let Some(first) = outputs.first() else { return Ok(None) };
    let batch = concat_batches(&first.batch.schema(), outputs.iter().map(|o| &o.batch))?;
    Ok(Some((first.kind, without_hidden(&batch)?)))
}

fn without_hidden(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let shown: Vec<usize> = (0..batch.num_columns()).filter(|&i| schema.field(i).name() != TIME_COLUMN).collect();
    batch.project(&shown)
}

/// Whether `epoch` is the next one after `position`. False when it is already behind it; an error when the chain does
/// not lead from one to the other. Anything may follow the default position: an epoch log may begin late.
pub(crate) fn is_next(sink: &str, position: &ChainPosition, epoch: &AcceptedEpoch) -> Result<bool, SinkError> {
    let header = &epoch.record.header;
    let same_chain = match header.epoch.checked_sub(position.epoch) {
        _ if position.epoch == 0 => return Ok(true),
        None => return Ok(false),
        Some(0) => header.id == position.id,
        Some(1) => header.parent == position.id,
        Some(_) => false,
    };
    if same_chain {
        return Ok(header.epoch > position.epoch);
    }
    Err(SinkError::BrokenChain { sink: sink.to_owned(), task: header.task, found: header.epoch, after: position.epoch })
}

/// The position after `epoch`.
pub(crate) fn after(epoch: &AcceptedEpoch) -> ChainPosition {
    ChainPosition { next_offset: epoch.offset + 1, epoch: epoch.record.header.epoch, id: epoch.record.header.id }
}
