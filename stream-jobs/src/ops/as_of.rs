//! A stream joined with a table as of the stream's event time: each row finds the newest row of its key that is not younger than itself.
//!
//! A row waits until the watermark has passed it, so that every row of the table which counts for it is there. The table's rows are kept
//! for 400 days behind the watermark, for rows that come late. A table without a time of its own has one row a key, the newest.

use super::{
    Context, Effects, Flow, OpError, Operator,
    group::{Route, rows_of_columns_at},
    nullable,
};
use crate::{
    delta::Delta,
    plan::{AsOfJoin, JoinKind},
    state::{Frozen, Pieces, StateError, keys::RowCodec},
};
use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt64Array, cast::AsArray, types::*};
use arrow_schema::{Field, Schema, SchemaRef};
use std::{collections::BTreeMap, sync::Arc};

type Bytes = Arc<[u8]>;

/// How far behind the watermark a row finds what the table was at its time: the longest window there is.
const HISTORY_US: i64 = 400 * DAY_US;
const DAY_US: i64 = 86_400_000_000;

pub struct AsOfOperator {
    plan: AsOfJoin,
    stream: RowCodec,
    stream_on: RowCodec,
    table: RowCodec,
    table_on: RowCodec,
    /// Rows that wait, by time and arrival: key (none where a column of it is null) and row.
    waiting: BTreeMap<(i64, u64), (Option<Bytes>, Bytes)>,
    /// Rows of the table by key and time; none where the row was deleted then.
    versions: BTreeMap<Bytes, BTreeMap<i64, Option<Bytes>>>,
    arrived: u64,
    /// What was older than this is forgotten.
    forgotten: i64,
    route: Option<Route>,
    schema: SchemaRef,
}

impl AsOfOperator {
    pub fn new(plan: AsOfJoin, route: Option<Route>) -> Result<Self, OpError> {
        let codecs = |schema: &SchemaRef, on: &[usize]| -> Result<(RowCodec, RowCodec), OpError> {
            let schema = Arc::new(nullable(schema));
            let on = Arc::new(schema.project(on)?);
            Ok((RowCodec::new(schema)?, RowCodec::new(on)?))
        };
        let (stream, stream_on) = codecs(&plan.stream.schema, &plan.stream.on)?;
        let (table, table_on) = codecs(&plan.table.schema, &plan.table.on)?;
        Ok(Self {
            stream,
            stream_on,
            table,
            table_on,
            waiting: BTreeMap::new(),
            versions: BTreeMap::new(),
            arrived: 0,
            forgotten: i64::MIN,
            route,
            schema: Arc::new(nullable(&plan.schema)),
            plan,
        })
    }

    fn mine(&self, delta: Delta, on: &[usize], routed: bool) -> Result<Delta, OpError> {
        match self.route.filter(|_| routed) {
            Some(route) => rows_of_columns_at(&delta, on, route),
            None => Ok(delta),
        }
    }

    fn take_table(&mut self, flow: &Flow) -> Result<(), OpError> {
        let delta = self.mine(flow.delta.clone().through(&self.plan.table.pre)?, &self.plan.table.on, self.plan.table.routed)?;
        if delta.is_empty() {
            return Ok(());
        }
        let rows = self.table.encode(&delta.batch)?;
        let keys = self.table_on.encode(&delta.batch.project(&self.plan.table.on)?)?;
        for (i, (key, row)) in keys.into_iter().zip(rows).enumerate() {
            let versions = self.versions.entry(key).or_default();
            let time = if self.plan.timed { delta.times[i] } else { i64::MIN };
            versions.insert(time, delta.op(i).adds().then_some(row));
        }
        Ok(())
    }

    fn take_stream(&mut self, flow: &Flow) -> Result<(), OpError> {
        let delta = self.mine(flow.delta.clone().through(&self.plan.stream.pre)?, &self.plan.stream.on, self.plan.stream.routed)?;
        if delta.is_empty() {
            return Ok(());
        }
        let rows = self.stream.encode(&delta.batch)?;
        let on = delta.batch.project(&self.plan.stream.on)?;
        let keys = self.stream_on.encode(&on)?;
        for (i, (key, row)) in keys.into_iter().zip(rows).enumerate() {
            self.arrived += 1;
            let joins = on.columns().iter().all(|column| column.is_valid(i));
            self.waiting.insert((delta.times[i], self.arrived), (joins.then_some(key), row));
        }
        Ok(())
    }

    /// Rows that the watermark has passed, each with its row of the table.
    fn release(&mut self, watermark: i64) -> Result<Delta, OpError> {
        let (mut rows, mut times, mut partners) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(entry) = self.waiting.first_entry().filter(|entry| watermark == i64::MAX || entry.key().0 < watermark) {
            let ((time, _), (key, row)) = entry.remove_entry();
            let versions = key.and_then(|key| self.versions.get(&key));
            let partner = versions.and_then(|versions| versions.range(..=time).next_back()).and_then(|(_, row)| row.clone());
            if partner.is_some() || self.plan.kind == JoinKind::Left {
                rows.push(row);
                times.push(time);
                partners.push(partner);
            }
        }
        // Every key is looked at, so not in every epoch.
        let oldest = (watermark.div_euclid(DAY_US) * DAY_US).saturating_sub(HISTORY_US);
        if oldest > self.forgotten {
            self.forgotten = oldest;
            self.forget(oldest);
        }
        let mut columns: Vec<ArrayRef> = self.stream.decode(rows.iter().map(AsRef::as_ref))?.columns().to_vec();
        columns.extend(self.table.columns_of(partners.iter().map(Option::as_deref))?);
        Ok(Delta::rows(super::batch_of(&self.schema, columns, rows.len())?, times))
    }

    /// Of a key's rows before `oldest` the last one is enough.
    fn forget(&mut self, oldest: i64) {
        self.versions.retain(|_, versions| {
            if let Some((last, row)) = versions.range(..oldest).next_back().map(|(time, row)| (*time, row.clone())) {
                *versions = versions.split_off(&last);
                if row.is_none() {
                    versions.remove(&last);
                }
            }
            !versions.is_empty()
        });
    }
}

impl Operator for AsOfOperator {
    fn process(&mut self, context: &Context<'_>, inputs: &[&Flow], _effects: &mut Effects) -> Result<Delta, OpError> {
        self.take_table(inputs[1])?;
        self.take_stream(inputs[0])?;
        let out = match context.watermark {
            Some(watermark) => self.release(watermark)?,
            None => Delta::empty(Arc::clone(&self.schema)),
        };
        Ok(out.through(&self.plan.post)?)
    }

    fn freeze(&mut self) -> Frozen {
        let (waiting, versions) = (self.waiting.clone(), self.versions.clone());
        let meta = serde_json::json!({ "arrived": self.arrived });
        Box::new(move || {
            let ints = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
            let bytes = |values: Vec<Option<&Bytes>>| Arc::new(BinaryArray::from_iter(values)) as ArrayRef;
            let rows = batch(vec![
                ("time", ints(waiting.keys().map(|at| at.0).collect())),
                ("arrival", Arc::new(UInt64Array::from_iter_values(waiting.keys().map(|at| at.1)))),
                ("key", bytes(waiting.values().map(|w| w.0.as_ref()).collect())),
                ("row", bytes(waiting.values().map(|w| Some(&w.1)).collect())),
            ])?;
            let all: Vec<(&Bytes, i64, Option<&Bytes>)> =
                versions.iter().flat_map(|(key, of_key)| of_key.iter().map(move |(t, row)| (key, *t, row.as_ref()))).collect();
            let table = batch(vec![
                ("key", bytes(all.iter().map(|v| Some(v.0)).collect())),
                ("time", ints(all.iter().map(|v| v.1).collect())),
                ("row", bytes(all.iter().map(|v| v.2).collect())),
            ])?;
            Ok(Pieces { meta, batches: vec![("waiting".to_owned(), rows), ("versions".to_owned(), table)] })
        })
    }

    fn restore(&mut self, mut pieces: Pieces) -> Result<(), StateError> {
        self.arrived = pieces.meta["arrived"].as_u64().ok_or_else(|| StateError::Missing("arrived".to_owned()))?;
        let (waiting, versions) = (pieces.take("waiting")?, pieces.take("versions")?);
        let bytes = |batch: &RecordBatch, column: usize, row: usize| -> Option<Bytes> {
            let values = batch.column(column).as_binary::<i32>();
            values.is_valid(row).then(|| Arc::from(values.value(row)))
        };
        for row in 0..waiting.num_rows() {
            let at = (waiting.column(0).as_primitive::<Int64Type>().value(row), waiting.column(1).as_primitive::<UInt64Type>().value(row));
            self.waiting.insert(at, (bytes(&waiting, 2, row), bytes(&waiting, 3, row).unwrap_or_default()));
        }
        for row in 0..versions.num_rows() {
            let time = versions.column(1).as_primitive::<Int64Type>().value(row);
            self.versions.entry(bytes(&versions, 0, row).unwrap_or_default()).or_default().insert(time, bytes(&versions, 2, row));
        }
        Ok(())
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, StateError> {
    let fields: Vec<Field> = columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect())?)
}
