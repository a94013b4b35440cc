//! Ingest: the log, and the ways into and out of it that know what an event looks like.
//!
//! * [`log`]: the contract of the log, shaped for Kafka and for the embedded log alike; `tests/all/contract.rs` tests it.
//! * [`embedded`]: the log in a directory of one process.
//! * [`kafka`]: the log on Apache Kafka.
//! * [`decode`]: records of a source topic into Arrow batches and dead letters.
//! * [`door`]: `POST /v1/events`.
//!
//! It knows no SQL, no window and no epoch.

pub mod decode;
pub mod door;
pub mod embedded;
pub mod kafka;
pub mod log;
mod observations;

pub use decode::{DecoderSpec, SourceDecoder};
pub use door::DoorLimits;
pub use embedded::{EmbeddedConfig, EmbeddedLog};
pub use kafka::{KafkaConfig, KafkaLog};
pub use log::{Appended, ErrorKind, Fetch, Log, LogError, LogReader, Misfit, Ownership, RECORD_BYTES_MAX, SOURCE_RECORD_BYTES_MAX, TopicSpec};
