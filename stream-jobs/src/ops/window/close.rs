//! Closing: windows leave in the order of their ends.

use super::{Mode, WindowOperator};
use crate::{
    delta::{Delta, Gone, Op},
    ops::OpError,
    plan::Phase,
    state::KeyDictionary,
};
use std::collections::BTreeSet;

impl WindowOperator {
    /// Closes the windows that end at or before `watermark`, in order of their ends.
    pub(super) fn close_windows(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let mut out = Vec::new();
        loop {
            let next = self.next_end();
            let missed = self.held.first_key_value().map(|(missed, _)| *missed);
            if let Some(missed) = missed.filter(|missed| *missed <= watermark && next.is_none_or(|end| *missed < end)) {
                self.closed_through = self.closed_through.max(missed);
                out.push(self.take_held()?);
                continue;
            }
            let Some(end) = next else { break };
            let silent_end = self.present.as_ref().map(|(e, _)| e + self.windows.step_us());
            if let Some(silent) = silent_end.filter(|s| *s < end && *s <= watermark) {
                out.push(self.all_gone(silent)?);
            }
            if end > watermark {
                break;
            }
            if self.mode == Mode::Close && end > self.begins_after {
                out.push(self.close(end)?);
            }
            self.closed_through = end;
            self.drop_settled();
        }
        let silent_end = self.present.as_ref().map(|(e, _)| e + self.windows.step_us());
        if let Some(silent) = silent_end.filter(|s| self.next_end().is_none() && *s <= watermark && watermark != i64::MAX) {
            out.push(self.all_gone(silent)?);
        }
        self.closed_through = self.closed_through.max(watermark);
        self.drop_settled();
        self.compact_keys();
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// The end of the next window that has a row.
    pub(super) fn next_end(&self) -> Option<i64> {
        let from = if self.closed_through == i64::MIN { i64::MIN } else { self.windows.start_of(self.windows.first_end_after(self.closed_through)) };
        let (pane, _) = self.panes.range(from..).next()?;
        Some(self.windows.first_end_after((*pane).max(self.closed_through)))
    }

    /// Panes that no window needs any more, neither to close nor to be put right.
    fn drop_settled(&mut self) {
        if self.closed_through == i64::MAX {
            self.panes.clear();
            self.revisions.clear();
            return;
        }
        let settled = if self.plan.revisions { self.closed_through.saturating_sub(self.allowed_us) } else { self.closed_through };
        let mut start = self.windows.start_of(self.windows.first_end_after(settled));
        // What the next window takes out of the last one must still be there.
        if let Some((held, _)) = self.sliding.span().filter(|(_, end)| self.sliding.needs_panes() && start < *end) {
            start = start.min(held);
        }
        while self.panes.first_key_value().is_some_and(|(pane, _)| *pane < start) {
            self.panes.pop_first();
        }
        self.revisions = self.revisions.split_off(&settled.saturating_add(1));
    }

    /// The rows of the window that ends at `end`, sorted by key.
    fn close(&mut self, end: i64) -> Result<Delta, OpError> {
        let start = self.windows.start_of(end);
        let groups = if self.windows.are_panes() {
            match self.panes.get(&start) {
                Some(pane) => pane,
                None => return Ok(self.none()),
            }
        } else {
            self.sliding.move_to(&self.panes, start, end)?;
            self.sliding.groups()
        };
        let ids = self.sorted(groups.live_ids().collect());
        let batch = self.raw_rows(groups, &ids, end)?;
        let rows = batch.num_rows();
        let mut delta = Delta::rows(batch, vec![end - 1; rows]);
        if self.plan.revisions {
            delta.ops = Some(vec![Op::Insert; rows]);
        }
        if self.tracks_silence {
            let now: BTreeSet<u32> = ids.into_iter().collect();
            if let Some((_, before)) = self.present.replace((end, now)) {
                let gone: Vec<u32> = before.into_iter().filter(|id| !self.present.as_ref().is_some_and(|(_, p)| p.contains(id))).collect();
                delta.gone = Some(self.silent(&gone, end)?);
            }
        }
        Ok(delta)
    }

    /// The window after the last one is empty: whoever was present is gone.
    fn all_gone(&mut self, end: i64) -> Result<Delta, OpError> {
        let mut delta = self.none();
        if let Some((_, ids)) = self.present.take() {
            delta.gone = Some(self.silent(&self.sorted(ids.into_iter().collect()), end)?);
        }
        Ok(delta)
    }

    /// Rows of the keys `ids` that fell silent in the window that ends at `end`.
    fn silent(&self, ids: &[u32], end: i64) -> Result<Gone, OpError> {
        let keys = self.codec.decode(ids.iter().map(|id| self.dictionary.key(*id)))?;
        let groups = self.plan.group.len();
        let nulls = self.raw_schema.fields()[groups..].iter().map(|f| arrow_array::new_null_array(f.data_type(), ids.len())).collect();
        Ok(Gone { batch: self.assemble(keys, nulls, ids.len(), self.windows.start_of(end), end)?, times: vec![end; ids.len()] })
    }

    /// Forgets keys that no pane holds, when they are most of the dictionary.
    fn compact_keys(&mut self) {
        if self.dictionary.len() < 65_536 || self.current.is_some() || self.present.is_some() || !self.revisions.is_empty() {
            return;
        }
        let mut live = vec![false; self.dictionary.len()];
        let mut n = 0;
        for pane in self.panes.values() {
            for id in pane.live_ids() {
                n += usize::from(!std::mem::replace(&mut live[id as usize], true));
            }
        }
        if n * 4 > self.dictionary.len() {
            return;
        }
        let mut fresh = KeyDictionary::default();
        let moved: Vec<u32> = live.iter().enumerate().map(|(id, live)| if *live { fresh.intern(self.dictionary.key(id as u32)) } else { 0 }).collect();
        self.panes.values_mut().for_each(|pane| pane.renumber(&moved));
        self.sliding.forget();
        self.dictionary = fresh;
    }

    /// Closes or moves windows by a tick. The shown window goes through every end on its way, as it would if each tick were an epoch.
    pub(super) fn advance_to_tick(&mut self, tick: i64) -> Result<Delta, OpError> {
        if self.mode != Mode::Current {
            return self.close_windows(self.due(tick));
        }
        let mut out = Vec::new();
        while let Some(end) = self.current.filter(|end| tick != i64::MAX && *end <= tick) {
            // Where nothing is shown, the empty windows before the next pane are passed over.
            let shows = self.sliding.groups().live_ids().next().is_some();
            let next = if shows { end } else { self.panes.range(end..).next().map_or(tick, |(pane, _)| *pane).min(tick) };
            out.push(self.slide_current(next)?);
        }
        out.push(self.slide_current(tick)?);
        Ok(Delta::concat(&self.raw_schema, out)?)
    }

    /// Closes or moves windows by the watermark, after the rows of the epoch.
    pub(super) fn advance(&mut self, mut out: Vec<Delta>, watermark: Option<i64>) -> Result<Delta, OpError> {
        if let Some(watermark) = watermark {
            out.push(match (self.mode, &self.gate) {
                (Mode::Current, None) => self.slide_current(watermark)?,
                // Rows that wait for their tick still count in windows that the watermark has passed.
                (_, Some(gate)) => self.advance_to_tick(gate.released_through(watermark))?,
                _ => self.close_windows(self.due(watermark))?,
            });
        }
        let out = Delta::concat(&self.raw_schema, out)?;
        if self.plan.phase == Phase::Partial { Ok(out) } else { Ok(out.through(&self.plan.post)?) }
    }
}
