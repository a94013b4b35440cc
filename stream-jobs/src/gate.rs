//! The gate of a view that is emitted `EVERY` an interval: rows wait here, sorted by event time, until the watermark reaches
//! the tick after them. So the view at tick T shows exactly the rows before T, whatever the cuts were.

use crate::{
    delta::Delta,
    state::{Pieces, StateError},
};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt64Array, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema};
use datafusion::error::DataFusionError;
use std::{collections::BTreeMap, sync::Arc};

/// Rows of one tick: for each run of rows of one input, the input and the rows.
pub type Tick = Vec<(usize, Delta)>;

pub struct Gate {
    interval_us: i64,
    held: BTreeMap<i64, Tick>,
    /// The last tick that was let through.
    released: i64,
}

impl Gate {
    pub fn new(interval_us: i64) -> Self {
        Self { interval_us, held: BTreeMap::new(), released: i64::MIN }
    }

    /// The last tick at or before `watermark`.
    pub fn released_through(&self, watermark: i64) -> i64 {
        if watermark == i64::MAX { watermark } else { watermark.div_euclid(self.interval_us) * self.interval_us }
    }

    pub fn interval_us(&self) -> i64 {
        self.interval_us
    }

    /// Takes rows in. A row whose tick has passed waits for the next one: passed by the watermark that its own partition had before the
    /// row, so that the cut does not show.
    pub fn push(&mut self, input: usize, delta: &Delta) -> Result<(), DataFusionError> {
        let mut by_tick: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (row, time) in delta.times.iter().enumerate() {
            let tick = (time.div_euclid(self.interval_us) + 1) * self.interval_us;
            let before = delta.origin.as_ref().map(|o| o.watermarks[row]).filter(|w| *w != i64::MIN);
            let passed = before.map_or(i64::MIN, |w| self.released_through(w)).max(self.released);
            by_tick.entry(tick.max(passed.saturating_add(self.interval_us))).or_default().push(row);
        }
        for (tick, rows) in by_tick {
            let delta = delta.take(&rows)?;
            self.held.entry(tick).or_default().push((input, delta));
        }
        Ok(())
    }

    /// The ticks that `watermark` has reached and that have rows, in order; each one's rows by time, input and arrival.
    pub fn release(&mut self, watermark: Option<i64>) -> Result<Vec<(i64, Tick)>, DataFusionError> {
        let Some(watermark) = watermark else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > watermark {
                break;
            }
            let (tick, rows) = entry.remove_entry();
            out.push((tick, in_order(&rows)?));
        }
        self.released = self.released.max(self.released_through(watermark).min(i64::MAX - self.interval_us));
        Ok(out)
    }

    /// Rows of a view's one input on their way through its gate, where it has one: what is let through, tick by tick.
    pub fn pass(gate: &mut Option<Self>, delta: Delta, watermark: Option<i64>) -> Result<Vec<Delta>, DataFusionError> {
        let Some(gate) = gate else { return Ok(vec![delta]) };
        gate.push(0, &delta)?;
        Ok(gate.release(watermark)?.into_iter().flat_map(|(_, rows)| rows.into_iter().map(|(_, delta)| delta)).collect())
    }

    /// A copy for a snapshot.
    pub fn pieces(&self) -> GatePieces {
        GatePieces {
            released: self.released,
            held: self.held.iter().flat_map(|(tick, rows)| rows.iter().map(|(input, d)| (*tick, *input, d.clone()))).collect(),
        }
    }

    pub fn restore(&mut self, pieces: &mut Pieces) -> Result<(), StateError> {
        for batch in pieces.take_all("gate") {
            let n = batch.num_columns() - 2;
            let delta = Delta::from_kept(&batch.project(&(0..n).collect::<Vec<_>>())?)?;
            let tick = batch.column(n).as_primitive::<Int64Type>().value(0);
            let input = batch.column(n + 1).as_primitive::<UInt64Type>().value(0) as usize;
            self.held.entry(tick).or_default().push((input, delta));
        }
        if let Ok(batch) = pieces.take("gate.released") {
            self.released = batch.column(0).as_primitive::<Int64Type>().value(0);
        }
        Ok(())
    }
}

pub struct GatePieces {
    released: i64,
    held: Vec<(i64, usize, Delta)>,
}

impl GatePieces {
    pub fn add_to(self, pieces: &mut Pieces) -> Result<(), StateError> {
        pieces.batches.push(("gate.released".to_owned(), crate::ops::single_column("released", Arc::new(Int64Array::from(vec![self.released])))?));
        for (tick, input, delta) in self.held {
            if delta.is_empty() {
                continue;
            }
            let n = delta.len();
            let kept = delta.to_kept()?;
            let mut columns: Vec<ArrayRef> = kept.columns().to_vec();
            columns.extend([Arc::new(Int64Array::from(vec![tick; n])) as ArrayRef, Arc::new(UInt64Array::from(vec![input as u64; n]))]);
            let mut fields: Vec<Field> = kept.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
            fields.extend([("__tick", DataType::Int64), ("__input", DataType::UInt64)].map(|(n, t)| Field::new(n, t, true)));
            pieces.batches.push(("gate".to_owned(), RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?));
        }
        Ok(())
    }
}

/// Rows of one tick sorted by (time, input, arrival), as runs of one input.
fn in_order(rows: &[(usize, Delta)]) -> Result<Tick, DataFusionError> {
    let mut order: Vec<(i64, usize, usize, usize)> = Vec::new();
    for (part, (input, delta)) in rows.iter().enumerate() {
        order.extend(delta.times.iter().enumerate().map(|(row, time)| (*time, *input, part, row)));
    }
    // Stable by construction: (part, row) is the arrival.
    order.sort_unstable();
    let run = |run: &[(i64, usize, usize, usize)]| rows[run[0].2].1.take(&run.iter().map(|o| o.3).collect::<Vec<_>>());
    let of_input = order.chunk_by(|a, b| a.1 == b.1);
    of_input
        .map(|rows_of_input| {
            let runs: Vec<Delta> = rows_of_input.chunk_by(|a, b| a.2 == b.2).map(run).collect::<Result<_, _>>()?;
            Ok((rows_of_input[0].1, Delta::concat(&runs[0].batch.schema(), runs)?))
        })
        .collect()
}
