//! A window that slides, put together out of panes at the price of those that enter and leave.
//!
//! Where every aggregate can take values back, the panes that left are taken out of what stood. Where one cannot (min, max, kept
//! rows), two stacks serve: merged tails of the older panes, made once for many slides, and the sum of the newer ones
//! (the two-stack queue: Tangwongsan, Hirzel, Schneider, "Low-latency sliding-window aggregation", DEBS 2017). A slide costs the
//! keys of the panes that move, and for the second kind the keys of the window.

use crate::{
    plan::AggregateCall,
    state::{Groups, StateError},
};
use std::collections::BTreeMap;

type Panes = BTreeMap<i64, Groups>;

pub struct Sliding {
    calls: Vec<AggregateCall>,
    unmerges: bool,
    /// Start and end of what stands in `groups`.
    span: Option<(i64, i64)>,
    groups: Groups,
    /// The two stacks: tails of the panes before `middle` by their first pane, and the panes from there on.
    tails: Panes,
    middle: i64,
    front: Groups,
}

impl Sliding {
    pub fn new(calls: &[AggregateCall]) -> Self {
        let groups = Groups::new(calls);
        Self { unmerges: groups.unmerges(), calls: calls.to_vec(), span: None, groups, tails: Panes::new(), middle: i64::MIN, front: Groups::new(calls) }
    }

    /// The groups of the span that was asked for last.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Start and end of what stands.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.span
    }

    /// True where the panes of the span are looked at when the window moves on.
    pub fn needs_panes(&self) -> bool {
        self.unmerges
    }

    /// What stands is put together anew when it is asked for next.
    pub fn forget(&mut self) {
        *self = Self::new(&std::mem::take(&mut self.calls));
    }

    /// As [`Sliding::forget`], where the pane at `pane` is part of what stands.
    pub fn forget_if_it_holds(&mut self, pane: i64) {
        if self.span.is_some_and(|(start, end)| (start..end).contains(&pane)) {
            self.forget();
        }
    }

    /// Puts the window `[start, end)` together. Starts and ends never go back.
    pub fn move_to(&mut self, panes: &Panes, start: i64, end: i64) -> Result<(), StateError> {
        match self.span {
            Some(span) if span == (start, end) => return Ok(()),
            Some((from, to)) if from <= start && start < to && to <= end => {}
            _ => {
                self.forget();
                self.middle = start;
                self.span = Some((start, start));
            }
        }
        let (from, to) = self.span.unwrap_or((start, start));
        if self.unmerges {
            for pane in panes.range(to..end).map(|(_, pane)| pane) {
                self.groups.merge(pane)?;
            }
            for pane in panes.range(from..start).map(|(_, pane)| pane) {
                self.groups.unmerge(pane);
            }
            self.compact()?;
        } else {
            for pane in panes.range(to..end).map(|(_, pane)| pane) {
                self.front.merge(pane)?;
            }
            if start > self.middle || self.tails.is_empty() {
                self.turn(panes, start, end)?;
            }
            self.tails = self.tails.split_off(&start);
            self.groups = Groups::new(&self.calls);
            if let Some((_, tail)) = self.tails.first_key_value() {
                self.groups.merge(tail)?;
            }
            self.groups.merge(&self.front)?;
        }
        self.span = Some((start, end));
        Ok(())
    }

    /// All panes of the window become tails, the newest first.
    fn turn(&mut self, panes: &Panes, start: i64, end: i64) -> Result<(), StateError> {
        self.tails.clear();
        let mut later: Option<i64> = None;
        for (at, pane) in panes.range(start..end).rev() {
            let mut tail = Groups::new(&self.calls);
            tail.merge(pane)?;
            if let Some(later) = later.and_then(|at| self.tails.get(&at)) {
                tail.merge(later)?;
            }
            self.tails.insert(*at, tail);
            later = Some(*at);
        }
        self.middle = end;
        self.front = Groups::new(&self.calls);
        Ok(())
    }

    /// Keys without rows are left out when they are most of all.
    fn compact(&mut self) -> Result<(), StateError> {
        let live: Vec<u32> = self.groups.live_ids().collect();
        if live.len() * 2 < self.groups.len() {
            self.groups = self.groups.only(&live)?;
        }
        Ok(())
    }

    /// Everything that holds the pane at `pane`: rows that come into it later are folded into each. `None`: the window has to be put
    /// together anew, because a pane is new among the older ones.
    pub fn holding(&mut self, pane: i64) -> Option<Vec<&mut Groups>> {
        if self.span.is_none_or(|(start, end)| pane < start || pane >= end) {
            return Some(Vec::new());
        }
        if self.unmerges {
            return Some(vec![&mut self.groups]);
        }
        if pane >= self.middle {
            return Some(vec![&mut self.groups, &mut self.front]);
        }
        self.tails.contains_key(&pane).then(|| std::iter::once(&mut self.groups).chain(self.tails.range_mut(..=pane).map(|(_, tail)| tail)).collect())
    }

    /// Puts what stands together anew.
    pub fn renew(&mut self, panes: &Panes) -> Result<(), StateError> {
        let Some((start, end)) = self.span else { return Ok(()) };
        self.forget();
        self.move_to(panes, start, end)
    }
}
