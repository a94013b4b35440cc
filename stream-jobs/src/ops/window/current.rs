//! [`Mode::Current`]: one row a key, that of the window that ends next.
//!
//! [`Mode::Current`]: super::Mode::Current

use super::{CallValues, WindowOperator, WindowRows, changes};
use crate::{delta::Delta, ops::OpError, state::Groups};
use std::collections::{BTreeMap, BTreeSet};

impl WindowOperator {
    pub(super) fn fold_current(
        &mut self,
        by_pane: &BTreeMap<i64, Option<Vec<u32>>>,
        ids: &[u32],
        args: &[CallValues],
        times: &[i64],
    ) -> Result<Delta, OpError> {
        let Some(end) = self.current else {
            self.apply(by_pane, ids, args, times)?;
            return Ok(self.none());
        };
        let window = self.windows.start_of(end)..end;
        let inside = times.iter().zip(ids).filter(|(time, _)| window.contains(*time)).map(|(_, id)| *id);
        let touched = self.sorted(inside.collect::<BTreeSet<u32>>().into_iter().collect());
        let before = self.current_rows(self.sliding.groups(), &touched, end)?;
        self.apply(by_pane, ids, args, times)?;
        let after = self.current_rows(self.sliding.groups(), &touched, end)?;
        changes(&BTreeMap::from([(end, touched)]), &before, &after)
    }

    fn current_rows(&self, groups: &Groups, ids: &[u32], end: i64) -> Result<WindowRows, OpError> {
        let (held, index) = groups.held(ids);
        Ok(WindowRows { index, batch: self.raw_rows(groups, &held, end)? })
    }

    /// Moves the shown window to the one that ends next after `watermark`; every key whose row moves with it is a change,
    /// those that fell silent too.
    pub(super) fn slide_current(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let end = match self.current {
            Some(end) if watermark == i64::MAX => end,
            None if watermark == i64::MAX => self.panes.last_key_value().map_or(i64::MAX, |(start, _)| self.windows.first_end_after(*start)),
            _ => self.windows.first_end_after(watermark),
        };
        if self.current.is_some_and(|shown| shown >= end) || end == i64::MAX {
            return Ok(self.none());
        }
        let shown = self.sorted(self.sliding.groups().live_ids().collect());
        let mut before = self.current_rows(self.sliding.groups(), &shown, self.current.unwrap_or(end))?;
        let places: BTreeMap<u32, usize> = shown.iter().zip(&before.index).filter_map(|(id, place)| Some((*id, (*place)?))).collect();
        self.sliding.move_to(&self.panes, self.windows.start_of(end), end)?;
        let standing = shown.into_iter().chain(self.sliding.groups().live_ids()).collect::<BTreeSet<u32>>();
        let ids = self.sorted(standing.into_iter().collect());
        let after = self.current_rows(self.sliding.groups(), &ids, end)?;
        before.index = ids.iter().map(|id| places.get(id).copied()).collect();
        self.current = Some(end);
        self.closed_through = self.closed_through.max(end - self.windows.step_us());
        let start = self.windows.start_of(end);
        while self.panes.first_key_value().is_some_and(|(pane, _)| *pane < start) {
            self.panes.pop_first();
        }
        changes(&BTreeMap::from([(end, ids)]), &before, &after)
    }
}
