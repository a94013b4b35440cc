//! The language that every crate of Headend speaks: ids, positions, records, epochs, events, alerts and room
//! messages, with their wire formats.
//!
//! It promises that a value which was encoded here is decoded to the same value, and that a damaged one is named
//! and never half read. It does no IO, knows no clock, no broker and no query engine.

pub mod alert;
pub mod batch;
pub mod chain;
pub mod clock;
pub mod epoch;
pub mod event;
pub mod hash;
pub mod ipc;
pub mod partition;
pub mod record;
pub mod room;

pub use alert::AlertEvent;
pub use batch::{DeadLetter, DeadReason, SourceBatch};
pub use chain::{ChainPosition, Verdict};
pub use epoch::{AcceptedEpoch, Counters, CutRange, EpochHeader, EpochId, EpochKind, EpochRecord, Output, OutputKind, Versions};
pub use record::{NewRecord, Record};
pub use room::{RoomKind, RoomMessage, RoomPosition};

/// Column that carries the change kind of a row in an `EMIT CHANGES` output: one of [`op`].
pub const OP_COLUMN: &str = "_op";
/// Hidden column: the event time of a row (UTC microseconds) by which later windows and tables order it.
pub const TIME_COLUMN: &str = "_time";

/// The change kinds of a changelog row, as text, written as Flink and RisingWave users know them.
pub mod op {
    pub const INSERT: &str = "+I";
    pub const UPDATE_BEFORE: &str = "-U";
    pub const UPDATE_AFTER: &str = "+U";
    pub const DELETE: &str = "-D";
}
