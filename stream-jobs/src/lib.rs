//! SQL views, windows, keyed state, alerts, rooms and snapshots: what is computed, and nothing of where it runs.
//!
//! A task takes an epoch's cut and gives its outputs ([`task::Task`]). This crate knows DataFusion; it knows no socket, no broker and
//! no clock: time arrives in the cut.

pub mod change;
pub mod delta;
pub mod gate;
pub mod nodes;
pub mod ops;
pub mod outbox;
pub mod plan;
pub mod rooms;
pub mod snapshot;
pub mod source;
pub mod sql;
pub mod state;
pub mod status;
pub mod steps;
pub mod task;
pub mod upstream;
pub mod windows;
