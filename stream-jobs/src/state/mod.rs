//! Keyed state: what an operator remembers, in columns that can be frozen at an epoch boundary without stopping.
//!
//! A frozen copy shares its chunks with the live state; the live state copies a chunk when it next writes to it. Freezing
//! therefore costs one pointer per chunk, and a snapshot is written while the task works on.

pub mod accumulator;
pub mod bag;
pub mod column;
pub mod exact;
pub mod extreme;
pub mod groups;
pub mod keys;
pub mod number;
pub mod seen;
pub mod whole;

pub use accumulator::Accumulator;
pub use column::Column;
pub use groups::Groups;
pub use keys::{KeyCodec, KeyDictionary};

use arrow_array::RecordBatch;

/// An operator's state as it stands in a snapshot: a small JSON value and named Arrow batches.
#[derive(Debug, Default)]
pub struct Pieces {
    pub meta: serde_json::Value,
    pub batches: Vec<(String, RecordBatch)>,
}

/// A frozen state: turned into pieces away from the task's thread.
pub type Frozen = Box<dyn FnOnce() -> Result<Pieces, StateError> + Send>;

impl Pieces {
    /// Takes the batch called `name`; the others keep their order, which pieces of one name rely on.
    pub fn take(&mut self, name: &str) -> Result<RecordBatch, StateError> {
        let at = self.batches.iter().position(|(n, _)| n == name).ok_or_else(|| StateError::Missing(name.to_owned()))?;
        Ok(self.batches.remove(at).1)
    }

    /// Takes all batches called `name`, in order.
    pub fn take_all(&mut self, name: &str) -> Vec<RecordBatch> {
        let (taken, kept) = std::mem::take(&mut self.batches).into_iter().partition(|(n, _)| n == name);
        self.batches = kept;
        let taken: Vec<(String, RecordBatch)> = taken;
        taken.into_iter().map(|(_, b)| b).collect()
    }

    pub fn meta<T: serde::de::DeserializeOwned>(&self) -> Result<T, StateError> {
        T::deserialize(&self.meta).map_err(StateError::Meta)
    }
}

/// What can go wrong between an operator and a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("snapshot has no piece called `{0}`")]
    Missing(String),
    #[error("snapshot's metadata cannot be read: {0}")]
    Meta(serde_json::Error),
    #[error("snapshot's piece cannot be read: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("aggregate failed: {0}")]
    DataFusion(#[from] datafusion::error::DataFusionError),
}
