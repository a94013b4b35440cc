//! Records into rows and dead letters: each case is a payload and what becomes of it.

use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use ingest::{DecoderSpec, SourceDecoder};
use schemas::{DeadReason, NewRecord, Record, SourceBatch, clock, partition::partition_of};
use std::sync::Arc;

pub fn spec() -> DecoderSpec {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = [
        ("event_id", DataType::Utf8),
        ("tenant", DataType::Utf8),
        ("subscriber_id", DataType::Utf8),
        ("event_time", time),
        ("bytes_down", DataType::Int64),
        ("ratio", DataType::Float64),
        ("port", DataType::Int32),
    ];
    let schema = Arc::new(Schema::new(fields.map(|(n, t)| Field::new(n, t, true)).to_vec()));
    DecoderSpec { topic: "usage.v1".into(), schema, key: vec![1, 2], partitions: 1, trust_partition: false, table: false }
}

fn record(offset: u64, key: Option<&str>, value: Option<&str>) -> Record {
    let bytes = |t: &str| Bytes::copy_from_slice(t.as_bytes());
    Record { offset, append_us: 1_000 + offset as i64, key: key.map(bytes), value: value.map(bytes), headers: Vec::new() }
}

fn good(n: u64) -> Record {
    let value = format!(r#"{{"tenant":"t","subscriber_id":"s{n}","event_time":"2026-11-21T18:00:00Z","bytes_down":{n},"service":"video"}}"#);
    record(n, Some(&format!("t|s{n}")), Some(&value))
}

/// Decodes `records`, and holds what must be true of every batch.
fn decode(spec: DecoderSpec, records: &[Record]) -> SourceBatch {
    let mut decoder = SourceDecoder::new(spec.clone()).unwrap();
    let to = records.last().map_or(0, |r| r.offset + 1);
    let batch = decoder.decode(0, 0, to, records).unwrap();
    let rows = batch.rows.num_rows();
    assert_eq!(batch.rows.schema(), spec.schema);
    assert_eq!((batch.keys.len(), batch.offsets.len(), batch.append_us.len()), (rows, rows, rows));
    assert!(batch.tombstones.as_ref().is_none_or(|t| t.len() == rows));
    let markers = usize::from(batch.end_of_source.is_some());
    assert_eq!(rows + batch.dead.len() + markers, records.len(), "a record is lost or doubled");
    assert!(batch.offsets.values().windows(2).all(|w| w[0] < w[1]));
    assert!(batch.dead.windows(2).all(|w| w[0].offset < w[1].offset));
    for letter in &batch.dead {
        let original = records.iter().find(|r| r.offset == letter.offset).unwrap();
        assert_eq!((&letter.key, &letter.value, letter.append_us), (&original.key, &original.value, original.append_us));
    }
    batch
}

fn text(rows: &RecordBatch, column: &str, row: usize) -> String {
    rows.column_by_name(column).unwrap().as_string::<i32>().value(row).to_owned()
}

fn longs(rows: &RecordBatch) -> Vec<Option<i64>> {
    rows.column_by_name("bytes_down").unwrap().as_primitive::<Int64Type>().iter().collect()
}

#[test]
fn rows_keep_their_order_their_keys_and_their_places() {
    let records: Vec<Record> = (0..10_000).map(good).collect();
    let batch = decode(spec(), &records);
    assert!(batch.dead.is_empty() && batch.tombstones.is_none());
    assert_eq!(longs(&batch.rows), (0..10_000).map(Some).collect::<Vec<_>>());
    assert_eq!((batch.keys.value(77), batch.offsets.value(77), batch.append_us.value(77)), (&b"t|s77"[..], 77, 1_077));
    let time = batch.rows.column(3).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(time.value(5), clock::parse_rfc3339("2026-11-21T18:00:00Z").unwrap());
}

/// (payload, the reason of its dead letter)
const BAD: &[(&str, &str)] = &[
    (r#"{"tenant":"t","subscriber_id":"s","bytes_down":"12a"}"#, r#"field `bytes_down` is `"12a"`, expected an integer"#),
    (r#"{"tenant":"t","subscriber_id":"s","bytes_down":"12"}"#, r#"field `bytes_down` is `"12"`, expected an integer"#),
    (r#"{"tenant":"t","subscriber_id":"s","bytes_down":12.7}"#, "field `bytes_down` is `12.7`, expected an integer"),
    (r#"{"tenant":"t","subscriber_id":"s","bytes_down":9223372036854775808}"#, "field `bytes_down` is `9223372036854775808`, expected an integer"),
    (r#"{"tenant":"t","subscriber_id":"s","port":3000000000}"#, "field `port` is `3000000000`, expected an integer of the column's size"),
    (r#"{"tenant":"t","subscriber_id":"s","ratio":"0.5"}"#, r#"field `ratio` is `"0.5"`, expected a number"#),
    (r#"{"tenant":7,"subscriber_id":"s"}"#, "field `tenant` is `7`, expected a text"),
    (r#"{"tenant":"t","subscriber_id":"s","event_time":1763748000}"#, "field `event_time` is `1763748000`, expected an RFC 3339 time"),
    (
        r#"{"tenant":"t","subscriber_id":"s","event_time":"2026-13-21T18:00:00Z"}"#,
        r#"field `event_time` is `"2026-13-21T18:00:00Z"`, expected an RFC 3339 time"#,
    ),
    (r#"{"tenant":"t","subscriber_id":"s","event_time":"2026-11-21 18:00"}"#, r#"field `event_time` is `"2026-11-21 18:00"`, expected an RFC 3339 time"#),
    (r#"{"tenant":"t"}"#, "field `subscriber_id` is missing"),
    (r#"{"tenant":null,"subscriber_id":"s"}"#, "field `tenant` is missing"),
    (r#"{"tenant":"t","subscriber_id":"a:b"}"#, r#"field `subscriber_id` is `"a:b"`, a key field may not hold `|` or `:`"#),
    (r#"{"a" 1}"#, "not JSON: expected `:` at column 6"),
    (r#"{"tenant":"t" "subscriber_id":"s"}"#, "not JSON: expected `,` or `}` at column 15"),
    (r#"{"tenant":"t","subscriber_id":"s"}{"tenant":"t","subscriber_id":"s"}"#, "not JSON: trailing characters at column 35"),
    (r#"{"tenant":"t","subscriber_id":"s""#, "not JSON: EOF while parsing an object at column 33"),
    ("", "not JSON: EOF while parsing a value at column 0"),
    ("[1]", "an event is a JSON object, this is `[1]`"),
    ("null", "an event is a JSON object, this is `null`"),
    (r#"{"specversion":"1.0","data":3}"#, "field `data` of a CloudEvent is `3`, expected an object"),
];

#[test]
fn a_bad_record_is_a_dead_letter_with_its_reason_and_its_neighbours_are_rows() {
    for (payload, reason) in BAD {
        let mut records: Vec<Record> = (0..7).map(good).collect();
        records[3] = record(3, None, Some(payload));
        let batch = decode(spec(), &records);
        assert_eq!(longs(&batch.rows), [0, 1, 2, 4, 5, 6].map(Some).to_vec(), "{payload}");
        assert_eq!((batch.dead[0].reason.as_str(), batch.dead[0].kind, batch.dead[0].offset), (*reason, DeadReason::Undecodable, 3), "{payload}");
    }
}

#[test]
fn many_culprits_of_every_kind_leave_all_good_rows() {
    let mut records: Vec<Record> = (0..9_000).map(good).collect();
    let mut expected = Vec::new();
    for i in (0..9_000_usize).step_by(61) {
        let (payload, reason) = BAD[(i / 61) % BAD.len()];
        records[i] = record(i as u64, None, Some(payload));
        expected.push((i as u64, reason.to_owned()));
    }
    let batch = decode(spec(), &records);
    assert_eq!(batch.dead.iter().map(|d| (d.offset, d.reason.clone())).collect::<Vec<_>>(), expected);
    assert!(batch.offsets.values().iter().zip(longs(&batch.rows)).all(|(o, v)| v == Some(*o as i64)));
}

#[test]
fn a_value_that_only_arrow_refuses_is_isolated_by_halving() {
    let schema = Schema::new(vec![Field::new("tenant", DataType::Utf8, true), Field::new("n", DataType::Date32, true)]);
    let spec = DecoderSpec { schema: Arc::new(schema), key: vec![0], ..spec() };
    let mut records: Vec<Record> = (0..100).map(|i| record(i, Some("t"), Some(r#"{"tenant":"t","n":"2026-11-21"}"#))).collect();
    for bad in [0, 41, 42, 99] {
        records[bad].value = Some(Bytes::from_static(br#"{"tenant":"t","n":"soon"}"#));
    }
    let batch = decode(spec, &records);
    assert_eq!(batch.dead.iter().map(|d| d.offset).collect::<Vec<_>>(), [0, 41, 42, 99]);
    assert!(batch.dead[0].reason.contains("soon"), "{}", batch.dead[0].reason);
    assert_eq!(batch.rows.num_rows(), 96);
}

#[test]
fn text_is_decoded_as_it_was_meant() {
    let payloads = [
        r#"{"tenant":"t","subscriber_id":"caf\u00e9 \"x\"","ratio":1e-3}"#,
        r#" { "tenant" : "t" , "subscriber_id" : "żółw" , "ratio" : 2 , "nested" : {"tenant":"no","a":[1,{"b":"}"}]} } "#,
        r#"{"tenant":"no","subscriber_id":"s","ratio":-0.5,"tenant":"t"}"#,
        r#"{"event_time":"2026-11-21T20:00:00.25+02:00","subscriber_id":"s","tenant":"t"}"#,
    ];
    let records: Vec<Record> = payloads.iter().enumerate().map(|(i, p)| record(i as u64, None, Some(p))).collect();
    let rows = decode(spec(), &records).rows;
    assert_eq!((text(&rows, "subscriber_id", 0), text(&rows, "subscriber_id", 1)), ("café \"x\"".to_owned(), "żółw".to_owned()));
    assert_eq!(text(&rows, "tenant", 2), "t");
    assert_eq!(rows.column(5).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(1e-3), Some(2.0), Some(-0.5), None]);
    let time = rows.column(3).as_primitive::<TimestampMicrosecondType>().value(3);
    assert_eq!(clock::rfc3339(time), "2026-11-21T18:00:00.250Z");
}

#[test]
fn a_row_in_the_wrong_partition_or_under_another_key_is_misplaced() {
    let records: Vec<Record> = (0..100).map(good).collect();
    let four = DecoderSpec { partitions: 4, ..spec() };
    let batch = decode(four.clone(), &records);
    let here = |n: u64| partition_of(format!("t|s{n}").as_bytes(), 4) == 0;
    assert_eq!(batch.offsets.values().to_vec(), (0..100).filter(|n| here(*n)).collect::<Vec<_>>());
    assert!(batch.dead.iter().all(|d| d.kind == DeadReason::Misplaced && !here(d.offset) && d.reason.ends_with(" of 4")));
    let trusting = DecoderSpec { trust_partition: true, ..four };
    assert_eq!(decode(trusting, &records).rows.num_rows(), 100);

    let mut other = good(1);
    other.key = Some(Bytes::from_static(b"t|s2"));
    let batch = decode(DecoderSpec { trust_partition: true, ..spec() }, &[good(0), other]);
    assert_eq!(batch.dead[0].reason, "record key is `t|s2`, its fields say `t|s1`");
    assert_eq!(batch.dead[0].kind, DeadReason::Misplaced);
}

#[test]
fn a_tombstone_is_a_row_in_a_table_and_a_dead_letter_in_a_source() {
    let records = [good(0), record(1, Some("t|s0"), None), record(2, Some("t"), None), record(3, None, None)];
    let table = decode(DecoderSpec { table: true, ..spec() }, &records);
    assert_eq!(table.tombstones.as_ref().unwrap().iter().collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert_eq!((text(&table.rows, "subscriber_id", 1), longs(&table.rows)[1], table.keys.value(1)), ("s0".to_owned(), None, &b"t|s0"[..]));
    assert_eq!(table.dead.iter().map(|d| d.offset).collect::<Vec<_>>(), [2, 3]);
    let source = decode(spec(), &records);
    assert_eq!(source.dead.len(), 3);
    assert_eq!(source.dead[0].reason, "record has no value, and the source is not a table");
}

#[test]
fn the_end_of_source_is_no_row() {
    let marker = NewRecord::end_of_source();
    let end = Record { offset: 1, append_us: 0, key: marker.key, value: marker.value, headers: marker.headers };
    let batch = decode(spec(), &[good(0), end]);
    assert_eq!((batch.end_of_source, batch.rows.num_rows(), batch.dead.len()), (Some(1), 1, 0));
    assert_eq!(decode(spec(), &[]).rows.num_rows(), 0);
}

#[test]
fn cloud_events_are_unwrapped_in_both_modes() {
    let structured = r#"{"specversion":"1.0","type":"usage","id":"e1","time":"2026-11-21T18:00:00Z","data":{"tenant":"t","subscriber_id":"s","bytes_down":5}}"#;
    let own = r#"{"specversion":"1.0","type":"usage","id":"e1","data":{"event_id":"own","tenant":"t","subscriber_id":"s"}}"#;
    let plain = r#"{"tenant":"t","subscriber_id":"s","bytes_down":5}"#;
    let mut binary = record(2, None, Some(plain));
    binary.headers =
        vec![("ce_id".into(), "e\"2".into()), ("ce_time".into(), "2026-11-21T18:00:00Z".into()), ("content-type".into(), "application/json".into())];
    let mut without_data = record(3, None, Some(plain));
    without_data.headers = vec![("content-type".into(), "application/cloudevents+json; charset=UTF-8".into())];
    let batch = decode(spec(), &[record(0, None, Some(structured)), record(1, Some("t|s"), Some(own)), binary, without_data]);
    assert_eq!([0, 1, 2].map(|r| text(&batch.rows, "event_id", r)), ["e1", "own", "e\"2"]);
    assert_eq!(longs(&batch.rows), [Some(5), None, Some(5)]);
    let times = batch.rows.column(3);
    assert!(times.is_valid(0) && times.is_null(1) && times.is_valid(2));
    assert_eq!(batch.dead[0].reason, "field `data` of a CloudEvent is missing");
}
