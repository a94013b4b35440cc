//! Room messages: what a room task emits and every gateway serves, with one dense offset a room.

use arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array,
    cast::AsArray,
    types::{Int64Type, UInt64Type},
};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// Append-only: notifications, with history.
    Stream,
    /// A map from key to row: the newest row per key is the room's state.
    State,
}

/// One message of one room. Offsets of a room start at 1 and have no gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomMessage {
    pub room: String,
    pub tenant: String,
    pub kind: RoomKind,
    pub offset: u64,
    /// State rooms: the key of the row. Stream rooms: empty.
    pub key: String,
    /// State rooms: the key's row is gone; `data` is `null`.
    pub removed: bool,
    /// One JSON value.
    pub data: String,
    /// UTC microseconds of the epoch (its `now_ms`).
    pub time_us: i64,
    /// Earliest append time of the events that caused it, when events did and not the clock.
    pub appended_us: Option<i64>,
}

impl RoomMessage {
    pub fn schema() -> Schema {
        Schema::new(vec![
            Field::new("room", DataType::Utf8, false),
            Field::new("tenant", DataType::Utf8, false),
            Field::new("state_room", DataType::Boolean, false),
            Field::new("offset", DataType::UInt64, false),
            Field::new("key", DataType::Utf8, false),
            Field::new("removed", DataType::Boolean, false),
            Field::new("data", DataType::Utf8, false),
            Field::new("time_us", DataType::Int64, false),
            Field::new("appended_us", DataType::Int64, true),
        ])
    }

    pub fn to_batch(messages: &[Self]) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(messages.iter().map(|m| &m.room))),
            Arc::new(StringArray::from_iter_values(messages.iter().map(|m| &m.tenant))),
            Arc::new(BooleanArray::from_iter(messages.iter().map(|m| Some(m.kind == RoomKind::State)))),
            Arc::new(UInt64Array::from_iter_values(messages.iter().map(|m| m.offset))),
            Arc::new(StringArray::from_iter_values(messages.iter().map(|m| &m.key))),
            Arc::new(BooleanArray::from_iter(messages.iter().map(|m| Some(m.removed)))),
            Arc::new(StringArray::from_iter_values(messages.iter().map(|m| &m.data))),
            Arc::new(Int64Array::from_iter_values(messages.iter().map(|m| m.time_us))),
            Arc::new(Int64Array::from_iter(messages.iter().map(|m| m.appended_us))),
        ];
        RecordBatch::try_new(Arc::new(Self::schema()), columns)
    }

    /// The messages of a batch that [`RoomMessage::to_batch`] made.
    pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Self>, ArrowError> {
        if batch.schema().fields() != Self::schema().fields() {
            return Err(ArrowError::SchemaError(format!("room messages have the columns {:?}", batch.schema().fields())));
        }
        let text = |i: usize| batch.column(i).as_string::<i32>();
        let (offset, time, appended) =
            (batch.column(3).as_primitive::<UInt64Type>(), batch.column(7).as_primitive::<Int64Type>(), batch.column(8).as_primitive::<Int64Type>());
        let (state, removed) = (batch.column(2).as_boolean(), batch.column(5).as_boolean());
        Ok((0..batch.num_rows())
            .map(|i| Self {
                room: text(0).value(i).to_owned(),
                tenant: text(1).value(i).to_owned(),
                kind: if state.value(i) { RoomKind::State } else { RoomKind::Stream },
                offset: offset.value(i),
                key: text(4).value(i).to_owned(),
                removed: removed.value(i),
                data: text(6).value(i).to_owned(),
                time_us: time.value(i),
                appended_us: appended.is_valid(i).then(|| appended.value(i)),
            })
            .collect())
    }
}

/// Where a room stands: enough, with its messages, to serve it elsewhere under the same offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPosition {
    pub room: String,
    pub tenant: String,
    pub kind: RoomKind,
    /// The epoch id that its offsets are counted under.
    pub epoch: String,
    /// Offset of the newest message.
    pub offset: u64,
}

impl RoomPosition {
    pub fn schema() -> Schema {
        Schema::new(vec![
            Field::new("room", DataType::Utf8, false),
            Field::new("tenant", DataType::Utf8, false),
            Field::new("state_room", DataType::Boolean, false),
            Field::new("epoch", DataType::Utf8, false),
            Field::new("offset", DataType::UInt64, false),
        ])
    }

    pub fn to_batch(rooms: &[Self]) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rooms.iter().map(|r| &r.room))),
            Arc::new(StringArray::from_iter_values(rooms.iter().map(|r| &r.tenant))),
            Arc::new(BooleanArray::from_iter(rooms.iter().map(|r| Some(r.kind == RoomKind::State)))),
            Arc::new(StringArray::from_iter_values(rooms.iter().map(|r| &r.epoch))),
            Arc::new(UInt64Array::from_iter_values(rooms.iter().map(|r| r.offset))),
        ];
        RecordBatch::try_new(Arc::new(Self::schema()), columns)
    }

    /// The rooms of a batch that [`RoomPosition::to_batch`] made.
    pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Self>, ArrowError> {
        if batch.schema().fields() != Self::schema().fields() {
            return Err(ArrowError::SchemaError(format!("rooms have the columns {:?}", batch.schema().fields())));
        }
        let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row).to_owned();
        let (state, offset) = (batch.column(2).as_boolean(), batch.column(4).as_primitive::<UInt64Type>());
        let room = |row| Self {
            room: text(0, row),
            tenant: text(1, row),
            kind: if state.value(row) { RoomKind::State } else { RoomKind::Stream },
            epoch: text(3, row),
            offset: offset.value(row),
        };
        Ok((0..batch.num_rows()).map(room).collect())
    }
}
