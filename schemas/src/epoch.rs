//! The epoch record: one commit of one task, with the cut it read and everything that leaves it.
//!
//! On the wire: `HEP1`, crc32c of the rest, length of the header, header as JSON, then the bodies of the outputs in
//! the header's order, LZ4 as one block. A flipped bit is found by the checksum before anything is read.

use crate::{hash::hash_batch, ipc};
use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use xxhash_rust::xxh3::Xxh3;

/// The largest epoch record in bytes: it must fit Kafka's default `max.message.bytes` with room to spare.
pub const EPOCH_RECORD_BYTES_MAX: usize = 900 * 1024;
const MAGIC: &[u8; 4] = b"HEP1";

/// Names one attempt at one epoch. Unique per attempt: two owners that both write epoch n write different ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EpochId(pub u128);

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl FromStr for EpochId {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(s, 16).map(EpochId)
    }
}
impl Serialize for EpochId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for EpochId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochKind {
    /// A new owner's empty epoch: it says who works from here on.
    Claim,
    Work,
    /// A person's decision: offsets of an input that the log has lost are given up. `cut` says from where to where; nothing is computed.
    Skip,
}

/// What an epoch took from one input: offsets `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRange {
    pub topic: String,
    pub partition: u32,
    pub from: u64,
    pub to: u64,
    /// The log said, in a fresh answer, that nothing stood after `to`.
    pub caught_up: bool,
}

/// Rows counted in one epoch. `rows_in` = decoded rows; `dead` includes `misplaced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub rows_in: u64,
    pub late: u64,
    pub dead: u64,
    pub duplicate: u64,
    pub misplaced: u64,
    pub future: u64,
    pub rows_out: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, o: Self) {
        self.rows_in += o.rows_in;
        self.late += o.late;
        self.dead += o.dead;
        self.duplicate += o.duplicate;
        self.misplaced += o.misplaced;
        self.future += o.future;
        self.rows_out += o.rows_out;
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub engine: String,
    /// Hash of the job's SQL.
    pub sql: String,
    /// Versions of the models that the job's functions use, in name order.
    pub models: Vec<String>,
    /// Which version of the job this is, counted from 1; a job that is changed back is a version of its own.
    #[serde(default)]
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Rows that are appended once (maps, windows on close).
    Rows,
    /// Upserts with `_op`, the row before and the row after.
    Changes,
    /// Rows that came too late, with coordinates and reason.
    Late,
    /// Records that could not be taken, with coordinates, reason and original bytes.
    Dead,
    /// Alert events.
    Alerts,
    /// Room messages with their dense offsets.
    Rooms,
    /// Rows of compacted topics, copied because the log will not keep them.
    Table,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputHeader {
    pub name: String,
    pub kind: OutputKind,
    pub rows: u64,
    pub bytes: u64,
}

/// One output of an epoch: the rows of one view, late stream, dead-letter stream or room stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub kind: OutputKind,
    pub batch: RecordBatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochHeader {
    /// Job group, e.g. `churn.l1`: the epoch topic is `epochs.<group>`.
    pub group: String,
    pub task: u32,
    pub epoch: u64,
    pub id: EpochId,
    pub parent: EpochId,
    pub owner: String,
    pub kind: EpochKind,
    pub cut: Vec<CutRange>,
    /// Wall clock of the epoch in UTC milliseconds; decides about idleness alone.
    pub now_ms: i64,
    /// UTC microseconds; counts after the rows of this record. `None` before the task's first row; `i64::MAX` when
    /// every input has ended.
    pub watermark: Option<i64>,
    /// Watermarks of the views whose rows leave in this task's records; a view's may be ahead of the task's.
    #[serde(default)]
    pub watermarks: std::collections::BTreeMap<String, i64>,
    /// In the claim of a changed job: views that are new in it and whose windows another level puts together, with the time (UTC
    /// microseconds) of the newest row that came before them. Windows that may hold such rows are not told.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub begins: std::collections::BTreeMap<String, i64>,
    /// The earliest append time (UTC microseconds) among the source records that this epoch stands on.
    pub appended_us: Option<i64>,
    pub versions: Versions,
    pub counters: Counters,
    /// xxh3 over the canonical rows of all outputs, before IPC and compression.
    pub output_hash: String,
    pub outputs: Vec<OutputHeader>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EpochRecord {
    pub header: EpochHeader,
    pub outputs: Vec<Output>,
}

/// An epoch that its reader accepted, with the offset at which it stands in the epoch topic's partition `task`.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedEpoch {
    pub offset: u64,
    pub record: EpochRecord,
}

#[derive(Debug, thiserror::Error)]
pub enum EpochDecodeError {
    #[error("not an epoch record: it does not start with `HEP1`")]
    Magic,
    #[error("epoch record is cut off after {0} bytes")]
    Short(usize),
    #[error("epoch record is damaged: checksum is {found:08x}, expected {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    #[error("epoch record's header cannot be read: {0}")]
    Header(#[from] serde_json::Error),
    #[error("epoch record's body cannot be decompressed: {0}")]
    Lz4(String),
    #[error("output `{0}` of an epoch record cannot be read: {1}")]
    Output(String, String),
}

/// The hash that recovery compares: over all outputs in order, names and kinds included.
pub fn output_hash(outputs: &[Output]) -> String {
    let mut hash = Xxh3::new();
    for output in outputs {
        hash.update(output.name.as_bytes());
        hash.update(&[0, output.kind as u8]);
        hash_batch(&mut hash, &output.batch);
    }
    format!("{:032x}", hash.digest128())
}

impl EpochRecord {
    /// Bytes for the log. Fills in the header's list of outputs.
    pub fn encode(&self) -> Result<Vec<u8>, arrow_schema::ArrowError> {
        let mut header = self.header.clone();
        header.outputs.clear();
        let mut bodies = Vec::new();
        for output in &self.outputs {
            let body = ipc::encode(&output.batch)?;
            header.outputs.push(OutputHeader { name: output.name.clone(), kind: output.kind, rows: output.batch.num_rows() as u64, bytes: body.len() as u64 });
            bodies.extend_from_slice(&body);
        }
        let header = serde_json::to_vec(&header).map_err(|e| arrow_schema::ArrowError::ExternalError(Box::new(e)))?;
        let bodies = if bodies.is_empty() { Vec::new() } else { lz4_flex::compress_prepend_size(&bodies) };
        let mut out = Vec::with_capacity(12 + header.len() + bodies.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(header.len() as u32).to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&bodies);
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// The header alone: enough to follow the chain.
    pub fn decode_header(bytes: &[u8]) -> Result<EpochHeader, EpochDecodeError> {
        Ok(serde_json::from_slice(Self::parts(bytes)?.0)?)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, EpochDecodeError> {
        let (header, bodies) = Self::parts(bytes)?;
        let header: EpochHeader = serde_json::from_slice(header)?;
        let bodies =
            if bodies.is_empty() { Vec::new() } else { lz4_flex::decompress_size_prepended(bodies).map_err(|e| EpochDecodeError::Lz4(e.to_string()))? };
        let mut outputs = Vec::with_capacity(header.outputs.len());
        let mut at = 0;
        for o in &header.outputs {
            let body = bodies.get(at..at + o.bytes as usize).ok_or(EpochDecodeError::Short(bodies.len()))?;
            at += o.bytes as usize;
            let batch = ipc::decode(body).map_err(|e| EpochDecodeError::Output(o.name.clone(), e.to_string()))?;
            outputs.push(Output { name: o.name.clone(), kind: o.kind, batch });
        }
        Ok(Self { header, outputs })
    }

    fn parts(bytes: &[u8]) -> Result<(&[u8], &[u8]), EpochDecodeError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(EpochDecodeError::Magic)?;
        let (crc, rest) = rest.split_first_chunk::<4>().ok_or(EpochDecodeError::Short(bytes.len()))?;
        let (expected, found) = (u32::from_le_bytes(*crc), crc32c::crc32c(rest));
        if expected != found {
            return Err(EpochDecodeError::Checksum { found, expected });
        }
        let (len, rest) = rest.split_first_chunk::<4>().ok_or(EpochDecodeError::Short(bytes.len()))?;
        rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(EpochDecodeError::Short(bytes.len()))
    }
}
