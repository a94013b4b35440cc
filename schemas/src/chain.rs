//! The first record wins: which records of an epoch topic's partition are accepted.
//!
//! Every reader runs this same rule over the same records in the same order, so all of them accept the same ones
//! without talking to each other.

use crate::epoch::{EpochHeader, EpochId};
use serde::{Deserialize, Serialize};

/// Where a reader stands on the accepted chain of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPosition {
    /// The next offset to read in the partition.
    pub next_offset: u64,
    /// Number and id of the last accepted epoch; 0 and the zero id before the first.
    pub epoch: u64,
    pub id: EpochId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// A record of an owner that had lost the task, or one that was appended twice.
    Ignored,
}

impl ChainPosition {
    /// Judges the record at `offset` and moves past it either way.
    pub fn offer(&mut self, offset: u64, header: &EpochHeader) -> Verdict {
        self.next_offset = offset + 1;
        if header.epoch == self.epoch + 1 && header.parent == self.id {
            self.epoch = header.epoch;
            self.id = header.id;
            Verdict::Accepted
        } else {
            Verdict::Ignored
        }
    }
}
