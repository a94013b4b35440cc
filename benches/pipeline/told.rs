//! What came out of a job, added up by window, against what the generator says.

use anyhow::{Context, ensure};
use arrow_array::{cast::AsArray, types::*};
use schemas::{Counters, Output, OutputKind};
use std::collections::{BTreeMap, BTreeSet};
use stream_jobs::{delta::Delta, upstream::read_rows};

/// What a window holds over all keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    pub rows: i64,
    pub count: i64,
    pub sum: i64,
    pub max: i64,
}

/// The rows of a view as they stand: what is taken back is subtracted.
#[derive(Default)]
pub struct Told {
    /// By start; a view without windows is one that starts at 0.
    pub windows: BTreeMap<i64, Window>,
    /// Rows that were told, those that take others back among them.
    pub rows: u64,
    pub counters: Counters,
}

impl Told {
    /// Takes the outputs of an epoch.
    pub fn add(&mut self, view: &str, counters: Counters, outputs: &[Output]) -> anyhow::Result<()> {
        self.counters += counters;
        for output in outputs.iter().filter(|o| o.name == view && matches!(o.kind, OutputKind::Rows | OutputKind::Changes)) {
            self.add_rows(&read_rows(output)?)?;
        }
        Ok(())
    }

    fn add_rows(&mut self, delta: &Delta) -> anyhow::Result<()> {
        let rows = &delta.batch;
        let column = |name: &str| rows.column_by_name(name).with_context(|| format!("the view has no column `{name}`"));
        let starts = rows.column_by_name("window_start").map(|column| column.as_primitive::<TimestampMicrosecondType>());
        let (sums, counts) = (column("down")?.as_primitive::<Int64Type>(), column("records")?.as_primitive::<Int64Type>());
        let maxima = column("up_max")?.as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let adds = delta.op(row).adds();
            let sign = if adds { 1 } else { -1 };
            let window = self.windows.entry(starts.map_or(0, |starts| starts.value(row))).or_default();
            window.rows += sign;
            window.count += sign * counts.value(row);
            window.sum += sign * sums.value(row);
            // The greatest value of a key never falls, so what is taken back need not be looked at.
            if adds {
                window.max = window.max.max(maxima.value(row));
            }
        }
        self.rows += rows.num_rows() as u64;
        Ok(())
    }
}

/// What must come out.
pub struct Expected {
    pub windows: BTreeMap<i64, Window>,
    pub rows_in: u64,
    pub duplicates: u64,
}

impl Expected {
    /// # Errors
    /// The counter or the window that differs.
    pub fn check(&self, told: &Told) -> anyhow::Result<()> {
        let c = &told.counters;
        ensure!(c.rows_in == self.rows_in, "the job took {} rows, there are {}", c.rows_in, self.rows_in);
        ensure!(c.duplicate == self.duplicates, "the job dropped {} duplicates, there are {}", c.duplicate, self.duplicates);
        ensure!([c.late, c.dead, c.misplaced, c.future] == [0; 4], "rows were lost: {c:?}");
        let starts: BTreeSet<&i64> = self.windows.keys().chain(told.windows.keys()).collect();
        for start in starts {
            let (generated, emitted) = (self.windows.get(start), told.windows.get(start));
            ensure!(generated == emitted, "the window from {start} differs: emitted {emitted:?}, generated {generated:?}");
        }
        Ok(())
    }
}
