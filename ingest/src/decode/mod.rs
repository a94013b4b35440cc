//! Records of one source topic into Arrow rows and dead letters.
//!
//! Every record of a cut ends as exactly one of: a row, a dead letter with its coordinates, its reason and its original
//! bytes, or the end-of-source marker. A bad record never touches its neighbours. The payload is JSON: plain, a CloudEvent in
//! structured mode, or in binary mode with `ce_` headers. Event time is not judged here beyond its form: bounds of time
//! belong to the task that knows them.
//!
//! A record is scanned once ([`scan`]). Where its columns are of plain types they are made out of what the scan has found ([`plain`]);
//! else they are copied into one buffer which arrow-json decodes a few thousand rows at a time. Nothing is allocated per record on either way.

mod exact;
mod keys;
mod plain;
mod scan;

pub(crate) use exact::not_json;

use crate::observations;
use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array, cast::AsArray, types::TimestampMicrosecondType};
use arrow_json::{ReaderBuilder, reader::Decoder};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use plain::PlainColumns;
use scan::{Column, Scanner, Span, Wants};
use schemas::{
    DeadLetter, DeadReason, Record, SourceBatch,
    record::{TABLE_VALUE_BYTES_MAX, TOO_LARGE_HEADER},
};
use serde_json::Value;
use std::sync::Arc;

/// Rows that arrow-json decodes at once: few enough that text and tape stay in the processor's cache.
const ROWS_AT_ONCE: usize = 4096;

/// Plain records in a row that are worth a batch of their own.
const PLAIN_RUN_MIN: usize = 64;
/// Records that are decoded as ever after fewer than that.
const PLAIN_RESTS: usize = 1_024;

#[derive(Clone, Debug)]
pub struct DecoderSpec {
    pub topic: String,
    /// The declared columns, all nullable.
    pub schema: SchemaRef,
    /// Indices of the key columns: the record key is their texts joined by `|`.
    pub key: Vec<usize>,
    pub partitions: u32,
    /// Rows are taken from whatever partition they stand in.
    pub trust_partition: bool,
    /// A record without a value is a tombstone and not a dead letter.
    pub table: bool,
}

pub struct SourceDecoder {
    spec: DecoderSpec,
    scanner: Scanner,
    /// Columns that a CloudEvent's attributes fill: (`ce_` header, column).
    from_headers: Vec<(&'static str, usize)>,
    json_schema: SchemaRef,
    json: Decoder,
    text: Vec<u8>,
    /// Where all columns can be made without arrow-json.
    is_plain: bool,
    /// Records that are not tried as plain ones.
    plain_rests: usize,
}

/// One decoded or yet undecoded row: which record it is, and where its text stands.
struct Row {
    record: usize,
    text: Span,
    tombstone: bool,
}

/// The cut that is being decoded.
struct Cut<'a> {
    partition: u32,
    records: &'a [Record],
    pending: Vec<Row>,
    rows: Vec<Row>,
    batches: Vec<RecordBatch>,
    dead: Vec<DeadLetter>,
}

impl SourceDecoder {
    pub fn new(spec: DecoderSpec) -> Result<Self, ArrowError> {
        let columns: Vec<Column> = spec.schema.fields().iter().map(|f| column(f)).collect();
        let by_name = |name: &str| columns.iter().position(|c| c.name == name);
        let from_headers = [("ce_id", by_name("event_id")), ("ce_time", by_name("event_time"))];
        if let Some(bad) = spec.key.iter().find(|k| **k >= columns.len()) {
            return Err(ArrowError::SchemaError(format!("key column {bad} of source `{}` does not exist", spec.topic)));
        }
        let json_schema: SchemaRef = Arc::new(Schema::new(spec.schema.fields().iter().map(|f| json_field(f)).collect::<Vec<_>>()));
        Ok(Self {
            from_headers: from_headers.into_iter().filter_map(|(header, column)| Some((header, column?))).collect(),
            json: json_decoder(&json_schema)?,
            json_schema,
            scanner: Scanner::new(columns),
            text: Vec::new(),
            is_plain: PlainColumns::can_hold(&spec.schema),
            plain_rests: 0,
            spec,
        })
    }

    /// Decodes the records `[from, to)` of `partition`. An error is a fault of the decoder or its schema, never of a record.
    pub fn decode(&mut self, partition: u32, from: u64, to: u64, records: &[Record]) -> Result<SourceBatch, ArrowError> {
        debug_assert!(records.iter().all(|r| (from..to).contains(&r.offset)));
        let mut cut = Cut { partition, records, pending: Vec::new(), rows: Vec::with_capacity(records.len()), batches: Vec::new(), dead: Vec::new() };
        let mut end_of_source = None;
        let mut index = 0;
        while let Some(record) = records.get(index) {
            if self.plain_rests == 0 && self.is_plain {
                self.decode_pending(&mut cut)?;
                index += self.decode_plain(&mut cut, index)?;
                continue;
            }
            self.plain_rests = self.plain_rests.saturating_sub(1);
            if record.is_end_of_source() {
                end_of_source = Some(record.offset);
            } else {
                self.take_in(&mut cut, index)?;
            }
            index += 1;
        }
        self.decode_pending(&mut cut)?;
        let mut batch = self.assemble(cut, from, to)?;
        batch.end_of_source = end_of_source;
        observations::decoded(&self.spec.topic, batch.rows.num_rows() as u64, &batch.dead);
        Ok(batch)
    }

    /// Decodes the plain records from `from` on, and says how many they are. The one after them is no plain one; where they were few, neither
    /// are the next ones.
    fn decode_plain(&mut self, cut: &mut Cut<'_>, from: usize) -> Result<usize, ArrowError> {
        // Room for the whole cut once; after a record that was none, for a run that is to be expected.
        let left = cut.records.len() - from;
        let mut plain = PlainColumns::new(&self.spec.schema, if from == 0 { left } else { left.min(ROWS_AT_ONCE) });
        let run = cut.records[from..].iter().take_while(|record| self.append_plain(&mut plain, record).is_some()).count();
        if from + run < cut.records.len() {
            self.plain_rests = if run < PLAIN_RUN_MIN { PLAIN_RESTS } else { 1 };
        }
        if run > 0 {
            let options = RecordBatchOptions::new().with_row_count(Some(run));
            cut.batches.push(RecordBatch::try_new_with_options(self.spec.schema.clone(), plain.finish(run), &options)?);
            cut.rows.extend((from..from + run).map(|record| Row { record, text: 0..0, tombstone: false }));
        }
        Ok(run)
    }

    /// A record that is perhaps no plain one: a row of the text, or a dead letter.
    fn take_in(&mut self, cut: &mut Cut<'_>, index: usize) -> Result<(), ArrowError> {
        let record = &cut.records[index];
        if let Some(bytes) = record.header(TOO_LARGE_HEADER) {
            let bytes = String::from_utf8_lossy(bytes);
            cut.bury(&self.spec.topic, index, DeadReason::TooLarge, format!("record has {bytes} bytes, a row of a table takes {TABLE_VALUE_BYTES_MAX}"));
            return Ok(());
        }
        let start = self.text.len();
        match self.write_row(record) {
            Ok(()) => cut.pending.push(Row { record: index, text: start..self.text.len(), tombstone: record.value.is_none() }),
            Err(reason) => cut.bury(&self.spec.topic, index, DeadReason::Undecodable, reason),
        }
        if cut.pending.len() == ROWS_AT_ONCE { self.decode_pending(cut) } else { Ok(()) }
    }

    fn append_plain(&mut self, plain: &mut PlainColumns, record: &Record) -> Option<()> {
        let payload = record.value.as_ref()?;
        let has_attributes = || from_headers(&self.from_headers, record).next().is_some();
        if !record.headers.is_empty() && (is_structured(record) || record.header(TOO_LARGE_HEADER).is_some() || has_attributes()) {
            return None;
        }
        let text = self.scanner.fits(payload)?;
        plain.append(text, self.scanner.spans())
    }

    /// Appends the columns of `record` to the text, as one JSON object.
    fn write_row(&mut self, record: &Record) -> Result<(), String> {
        let Some(payload) = &record.value else { return self.write_tombstone(record) };
        if is_structured(record) || self.scanner.fits(payload).is_none() {
            return self.write_exactly(record);
        }
        let start = self.text.len();
        self.text.push(b'{');
        for (column, span) in self.scanner.columns().iter().zip(self.scanner.spans()) {
            if !span.is_empty() {
                exact::separate(&mut self.text, start);
                self.text.extend_from_slice(&column.prefix);
                self.text.extend_from_slice(&payload[span.clone()]);
            }
        }
        if !record.headers.is_empty() {
            for (column, text) in from_headers(&self.from_headers, record).filter(|(column, _)| self.scanner.spans()[*column].is_empty()) {
                exact::separate(&mut self.text, start);
                self.text.extend_from_slice(&self.scanner.columns()[column].prefix);
                exact::write_json(&Value::from(text), &mut self.text);
            }
        }
        self.text.push(b'}');
        Ok(())
    }

    fn write_exactly(&mut self, record: &Record) -> Result<(), String> {
        let Some(payload) = &record.value else { return self.write_tombstone(record) };
        let extra: Vec<(usize, &str)> = from_headers(&self.from_headers, record).collect();
        exact::rewrite(payload, is_structured(record), self.scanner.columns(), &extra, &mut self.text)
    }

    /// A tombstone is a row of its key columns alone.
    fn write_tombstone(&mut self, record: &Record) -> Result<(), String> {
        if !self.spec.table {
            return Err("record has no value, and the source is not a table".to_owned());
        }
        let key = record.key.as_deref().map(std::str::from_utf8).and_then(Result::ok).ok_or("tombstone has no key that is a text")?;
        let parts: Vec<&str> = key.split('|').collect();
        if parts.len() != self.spec.key.len() {
            return Err(format!("record key `{key}` has {} parts, the source's key has {}", parts.len(), self.spec.key.len()));
        }
        let start = self.text.len();
        self.text.push(b'{');
        for (part, column) in parts.into_iter().zip(&self.spec.key) {
            let column = &self.scanner.columns()[*column];
            let value = match column.wants {
                Wants::Text | Wants::Time => Value::from(part),
                _ => serde_json::from_str(part).unwrap_or_else(|_| Value::from(part)),
            };
            exact::separate(&mut self.text, start);
            self.text.extend_from_slice(&column.prefix);
            exact::write_json(&value, &mut self.text);
        }
        self.text.push(b'}');
        Ok(())
    }

    /// Decodes what is pending. When that fails as a whole, each record is checked exactly; what then still fails is halved
    /// until the culprits stand alone.
    fn decode_pending(&mut self, cut: &mut Cut<'_>) -> Result<(), ArrowError> {
        let pending = std::mem::take(&mut cut.pending);
        if !pending.is_empty() {
            match self.decode_rows(&pending) {
                Ok(batch) => {
                    cut.batches.push(batch);
                    cut.rows.extend(pending);
                }
                Err(_) => self.decode_suspects(cut, pending)?,
            }
        }
        self.text.clear();
        Ok(())
    }

    fn decode_suspects(&mut self, cut: &mut Cut<'_>, suspects: Vec<Row>) -> Result<(), ArrowError> {
        self.text.clear();
        let mut rows = Vec::with_capacity(suspects.len());
        for row in suspects {
            let start = self.text.len();
            match self.write_exactly(&cut.records[row.record]) {
                Ok(()) => rows.push(Row { text: start..self.text.len(), ..row }),
                Err(reason) => cut.bury(&self.spec.topic, row.record, DeadReason::Undecodable, reason),
            }
        }
        self.halve(cut, rows)
    }

    fn halve(&mut self, cut: &mut Cut<'_>, mut rows: Vec<Row>) -> Result<(), ArrowError> {
        match self.decode_rows(&rows) {
            Ok(batch) => {
                cut.batches.push(batch);
                cut.rows.extend(rows);
            }
            Err(error) if rows.len() == 1 => {
                let reason = error.to_string();
                let reason = reason.strip_prefix("Json error: ").unwrap_or(&reason).to_owned();
                cut.bury(&self.spec.topic, rows[0].record, DeadReason::Undecodable, reason);
            }
            Err(_) => {
                let second = rows.split_off(rows.len() / 2);
                self.halve(cut, rows)?;
                self.halve(cut, second)?;
            }
        }
        Ok(())
    }

    /// The texts of `rows` stand one behind the other.
    fn decode_rows(&mut self, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(RecordBatch::new_empty(self.spec.schema.clone()));
        };
        let text = &self.text[first.text.start..last.text.end];
        let decoded = self.json.decode(text).and_then(|read| Ok((read, self.json.flush()?)));
        let batch = match decoded {
            Ok((read, Some(batch))) if read == text.len() && batch.num_rows() == rows.len() => batch,
            other => {
                // What a failed decoder still holds would end in the next batch.
                self.json = json_decoder(&self.json_schema)?;
                return Err(other.err().unwrap_or_else(|| ArrowError::JsonError("not one row a record".to_owned())));
            }
        };
        let columns = batch.columns().iter().zip(self.spec.schema.fields()).map(|(c, f)| with_declared_zone(c, f)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(self.spec.schema.clone(), columns, &options)
    }

    fn assemble(&self, mut cut: Cut<'_>, from: u64, to: u64) -> Result<SourceBatch, ArrowError> {
        let schema = &self.spec.schema;
        let mut rows = match cut.batches.as_slice() {
            [one] => one.clone(),
            many => arrow_select::concat::concat_batches(schema, many)?,
        };
        let (keys, faults) = keys::check(&self.spec, &rows, &cut)?;
        if !faults.is_empty() {
            let mut good = vec![true; cut.rows.len()];
            for (row, kind, reason) in faults {
                good[row] = false;
                cut.bury(&self.spec.topic, cut.rows[row].record, kind, reason);
            }
            rows = arrow_select::filter::filter_record_batch(&rows, &BooleanArray::from(good.clone()))?;
            let mut good = good.into_iter();
            cut.rows.retain(|_| good.next().unwrap_or(true));
        }
        cut.dead.sort_by_key(|letter| letter.offset);
        let record = |row: &Row| &cut.records[row.record];
        let tombstones = cut.rows.iter().any(|r| r.tombstone).then(|| cut.rows.iter().map(|r| Some(r.tombstone)).collect::<BooleanArray>());
        Ok(SourceBatch {
            topic: self.spec.topic.clone(),
            partition: cut.partition,
            from,
            to,
            rows,
            keys,
            offsets: UInt64Array::from_iter_values(cut.rows.iter().map(|r| record(r).offset)),
            append_us: Int64Array::from_iter_values(cut.rows.iter().map(|r| record(r).append_us)),
            tombstones,
            end_of_source: None,
            dead: cut.dead,
        })
    }
}

impl Cut<'_> {
    fn bury(&mut self, topic: &str, record: usize, kind: DeadReason, reason: String) {
        let record = &self.records[record];
        self.dead.push(DeadLetter {
            topic: topic.to_owned(),
            partition: self.partition,
            offset: record.offset,
            append_us: record.append_us,
            kind,
            reason,
            key: record.key.clone(),
            value: record.value.clone(),
        });
    }
}

/// The whole CloudEvent is the payload.
fn is_structured(record: &Record) -> bool {
    record.header("content-type").is_some_and(|t| t.starts_with(b"application/cloudevents+json"))
}

/// Columns and texts that the attributes of a CloudEvent in binary mode offer.
fn from_headers<'a>(wanted: &'a [(&'static str, usize)], record: &'a Record) -> impl Iterator<Item = (usize, &'a str)> {
    wanted.iter().filter_map(|(header, column)| Some((*column, std::str::from_utf8(record.header(header)?).ok()?)))
}

fn column(field: &Field) -> Column {
    let mut prefix = Value::from(field.name().as_str()).to_string().into_bytes();
    prefix.push(b':');
    Column { name: field.name().clone(), prefix, wants: Wants::of(field.data_type()) }
}

/// arrow-json knows the zone `UTC` only when arrow was built with the tz database; it is the same as `+00:00`.
fn json_field(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        other => other.clone(),
    };
    Field::new(field.name(), data_type, true)
}

fn with_declared_zone(column: &ArrayRef, field: &Field) -> ArrayRef {
    match field.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(zone.clone()))
        }
        _ => column.clone(),
    }
}

fn json_decoder(schema: &SchemaRef) -> Result<Decoder, ArrowError> {
    ReaderBuilder::new(schema.clone()).with_batch_size(ROWS_AT_ONCE).build_decoder()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(is_plain: bool) -> SourceDecoder {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns =
            [("k", DataType::Utf8), ("t", time), ("n", DataType::Int64), ("x", DataType::Float64), ("b", DataType::Boolean), ("event_id", DataType::Utf8)];
        let schema = Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()));
        let spec = DecoderSpec { topic: "t".into(), schema, key: vec![0], partitions: 1, trust_partition: false, table: true };
        let mut decoder = SourceDecoder::new(spec).unwrap();
        assert!(decoder.is_plain);
        decoder.is_plain = is_plain;
        decoder
    }

    /// Values as a careless sender writes them, some of them good.
    fn payload(random: &mut u64) -> String {
        let mut pick = |from: &[&str]| {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            from[(*random >> 33) as usize % from.len()].to_owned()
        };
        let times = [
            "\"2026-02-28T23:59:59Z\"",
            "\"2026-02-28T23:59:59.1234567+01:00\"",
            "\"2026-02-28T12:00:00.5Z\"",
            "\"2026-02-30T00:00:00Z\"",
            "null",
            "5",
            "\"2026-02-28T23:59:60Z\"",
        ];
        let numbers = [
            "0.1",
            "-0.0",
            "0.3000000000000000166533453694",
            "8.98846567431158e307",
            "9007199254740993.0000001",
            "2.2250738585072011e-308",
            "1e3",
            "1.7976931348623157e308",
            "5e-324",
            "123456789.123456789",
            "null",
            "1e400",
            "\"1\"",
            "7",
        ];
        let time = if pick(&["often", "often", "often", "seldom"]) == "seldom" { pick(&times) } else { times[0].to_owned() };
        let integer = pick(&["1", "-2", "0", "null", "999999999999999999", "9223372036854775807", "1.5", "12", "12", "12", "12"]);
        let text = pick(&["\"a\"", "\"ä€\"", "\"\"", "\"a\\nb\"", "null", "\"c\"", "\"c\"", "\"c\""]);
        let extra = pick(&["", "", "", ",\"other\":{\"x\":[1]}", ",\"more\":5"]);
        format!("{{\"k\":\"k\",\"t\":{time},\"n\":{integer},\"x\":{},\"b\":{},\"event_id\":{text}{extra}}}", pick(&numbers), pick(&["true", "false", "null"]))
    }

    #[test]
    fn a_number_keeps_its_digits_however_its_record_is_written() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Decimal128(38, 2), true)));
        let columns = [("k", DataType::Utf8), ("d", DataType::Decimal128(38, 2)), ("x", DataType::Float64), ("l", list)];
        let schema = Arc::new(Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()));
        let spec = DecoderSpec { topic: "t".into(), schema, key: vec![0], partitions: 1, trust_partition: false, table: false };
        let mut decoder = SourceDecoder::new(spec).unwrap();
        let fields = r#""k":"k","d":123456789012345678901234567890123456.78,"x":8.98846567431158e307,"l":[12345678901234567890.12]"#;
        let escaped = format!("{{{fields},\"more\":\"\\n\"}}");
        let event = format!("{{\"specversion\":\"1.0\",\"id\":\"1\",\"data\":{{{fields}}}}}");
        let digits = 12_345_678_901_234_567_890_123_456_789_012_345_678_i128;
        for payload in [format!("{{{fields}}}"), escaped, event] {
            let record = Record { offset: 0, append_us: 0, key: Some("k".into()), value: Some(payload.clone().into()), headers: Vec::new() };
            let batch = decoder.decode(0, 0, 1, &[record]).unwrap();
            assert_eq!((batch.rows.num_rows(), &batch.dead), (1, &Vec::new()), "{payload}");
            let decimal = |array: &dyn arrow_array::Array| array.as_primitive::<arrow_array::types::Decimal128Type>().value(0);
            assert_eq!(decimal(batch.rows.column(1)), digits, "{payload}");
            assert_eq!(
                batch.rows.column(2).as_primitive::<arrow_array::types::Float64Type>().value(0).to_bits(),
                8.98846567431158e307_f64.to_bits(),
                "{payload}"
            );
            assert_eq!(decimal(batch.rows.column(3).as_list::<i32>().value(0).as_ref()), 1_234_567_890_123_456_789_012, "{payload}");
        }
    }

    #[test]
    fn rows_and_dead_letters_are_the_same_with_and_without_plain_columns() {
        let mut random = 7;
        let (mut plain, mut exact) = (decoder(true), decoder(false));
        let mut rows = 0;
        for cut in 0..400_u64 {
            let record = |offset: u64| {
                let odd = random % 11;
                let value = if odd == 3 { None } else { Some(payload(&mut random).into()) };
                let headers = if odd == 5 { vec![("ce_id".to_owned(), "h".into())] } else { Vec::new() };
                Record { offset, append_us: 0, key: Some("k".into()), value, headers }
            };
            let records: Vec<Record> = (0..1 + cut % 90).map(record).collect();
            let of = |decoder: &mut SourceDecoder| decoder.decode(0, 0, 1_000, &records).unwrap();
            let (by_plain, by_exact) = (of(&mut plain), of(&mut exact));
            assert_eq!(by_plain.rows, by_exact.rows, "{records:?}");
            assert_eq!((by_plain.keys, by_plain.offsets, by_plain.dead), (by_exact.keys, by_exact.offsets, by_exact.dead));
            rows += by_plain.rows.num_rows();
        }
        assert!(rows > 5_000);
    }
}
