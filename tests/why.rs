//! `headend explain --why`: a running engine says which input holds a view back, and what became of its rows.

use crate::bad_input::program::{Engine, Folder, eventually, now};
use schemas::partition::partition_of;

const JOB: &str = "CREATE SOURCE usage (tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, region TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id', idle_timeout = '1 hour');
CREATE MATERIALIZED VIEW by_region AS
SELECT tenant, region, window_start, window_end, SUM(bytes_down) AS bytes
FROM TUMBLE(usage, event_time, INTERVAL '1 minute') WHERE bytes_down > 10
GROUP BY tenant, region, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW large AS SELECT tenant, subscriber_id, bytes_down FROM usage WHERE bytes_down > 1000000;
";

/// A subscriber of the first of two partitions.
fn of_first_partition() -> String {
    (0..).map(|i| format!("s{i}")).find(|id| partition_of(format!("acme|{id}").as_bytes(), 2) == 0).unwrap()
}

fn send(engine: &Engine, bytes_down: u64) {
    let (id, time) = (of_first_partition(), now());
    let row = format!(
        "{{\"tenant\":\"acme\",\"subscriber_id\":\"{id}\",\"event_id\":\"e\",\"event_time\":\"{time}\",\"bytes_down\":{bytes_down},\"region\":\"north\"}}"
    );
    assert_eq!(engine.post(row).unwrap().0, 200);
}

#[test]
fn a_view_of_another_key_names_the_partition_that_holds_it_back_and_what_was_filtered() {
    let folder = Folder::new(JOB);
    let engine = folder.engine();
    let why = |view: &str| folder.run(&["explain", "--why", view, "--at", &engine.address]);
    send(&engine, 50);
    send(&engine, 5);
    let mut said = String::new();
    eventually("it names what holds it back", || {
        said = why("by_region").1;
        said.contains("held back by `usage.v1/1`, through ") && said.contains("no row has come for ")
    });
    assert!(said.contains("it has no watermark: one of its inputs has had no row yet"), "{said}");
    assert!(said.contains("through `by_region$partial` of `epochs.job.l1/1`"), "{said}");
    eventually("it counts what was filtered", || {
        said = why("large").1;
        said.contains("large: watermark 20") && said.contains("2 rows in, 2 filtered, 0 late, 0 out")
    });
    assert!(said.contains("its conditions have let no row through"), "{said}");
    let (code, out, err) = why("large_");
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("has no view `large_`"), "{err}");
}

#[test]
fn without_an_engine_the_question_is_answered_with_the_address_that_is_silent() {
    let folder = Folder::new(JOB);
    let (code, _, err) = folder.run(&["explain", "--why", "large", "--at", "http://127.0.0.1:9"]);
    assert_ne!(code, 0);
    assert!(err.contains("no engine answers at `http://127.0.0.1:9`"), "{err}");
}
