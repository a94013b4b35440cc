//! The groups of a pane, of a window or of a view without one: which keys are there, and their aggregates.

use super::{
    StateError,
    accumulator::{Accumulator, Rows},
    column::Column,
};
use crate::plan::AggregateCall;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array, cast::AsArray, types::*};
use arrow_schema::{Field, Schema};
use std::sync::Arc;

const SLOTS: usize = 256;
const NO_SLOT: u32 = u32::MAX;

/// Key id to slot: pages of [`SLOTS`] ids that exist where a key of theirs does.
#[derive(Debug, Default)]
struct SlotMap {
    pages: Vec<Option<Box<[u32]>>>,
}

impl SlotMap {
    fn get(&self, id: u32) -> u32 {
        match self.pages.get(id as usize / SLOTS) {
            Some(Some(page)) => page[id as usize % SLOTS],
            _ => NO_SLOT,
        }
    }

    fn entry(&mut self, id: u32) -> &mut u32 {
        let page = id as usize / SLOTS;
        if page >= self.pages.len() {
            self.pages.resize(page + 1, None);
        }
        let page = self.pages[page].get_or_insert_with(|| vec![NO_SLOT; SLOTS].into_boxed_slice());
        &mut page[id as usize % SLOTS]
    }
}

#[derive(Debug)]
pub struct Groups {
    slots: SlotMap,
    /// Slot to key id.
    ids: Column<u32>,
    /// Rows behind a slot; a slot with none left (after retractions) is no group.
    rows: Column<i64>,
    accumulators: Vec<Accumulator>,
}

impl Groups {
    pub fn new(calls: &[AggregateCall]) -> Self {
        Self { slots: SlotMap::default(), ids: Column::default(), rows: Column::default(), accumulators: calls.iter().map(Accumulator::new).collect() }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn slot(&self, id: u32) -> Option<u32> {
        Some(self.slots.get(id)).filter(|s| *s != NO_SLOT)
    }

    /// True when the key has rows here.
    pub fn holds(&self, id: u32) -> bool {
        self.slot(id).is_some_and(|s| *self.rows.get(s as usize) > 0)
    }

    /// Those of `ids` that have rows here, and for each of `ids` its place among them.
    pub fn held(&self, ids: &[u32]) -> (Vec<u32>, Vec<Option<usize>>) {
        let mut held = Vec::with_capacity(ids.len());
        let mut places = Vec::with_capacity(ids.len());
        for id in ids {
            let holds = self.holds(*id);
            places.push(holds.then_some(held.len()));
            held.extend(holds.then_some(*id));
        }
        (held, places)
    }

    pub fn id(&self, slot: u32) -> u32 {
        *self.ids.get(slot as usize)
    }

    /// Key ids in slot order, those without rows left out.
    pub fn live_ids(&self) -> impl Iterator<Item = u32> {
        self.ids.iter().zip(self.rows.iter()).filter(|(_, n)| **n > 0).map(|(id, _)| *id)
    }

    /// The slots of `ids`, made where they are new.
    pub fn slots_for(&mut self, ids: &[u32]) -> Vec<u32> {
        let mut slots = Vec::with_capacity(ids.len());
        for id in ids {
            let slot = self.slots.entry(*id);
            if *slot == NO_SLOT {
                *slot = self.ids.len() as u32;
                self.ids.push(*id);
            }
            slots.push(*slot);
        }
        self.rows.grow(self.ids.len(), 0);
        for a in &mut self.accumulators {
            a.grow(self.ids.len());
        }
        slots
    }

    /// Counts the rows of `slots` in (`step` 1) or out (−1), after the calls have had them.
    pub fn count_rows(&mut self, slots: &[u32], step: i64) {
        for slot in slots {
            *self.rows.get_mut(*slot as usize) += step;
        }
    }

    /// Folds one call's rows, which are counted when all calls have them.
    pub fn update(&mut self, call: usize, rows: &Rows<'_>, retract: bool) -> Result<(), StateError> {
        let accumulator = &mut self.accumulators[call];
        if retract { accumulator.retract(rows, &self.rows) } else { accumulator.update(rows, &self.rows) }
    }

    /// Folds a row of states into each of `slots`: those of all `calls`, one behind the other in `columns`.
    pub fn add_states(&mut self, slots: &[u32], calls: &[AggregateCall], columns: &[ArrayRef]) -> Result<(), StateError> {
        let mut at = 0;
        for (i, (accumulator, call)) in self.accumulators.iter_mut().zip(calls).enumerate() {
            let n = Accumulator::state_fields(call, i).len();
            accumulator.update_from_states(slots, &columns[at..at + n], &self.rows)?;
            at += n;
        }
        self.count_rows(slots, 1);
        Ok(())
    }

    /// Folds all groups of `other`, which is later, into this one.
    pub fn merge(&mut self, other: &Self) -> Result<(), StateError> {
        let sources: Vec<u32> = (0..other.len() as u32).collect();
        self.merge_slots(other, &sources)
    }

    /// Folds the groups of the keys `ids`, where `other` has them.
    pub fn merge_ids(&mut self, other: &Self, ids: &[u32]) -> Result<(), StateError> {
        let sources: Vec<u32> = ids.iter().filter_map(|id| other.slot(*id)).collect();
        self.merge_slots(other, &sources)
    }

    fn merge_slots(&mut self, other: &Self, sources: &[u32]) -> Result<(), StateError> {
        let ids: Vec<u32> = sources.iter().map(|s| other.id(*s)).collect();
        let slots = self.slots_for(&ids);
        for (mine, theirs) in self.accumulators.iter_mut().zip(&other.accumulators) {
            mine.merge(&slots, &self.rows, (theirs, &other.rows), sources)?;
        }
        for (slot, source) in slots.iter().zip(sources) {
            *self.rows.get_mut(*slot as usize) += *other.rows.get(*source as usize);
        }
        Ok(())
    }

    /// True where [`Groups::unmerge`] can take every aggregate back.
    pub fn unmerges(&self) -> bool {
        self.accumulators.iter().all(Accumulator::unmerges)
    }

    /// Takes all groups of `other`, which was merged before, out again.
    pub fn unmerge(&mut self, other: &Self) {
        let sources: Vec<u32> = (0..other.len() as u32).collect();
        let slots: Vec<u32> = sources.iter().map(|s| self.slots.get(other.id(*s))).collect();
        for (mine, theirs) in self.accumulators.iter_mut().zip(&other.accumulators) {
            mine.unmerge(&slots, &self.rows, (theirs, &other.rows), &sources);
        }
        for (slot, source) in slots.iter().zip(&sources) {
            *self.rows.get_mut(*slot as usize) -= *other.rows.get(*source as usize);
        }
    }

    /// Results of all calls for the keys `ids`, each of which is held.
    pub fn evaluate(&self, ids: &[u32]) -> Result<Vec<ArrayRef>, StateError> {
        let slots = self.held_slots(ids);
        self.accumulators.iter().map(|a| a.evaluate(&slots, &self.rows)).collect()
    }

    fn held_slots(&self, ids: &[u32]) -> Vec<u32> {
        debug_assert!(ids.iter().all(|id| self.holds(*id)), "only keys that have rows have results");
        ids.iter().map(|id| self.slots.get(*id)).collect()
    }

    /// State columns of all calls for the keys `ids`, each of which is held.
    pub fn states(&self, ids: &[u32]) -> Result<Vec<ArrayRef>, StateError> {
        let slots = self.held_slots(ids);
        let states = self.accumulators.iter().map(|a| a.states(&slots, &self.rows)).collect::<Result<Vec<_>, _>>()?;
        Ok(states.into_iter().flatten().collect())
    }

    /// Folds the group of the key `from` into that of `into`, and leaves it empty.
    pub fn move_into(&mut self, into: u32, from: u32) -> Result<(), StateError> {
        let mut moved = self.only(&[from])?;
        moved.renumber_by(|_| into);
        self.clear(from);
        self.merge(&moved)
    }

    /// Leaves the key's group empty.
    pub fn clear(&mut self, id: u32) {
        if let Some(slot) = self.slot(id) {
            *self.rows.get_mut(slot as usize) = 0;
            self.accumulators.iter_mut().for_each(|a| a.clear(slot as usize));
        }
    }

    /// The groups of the keys `ids`, in that order.
    pub fn only(&self, ids: &[u32]) -> Result<Self, StateError> {
        let accumulators = self.accumulators.iter().map(Accumulator::empty).collect();
        let mut groups = Self { slots: SlotMap::default(), ids: Column::default(), rows: Column::default(), accumulators };
        groups.merge_ids(self, ids)?;
        Ok(groups)
    }

    /// The ids of all keys change: `moved[old] = new`.
    pub fn renumber(&mut self, moved: &[u32]) {
        self.renumber_by(|id| moved[id as usize]);
    }

    pub fn renumber_by(&mut self, moved: impl Fn(u32) -> u32) {
        self.ids = self.ids.iter().map(|id| moved(*id)).collect();
        self.slots = SlotMap::default();
        for (slot, id) in self.ids.iter().enumerate() {
            *self.slots.entry(*id) = slot as u32;
        }
    }

    pub fn freeze(&mut self) -> Self {
        Self {
            slots: SlotMap::default(),
            ids: self.ids.freeze(),
            rows: self.rows.freeze(),
            accumulators: self.accumulators.iter_mut().map(Accumulator::freeze).collect(),
        }
    }

    /// Snapshot batches under `name`: the groups, and `name.rows.I` for each call that keeps its argument rows.
    pub fn to_batches(&self, name: &str) -> Result<Vec<(String, RecordBatch)>, StateError> {
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(UInt32Array::from_iter_values(self.ids.iter().copied())), Arc::new(Int64Array::from_iter_values(self.rows.iter().copied()))];
        let mut batches = Vec::new();
        for (i, a) in self.accumulators.iter().enumerate() {
            let (more, rows) = a.to_snapshot(self.ids.len())?;
            columns.extend(more);
            batches.extend(rows.map(|r| (format!("{name}.rows.{i}"), r)));
        }
        let fields: Vec<Field> = columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
        batches.insert(0, (name.to_owned(), RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?));
        Ok(batches)
    }

    /// The same groups with other calls: `from[i]` is the call of before that is now call `i`; without one a call has seen no row.
    pub fn with_calls(mut self, calls: &[AggregateCall], from: &[Option<usize>]) -> Self {
        let mut before: Vec<Option<Accumulator>> = self.accumulators.into_iter().map(Some).collect();
        let mut after = Vec::with_capacity(calls.len());
        for (call, from) in calls.iter().zip(from) {
            let taken = from.and_then(|i| before.get_mut(i)?.take());
            after.push(taken.unwrap_or_else(|| {
                let mut accumulator = Accumulator::new(call);
                accumulator.grow_unseen(self.ids.len());
                accumulator
            }));
        }
        self.accumulators = after;
        self
    }

    pub fn restore(calls: &[AggregateCall], name: &str, pieces: &mut super::Pieces) -> Result<Self, StateError> {
        let batch = pieces.take(name)?;
        let mut groups = Self::new(calls);
        groups.ids = batch.column(0).as_primitive::<UInt32Type>().values().iter().copied().collect();
        groups.rows = batch.column(1).as_primitive::<Int64Type>().values().iter().copied().collect();
        for (slot, id) in groups.ids.iter().enumerate() {
            *groups.slots.entry(*id) = slot as u32;
        }
        let mut at = 2;
        for (i, a) in groups.accumulators.iter_mut().enumerate() {
            let rows = pieces.take(&format!("{name}.rows.{i}")).ok();
            at += a.restore(&batch.columns()[at..], rows, batch.num_rows())?;
        }
        Ok(groups)
    }
}
