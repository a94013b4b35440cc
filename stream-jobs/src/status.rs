//! What a task can say of itself to a person who asks why nothing comes out. It is no part of the state: it counts since the task was taken
//! over, and is looked at, never read back.

use schemas::Counters;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub inputs: Vec<InputStatus>,
    pub views: Vec<ViewStatus>,
}

/// An input of a task: a partition of a source's topic, or of another level's epoch topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputStatus {
    /// `usage.v1/3`.
    pub name: String,
    /// Name and watermark's bound of the source, in microseconds; none for epochs.
    pub source: Option<(String, i64)>,
    /// UTC microseconds; `i64::MAX` when the input has ended, none before its first row.
    pub watermark: Option<i64>,
    /// The log said that nothing more is there.
    pub caught_up: bool,
    /// Caught up and quiet for the idle timeout: it holds nobody back.
    pub idle: bool,
    pub ended: bool,
    /// Of a source: what became of its rows.
    pub counters: Counters,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewStatus {
    pub name: String,
    pub watermark: Option<i64>,
    /// What its watermark is the least of: the name of an input, and of a view where that is an input of other tasks.
    pub held_by: Vec<HeldBy>,
    pub rows_in: u64,
    pub rows_out: u64,
    pub late: u64,
    /// Rows that its conditions kept out.
    pub filtered: u64,
    /// Ends of the first and the last window that hold rows.
    pub open: Option<(i64, i64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// As in [`InputStatus::name`].
    pub input: String,
    /// The view that is read from another level.
    pub view: Option<String>,
    pub watermark: Option<i64>,
}
