//! Reads a partition of the embedded log: a block is verified and copied out of the database once, its records are
//! slices of it, and what a fetch leaves over serves the next one.

use super::{
    Shared, Topic,
    block::{BlockReader, Place},
};
use crate::log::{Fetch, LogError, LogReader};
use async_trait::async_trait;
use schemas::Record;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// A longer wait is this one; the caller asks again.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

pub struct EmbeddedReader {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    partition: u32,
    position: u64,
    /// The block that holds `position`, read up to it.
    rest: Option<BlockReader>,
    end: watch::Receiver<u64>,
}

/// What one fetch may still take.
struct Budget {
    records: usize,
    bytes: usize,
}

impl EmbeddedReader {
    pub fn new(shared: Arc<Shared>, topic: Arc<Topic>, partition: u32, from: u64) -> Result<Self, LogError> {
        let end = topic.partition(partition)?.end.subscribe();
        Ok(Self { shared, topic, partition, position: from, rest: None, end })
    }

    fn check_range(&self, end: u64) -> Result<(), LogError> {
        let start = self.topic.partition(self.partition)?.start.load(Ordering::Acquire);
        if (start..=end).contains(&self.position) {
            return Ok(());
        }
        let topic = self.topic.spec.name.clone();
        Err(LogError::OffsetOutOfRange { topic, partition: self.partition, offset: self.position, start, end })
    }

    /// The records from the position on.
    fn read(&mut self, budget: &mut Budget, end: u64) -> Result<Vec<Record>, LogError> {
        let mut records = Vec::with_capacity(budget.records.min((end - self.position) as usize).min(65_536));
        if let Some(mut block) = self.rest.take()
            && !take_records(&mut block, &mut records, budget)
        {
            self.rest = Some(block);
        }
        let next = records.last().map_or(self.position, |r| r.offset + 1);
        if self.rest.is_none() && next < end && !budget.spent(&records) {
            let from = Place { topic: self.topic.id, partition: self.partition, base_offset: next };
            let rest = &mut self.rest;
            let read = self.shared.store.blocks(from, &self.topic.spec.name, end, |mut block| {
                let all = take_records(&mut block, &mut records, budget);
                if !all {
                    *rest = Some(block);
                }
                !all || budget.spent(&records)
            });
            // What verified before a damaged block is delivered; the next fetch starts at the damage and says so.
            if records.is_empty() {
                read?;
            }
        }
        self.position = records.last().map_or(self.position, |r| r.offset + 1);
        Ok(records)
    }
}

impl Budget {
    fn spent(&self, records: &[Record]) -> bool {
        !records.is_empty() && (self.records == 0 || self.bytes == 0)
    }
}

/// True when the block was read to its end.
fn take_records(block: &mut BlockReader, records: &mut Vec<Record>, budget: &mut Budget) -> bool {
    while !budget.spent(records) {
        let Some((record, bytes)) = block.next_record() else { return true };
        records.push(record);
        budget.records = budget.records.saturating_sub(1);
        budget.bytes = budget.bytes.saturating_sub(bytes);
    }
    block.is_read()
}

#[async_trait]
impl LogReader for EmbeddedReader {
    async fn fetch(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Fetch, LogError> {
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        loop {
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(LogError::Closed);
            }
            let end = *self.end.borrow_and_update();
            self.check_range(end)?;
            if self.position < end {
                let mut budget = Budget { records: max_records, bytes: max_bytes };
                let records = self.read(&mut budget, end)?;
                let behind = self.end.borrow().saturating_sub(self.position);
                return Ok(Fetch { records, caught_up: behind == 0, behind });
            }
            let woken = tokio::time::timeout_at(deadline, self.end.changed()).await;
            if woken.is_err() {
                return Ok(Fetch { records: Vec::new(), caught_up: true, behind: 0 });
            }
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, offset: u64) {
        self.position = offset;
        self.rest = None;
    }
}
