//! `import` through the log and through the door of an engine that is away for a while.

use headend::import::{
    Import, Summary,
    destination::{Destination, Door, LogTopic},
    import,
    payload::Converter,
    rows,
};
use ingest::{EmbeddedLog, Log, TopicSpec, door};
use schemas::{Record, event::event_type};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const NOW_US: i64 = 1_790_000_000_000_000;

fn what(file: &Path) -> Import {
    Import {
        file: file.to_owned(),
        event: event_type("payment").unwrap(),
        mapping: None,
        tenant: "acme".to_owned(),
        speed: None,
        close: false,
        from_line: 1,
        errors: file.with_extension("errors.jsonl"),
        now_us: NOW_US,
    }
}

fn payments(n: u32) -> String {
    (0..n)
        .map(|i| {
            format!(
                "{{\"subscriber_id\":\"s{}\",\"event_time\":\"2026-01-01T{:02}:{:02}:00Z\",\"outcome\":\"ok\",\"amount_minor\":{i}}}\n",
                i % 7,
                i / 60 % 24,
                i % 60
            )
        })
        .collect()
}

async fn records(log: &Arc<EmbeddedLog>) -> Vec<Vec<Record>> {
    let mut all = Vec::new();
    for partition in 0..4 {
        let end = log.end("payment.v1", partition).await.unwrap();
        let mut reader = log.reader("payment.v1", partition, 0).unwrap();
        let mut of_partition = Vec::new();
        while (of_partition.len() as u64) < end {
            of_partition.extend(reader.fetch(1000, 1 << 20, Duration::ZERO).await.unwrap().records);
        }
        all.push(of_partition);
    }
    all
}

async fn into_log(log: &Arc<EmbeddedLog>, what: Import) -> anyhow::Result<Summary> {
    let topic = LogTopic::open(log.clone(), what.event, Some(4), 4).await?;
    import(what, &Destination::Log(topic), &CancellationToken::new()).await
}

#[tokio::test]
async fn lines_keep_their_order_in_each_partition_and_the_marker_ends_every_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    std::fs::write(&file, payments(2500)).unwrap();
    let log = EmbeddedLog::in_memory().unwrap();
    let summary = into_log(&log, Import { close: true, ..what(&file) }).await.unwrap();
    assert_eq!((summary.lines, summary.accepted, summary.errors, summary.last_line), (2500, 2500, 0, 2500));
    let mut events = 0;
    for partition in records(&log).await {
        let (last, rows) = partition.split_last().unwrap();
        assert!(last.is_end_of_source());
        let amounts: Vec<i64> =
            rows.iter().map(|r| serde_json::from_slice::<serde_json::Value>(r.value.as_ref().unwrap()).unwrap()["amount_minor"].as_i64().unwrap()).collect();
        assert!(amounts.is_sorted());
        events += rows.len();
    }
    assert_eq!(events, 2500);
}

#[tokio::test]
async fn a_mapping_passes_the_neighbours_of_a_row_that_fails_and_counts_what_it_leaves_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.csv");
    std::fs::write(&file, "id,at,pounds\n1,2026-01-01 10:00:00,1.25\n2,2026-01-01 10:00:01,much\n3,2026-01-01 10:00:02,-1\n4,2026-01-01 10:00:03,0.005\n")
        .unwrap();
    let sql = "SELECT id AS subscriber_id, CAST(at AS TIMESTAMP) AS event_time, 'ok' AS outcome, \
               CAST(CAST(CAST(pounds AS DECIMAL(12, 3)) * 100 AS DECIMAL(20, 0)) AS BIGINT) AS amount_minor FROM input WHERE id <> '3'";
    let log = EmbeddedLog::in_memory().unwrap();
    let summary = into_log(&log, Import { mapping: Some(("m.sql".into(), sql.to_owned())), ..what(&file) }).await.unwrap();
    assert_eq!((summary.lines, summary.accepted, summary.filtered, summary.errors), (4, 2, 1, 1));
    let mut payloads: Vec<String> = records(&log).await.into_iter().flatten().map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect();
    payloads.sort_by_key(|p| p.find("\"subscriber_id\":\"4\""));
    assert!(
        payloads[0].ends_with("\"tenant\":\"acme\",\"subscriber_id\":\"1\",\"event_time\":\"2026-01-01T10:00:00Z\",\"outcome\":\"ok\",\"amount_minor\":125}"),
        "{}",
        payloads[0]
    );
    assert!(payloads[1].ends_with("\"event_time\":\"2026-01-01T10:00:03Z\",\"outcome\":\"ok\",\"amount_minor\":1}"), "{}", payloads[1]);
}

#[tokio::test]
async fn a_mapping_over_json_lines_sees_the_inferred_types() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    std::fs::write(&file, "{\"who\":7,\"t\":\"2026-01-01T10:00:00Z\",\"sum\":2.5}\nnot json\n{\"who\":8,\"t\":\"2026-01-01T10:00:00Z\",\"sum\":1}\n").unwrap();
    let sql = "SELECT CAST(who AS TEXT) AS subscriber_id, t AS event_time, 'ok' AS outcome, CAST(sum * 100 AS BIGINT) AS amount_minor FROM input";
    let log = EmbeddedLog::in_memory().unwrap();
    let summary = into_log(&log, Import { mapping: Some(("m.sql".into(), sql.to_owned())), ..what(&file) }).await.unwrap();
    assert_eq!((summary.accepted, summary.errors), (2, 1));
}

/// Nobody answers on this listener: the next connection is closed as it comes.
async fn refuse_once(listener: &TcpListener) {
    drop(listener.accept().await.unwrap());
}

#[tokio::test]
async fn an_engine_that_breaks_a_connection_gets_every_line_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    std::fs::write(&file, payments(1500)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let log = EmbeddedLog::in_memory().unwrap();
    log.create_topic(&TopicSpec { name: "payment.v1".to_owned(), partitions: 4, compacted: false }).await.unwrap();
    let destination = Destination::Http(Door::new(&format!("http://{}", listener.local_addr().unwrap()), event_type("payment").unwrap(), None));
    let sending = tokio::spawn(async move { import(what(&file), &destination, &CancellationToken::new()).await });
    refuse_once(&listener).await;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(ws_gateway::serve(listener, door::router(log.clone(), door::DoorLimits::default()), stop.clone()));
    let summary = sending.await.unwrap().unwrap();
    assert_eq!((summary.accepted, summary.errors, summary.last_line), (1500, 0, 1500));
    assert_eq!(records(&log).await.iter().map(Vec::len).sum::<usize>(), 1500);
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_while_the_engine_is_away_leaves_the_line_to_resume_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    std::fs::write(&file, payments(10)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = Destination::Http(Door::new(&format!("http://{}", listener.local_addr().unwrap()), event_type("payment").unwrap(), None));
    let stop = CancellationToken::new();
    let importing = import(Import { from_line: 4, ..what(&file) }, &destination, &stop);
    let (summary, ()) = tokio::join!(importing, async {
        refuse_once(&listener).await;
        stop.cancel();
        drop(listener);
    });
    let summary = summary.unwrap();
    assert_eq!((summary.stopped, summary.accepted, summary.last_line), (true, 0, 3));
}

#[tokio::test]
async fn a_paced_import_that_is_stopped_names_the_last_line_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    // The third line is nine hours of event time after the first: at speed 1 it does not come.
    std::fs::write(&file, payments(3).lines().map(|l| l.replace(":01:00Z", ":00:00Z").replace("T00:02:00Z", "T09:00:00Z") + "\n").collect::<String>()).unwrap();
    let log = EmbeddedLog::in_memory().unwrap();
    let topic = LogTopic::open(log.clone(), event_type("payment").unwrap(), Some(4), 4).await.unwrap();
    let (destination, stop) = (Destination::Log(topic), CancellationToken::new());
    let importing = import(Import { speed: Some(1.0), close: true, ..what(&file) }, &destination, &stop);
    let stopping = async {
        while records(&log).await.iter().map(Vec::len).sum::<usize>() < 2 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (summary, ()) = tokio::join!(importing, stopping);
    let summary = summary.unwrap();
    assert_eq!((summary.stopped, summary.accepted, summary.last_line), (true, 2, 2));
    assert_eq!(records(&log).await.iter().map(Vec::len).sum::<usize>(), 2, "no end-of-source marker behind a stop");
}

#[test]
fn the_same_line_has_the_same_event_id_and_the_senders_own_fields_stay() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    let line = "{\"subscriber_id\":\"s\",\"event_time\":\"2026-01-01T00:00:00Z\",\"outcome\":\"ok\",\"amount_minor\":1,\"big\":123456789012345678901234567890}";
    std::fs::write(&file, format!("{line}\n{line}\n")).unwrap();
    let convert = || {
        let reader = rows::open(&file).unwrap();
        let mut converter = Converter::for_event(&reader, event_type("payment").unwrap(), "acme", NOW_US);
        converter.convert(reader.map(|r| r.unwrap()).collect()).unwrap().rows
    };
    let (first, again) = (convert(), convert());
    assert_eq!(first, again);
    assert_ne!(first[0].payload, first[1].payload, "equal lines are two events");
    let text = String::from_utf8(first[0].payload.clone()).unwrap();
    assert!(text.ends_with("\"amount_minor\":1,\"big\":123456789012345678901234567890}"), "{text}");
    assert_eq!(first[0].key, "acme|s");
}

#[test]
fn for_a_source_of_a_job_what_does_not_fit_is_left_to_the_chain() {
    use arrow_schema::{DataType, Field, Schema, TimeUnit};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("u.csv");
    std::fs::write(&file, "k,at,n\na,2026-01-01T00:00:00Z,5\nb,,x\n").unwrap();
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("at", time, true), Field::new("n", DataType::Int64, true)]));
    let reader = rows::open(&file).unwrap();
    let mut converter = Converter::for_columns(&reader, &schema, &[0], Some(1));
    let batch = converter.convert(reader.map(|r| r.unwrap()).collect()).unwrap();
    let got: Vec<(&str, &str, i64)> = batch.rows.iter().map(|r| (r.key.as_str(), std::str::from_utf8(&r.payload).unwrap(), r.event_time_us)).collect();
    assert_eq!(got, [("a", r#"{"k":"a","at":"2026-01-01T00:00:00Z","n":5}"#, 1_767_225_600_000_000), ("b", r#"{"k":"b","n":"x"}"#, 0)]);
}

/// The real data, where it is there: every line of Online Retail is accepted, and the amounts are exact.
#[tokio::test]
async fn every_line_of_the_retail_data_is_accepted_with_its_exact_amount() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = std::env::var_os("HEADEND_DATA").map_or_else(|| root.join("../shared/data"), Into::into);
    let file = data.join("retail/online_retail.csv.gz");
    if !file.exists() {
        println!("left out: `{}` is not there (HEADEND_DATA)", file.display());
        return;
    }
    let sql = std::fs::read_to_string(root.join("tests/data/retail-mapping.sql")).unwrap();
    let mut reader = rows::open(&file).unwrap();
    let mut converter = Converter::for_event(&reader, event_type("payment").unwrap(), "default", NOW_US).with_mapping(&mut reader, &sql).unwrap();
    let (mut lines, mut guests) = (0, 0);
    loop {
        let rows: Vec<_> = reader.by_ref().take(4096).map(|r| r.unwrap()).collect();
        if rows.is_empty() {
            break;
        }
        let exact: Vec<i64> = rows.iter().map(|r| minor_units(&r.text)).collect();
        let batch = converter.convert(rows).unwrap();
        assert_eq!(batch.errors, []);
        assert_eq!(batch.rows.len(), exact.len());
        for (row, exact) in batch.rows.iter().zip(exact) {
            let payload: serde_json::Value = serde_json::from_slice(&row.payload).unwrap();
            assert_eq!(payload["amount_minor"].as_i64(), Some(exact), "line {}", row.line);
            guests += u32::from(row.key == "retail|guest");
            lines += 1;
        }
    }
    assert_eq!((lines, guests), (541_909, 541_909 - 406_829));
}

/// Quantity × unit price in pence, half away from zero, in whole numbers and without the code under test.
fn minor_units(record: &str) -> i64 {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(record.as_bytes());
    let fields = reader.records().next().unwrap().unwrap();
    let (negative, price) = fields[5].strip_prefix('-').map_or((1, &fields[5]), |p| (-1, p));
    let (whole, part) = price.split_once('.').unwrap_or((price, ""));
    let thousandths = whole.parse::<i64>().unwrap() * 1000 + format!("{part:0<3}").parse::<i64>().unwrap();
    let product = fields[3].parse::<i64>().unwrap() * thousandths * negative;
    (product.abs() + 5) / 10 * product.signum()
}
