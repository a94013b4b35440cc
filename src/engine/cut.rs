//! The cut: what an epoch takes from each input.
//!
//! The input with the least watermark is read first; one that is more than [`ALIGN_US`] of event time ahead of an input that
//! still has something to say waits for it. A cut takes at most one batch of each input, as its feed made it,
//! up to the row limit: batches grow by themselves under load.

use super::{
    TaskError,
    feed::{Fed, Feed},
};
use schemas::Output;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use stream_jobs::task::{Content, EpochInput, InputCut};

/// One hour of event time.
const ALIGN_US: i64 = 3_600_000_000;
/// An answer "nothing more" that is older than this says nothing about idleness.
const FRESH: Duration = Duration::from_secs(10);
/// Of tables' records in one epoch: what they leave of its record is the outputs'.
const COPIED_BYTES_MAX: usize = 192 * 1024;

pub struct Inputs {
    inputs: Vec<Pending>,
    rows_max: usize,
    aligned: bool,
}

struct Pending {
    feed: Feed,
    waiting: VecDeque<Fed>,
    /// Next offset that the task takes.
    next: u64,
    /// When the log last said that nothing stood after what it gave.
    caught_up_at: Option<Instant>,
}

impl Inputs {
    /// `aligned`: inputs are sources, whose event times must not run apart. Other levels' epochs carry their watermarks and need no order.
    pub fn new(feeds: Vec<(Feed, u64)>, rows_max: usize, aligned: bool) -> Self {
        let inputs = feeds.into_iter().map(|(feed, next)| Pending { feed, waiting: VecDeque::new(), next, caught_up_at: None }).collect();
        Self { inputs, rows_max, aligned }
    }

    /// Takes over what the feeds have ready.
    pub fn drain(&mut self) -> Result<(), TaskError> {
        for input in &mut self.inputs {
            while input.waiting.len() < 2 {
                let Ok(fed) = input.feed.fed.try_recv() else { break };
                let fed = fed?;
                input.caught_up_at = fed.caught_up.then(Instant::now);
                if fed.rows > 0 {
                    input.waiting.push_back(fed);
                }
            }
        }
        Ok(())
    }

    pub fn has_rows(&self) -> bool {
        self.inputs.iter().any(|i| !i.waiting.is_empty())
    }

    pub fn positions(&self) -> Vec<u64> {
        self.inputs.iter().map(|i| i.next).collect()
    }

    /// Cuts an epoch; beside it the records of tables that it takes. `take` is false while the task's outputs wait for room: then it
    /// takes nothing.
    pub fn cut(&mut self, now_ms: i64, watermarks: &[Option<i64>], take: bool) -> (EpochInput, Vec<Output>) {
        let mut order: Vec<usize> = (0..self.inputs.len()).collect();
        order.sort_by_key(|i| (watermarks[*i], *i));
        // Who may still be behind: not known to be at its end.
        let least = order.iter().filter(|i| !self.inputs[**i].is_at_end()).map(|i| watermarks[*i]).min();
        let mut taken: Vec<Option<Fed>> = self.inputs.iter().map(|_| None).collect();
        let (mut rows, mut copied, mut copies) = (0, 0, Vec::new());
        for i in order.into_iter().filter(|_| take) {
            if self.aligned && is_ahead(watermarks[i], least) {
                continue;
            }
            let has_room = |fed: &Fed| copied == 0 || fed.copy.as_ref().is_none_or(|c| copied + c.bytes <= COPIED_BYTES_MAX);
            let fits = self.inputs[i].waiting.front().is_some_and(|fed| (rows == 0 || rows + fed.rows <= self.rows_max) && has_room(fed));
            if let Some(mut fed) = fits.then(|| self.inputs[i].waiting.pop_front()).flatten() {
                rows += fed.rows;
                if let Some(copy) = fed.copy.take() {
                    copied += copy.bytes;
                    copies.push(copy.output);
                }
                taken[i] = Some(fed);
            }
        }
        let inputs = self.inputs.iter_mut().zip(taken).map(|(input, fed)| input.cut(fed)).collect();
        (EpochInput { now_ms, inputs }, copies)
    }
}

fn is_ahead(watermark: Option<i64>, least: Option<Option<i64>>) -> bool {
    match (watermark, least) {
        (Some(w), Some(Some(least))) => w != i64::MAX && w > least.saturating_add(ALIGN_US),
        // An input without any row yet, and not known to be at its end, is the least of all.
        (Some(_), Some(None)) => true,
        _ => false,
    }
}

impl Pending {
    fn is_at_end(&self) -> bool {
        self.waiting.is_empty() && self.caught_up_at.is_some_and(|at| at.elapsed() < FRESH)
    }

    fn cut(&mut self, fed: Option<Fed>) -> InputCut {
        let from = self.next;
        let (to, content) = fed.map_or((from, Content::Nothing), |f| (f.to, f.content));
        self.next = to;
        InputCut { from, to, caught_up: self.is_at_end(), content }
    }
}
