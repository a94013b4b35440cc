//! Statements that are refused: where, and in which words.

use super::{BEFORE, try_plan};

/// (statement, line in it, column, start of the message, part of the hint)
type Case = (&'static str, u64, u64, &'static str, &'static str);

fn check(cases: &[Case]) {
    let before = BEFORE.lines().count() as u64;
    let mut wrong = Vec::new();
    for (statement, line, column, message, hint) in cases {
        match try_plan(statement) {
            Ok(_) => wrong.push(format!("{statement}\n  planned")),
            Err(e) => {
                let hint_found = e.hint.clone().unwrap_or_default().contains(hint);
                if (e.line.saturating_sub(before), e.column) != (*line, *column) || !e.message.starts_with(message) || !hint_found {
                    wrong.push(format!(
                        "{statement}\n  got      {}:{} {:?} hint {:?}\n  expected {line}:{column} {message:?} hint {hint:?}",
                        e.line.saturating_sub(before),
                        e.column,
                        e.message,
                        e.hint
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn unknown_names_are_refused_where_they_stand() {
    check(&[
        (
            "CREATE MATERIALIZED VIEW v AS\nSELECT tenant, byts_down FROM usage",
            2,
            16,
            "there is no column `byts_down` in `usage`; columns are `bytes_down`, `bytes_up`",
            "did you mean `bytes_down`?",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS\nSELECT tenant FROM usage\nWHERE u.region = 'x'",
            3,
            7,
            "there is no relation `u` in this query; relations are `usage`",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant FROM usag",
            1,
            50,
            "there is no relation `usag`; before it stand `network`, `plans`",
            "did you mean `usage`?",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant,\n uper(region) AS r FROM usage", 2, 2, "there is no function `uper`", "did you mean `upper`?"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, window_end, COUNT(*) AS n\nFROM TUMBLE(usge, event_time, INTERVAL '1 minute') GROUP BY 1, 2, 3",
            2,
            13,
            "there is no relation `usge`",
            "did you mean `usage`?",
        ),
        (
            "CREATE SINK s FROM usage_2m WITH (connector = 'parquet')",
            1,
            20,
            "there is no view `usage_2m`; views are `usage_1m`, `totals`",
            "did you mean `usage_1m`?",
        ),
        ("CREATE SINK s FROM usage WITH (connector = 'parquet')", 1, 20, "`usage` is a source and no view", "write a view"),
        ("CREATE ALERT a ON totals\nRAISE WHEN byte > 5", 2, 12, "there is no column `byte` in `totals`", "did you mean `bytes`?"),
        ("CREATE ALERT a ON totals RAISE WHEN bytes > 5 CLEAR WHEN bites < 5", 1, 58, "there is no column `bites`", "did you mean `bytes`?"),
        ("CREATE ALERT a ON totals RAISE WHEN bytes > 5\nWITH (rooms = 'sub:{tenant}:{subscriber}')", 2, 7, "the view has no column `subscriber`", ""),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant, random() AS r FROM usage", 1, 46, "`random` is not allowed in a job", "now()"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, node_id FROM usage_1m JOIN totals USING (tenant, node_id)",
            1,
            61,
            "there is no column `node_id`",
            "",
        ),
    ]);
}

#[test]
fn broken_statements_are_refused_where_they_break() {
    check(&[
        ("SELECT 1", 1, 1, "expected `CREATE SOURCE`", ""),
        ("CREATE VIEW v AS SELECT tenant FROM usage", 1, 8, "a job keeps its views", "CREATE MATERIALIZED VIEW"),
        ("CREATE MATERIALIZED VIEW v AS\nSELECT tenant,, region FROM usage", 2, 15, "expected: an expression, found: ,", ""),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant FROM usage WHERE", 1, 56, "expected: an expression, found: EOF", ""),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant FROM usage WITH (late = 'keep')", 1, 62, "option `late` is `keep`, expected one of `side`, `drop`", ""),
        ("CREATE MATERIALIZED VIEW usage_1m AS SELECT tenant FROM usage", 1, 26, "the name `usage_1m` is taken", ""),
        ("CREATE MATERIALIZED VIEW \"a$b\" AS SELECT tenant FROM usage", 1, 26, "the name `a$b` is not made of", ""),
        ("CREATE SOURCE s (a TEXT, t TIMESTAMPTZ) WITH (topic = 's', key = 'a')", 1, 15, "source `s` has no time", "WATERMARK FOR"),
        ("CREATE SOURCE s (a TEXT, t TEXT, WATERMARK FOR t AS t) WITH (topic = 's', key = 'a')", 1, 48, "the time `t` is no `TIMESTAMPTZ`", ""),
        (
            "CREATE SOURCE s (a TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t - 5) WITH (topic = 's', key = 'a')",
            1,
            64,
            "expected an interval",
            "INTERVAL '5 seconds'",
        ),
        (
            "CREATE SOURCE s (a TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t)\nWITH (topic = 's', key = 'b')",
            2,
            20,
            "there is no column `b`; columns are `a`, `t`",
            "",
        ),
        ("CREATE SOURCE s (a BLOB, t TIMESTAMPTZ, WATERMARK FOR t AS t) WITH (topic = 's', key = 'a')", 1, 20, "there is no type `BLOB` here", ""),
        ("CREATE SOURCE s (a TEXT, a TEXT) WITH (topic = 's', key = 'a')", 1, 26, "column `a` is written twice", ""),
        (
            "CREATE SOURCE s (a TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t) WITH (topic = 's', key = 'a', dedupe = '10m')",
            1,
            93,
            "there is no option `dedupe` here",
            "did you mean `dedup`?",
        ),
        (
            "CREATE SOURCE s (a TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t) WITH (topic = 's', key = 'a', dedup = 'soon')",
            1,
            93,
            "option `dedup` is `soon`, expected a length of time",
            "'10m'",
        ),
        ("CREATE SOURCE s (a TEXT, t TIMESTAMPTZ, WATERMARK FOR t AS t) WITH (key = 'a')", 1, 1, "option `topic` is missing", "topic = "),
        ("CREATE SINK s FROM usage_1m", 1, 1, "option `connector` is missing", "parquet"),
        ("CREATE ALERT a ON totals WHEN bytes > 5", 1, 26, "expected `RAISE WHEN` and a condition", ""),
        ("CREATE ALERT a ON totals RAISE WHEN bytes", 1, 37, "the condition is `Int64`, expected a boolean", ""),
        ("CREATE ALERT a ON totals RAISE WHEN bytes > 1 WITH (severity = 'bad')", 1, 53, "option `severity` is `bad`", ""),
    ]);
}

#[test]
fn what_this_version_lacks_is_refused_with_what_to_write_instead() {
    check(&[
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant FROM usage ORDER BY tenant", 1, 56, "`ORDER BY` has no meaning", "sort where"),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant FROM usage LIMIT 5", 1, 56, "`LIMIT` and `OFFSET` have no meaning", "WHERE"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, SUM(bytes_up) OVER (PARTITION BY tenant) AS s FROM usage",
            1,
            60,
            "with `OVER` stands `ROW_NUMBER()` alone",
            "GROUP BY",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant, bytes_up + 1 FROM usage", 1, 46, "the column `bytes_up + 1` has no name", "AS name"),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant, bytes_up AS tenant FROM usage", 1, 58, "two columns are named `tenant`", "AS"),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant AS _op FROM usage", 1, 48, "column `_op` begins with `_`", ""),
        ("CREATE MATERIALIZED VIEW v AS SELECT event_time - now() AS age FROM usage", 1, 60, "column `age` is `", "extract(epoch"),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant FROM usage WHERE bytes_up > (SELECT 5)", 1, 31, "a query inside of an expression", "join it"),
        ("CREATE MATERIALIZED VIEW v AS SELECT COUNT(*) AS n FROM usage", 1, 31, "an aggregate without `GROUP BY`", "group by a column"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, bytes_up FROM usage EMIT CHANGES",
            1,
            81,
            "a view without aggregation or join emits each row at once",
            "leave `EMIT` out",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, COUNT(*) AS n FROM usage GROUP BY tenant, subscriber_id EMIT ON WINDOW CLOSE",
            1,
            117,
            "`EMIT ON WINDOW CLOSE` needs a window",
            "TUMBLE",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT tenant, COUNT(*) AS n FROM usage GROUP BY tenant, region", 1, 88, "the view must select `region` unchanged", ""),
        ("CREATE MATERIALIZED VIEW v AS SELECT plan_id, price FROM plans", 1, 58, "`plans` is broadcast", "only be joined"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, COUNT(*) AS n FROM usage GROUP BY tenant, subscriber_id WITH (late = 'drop')",
            1,
            123,
            "rows are late for windows only",
            "leave",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT region, prev(bytes_up) AS p, COUNT(*) AS n FROM usage GROUP BY region, bytes_up",
            1,
            46,
            "`prev` looks at the rows before",
            "",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT prev(prev(bytes_up)) AS p FROM usage", 1, 38, "`prev` stands around another", "view of its own"),
        ("CREATE MATERIALIZED VIEW v AS SELECT robust_z(bytes_up, 1) AS p FROM usage", 1, 38, "`robust_z` keeps a constant number of rows", "robust_z(x, 100)"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, prev(bytes) AS p FROM totals",
            1,
            61,
            "`prev` looks at the rows before",
            "never taken back",
        ),
        ("CREATE ALERT a ON totals RAISE WHEN prev(bytes) > 5", 1, 37, "`prev` looks at the rows before", ""),
        ("CREATE ALERT a ON totals RAISE WHEN now() > '2020-01-01'", 1, 37, "`now()` cannot stand in an alert", "in the view"),
    ]);
}

#[test]
fn windows_are_refused_that_cannot_be_kept() {
    check(&[
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM TUMBLE(usage, tenant, INTERVAL '1 minute') GROUP BY tenant, window_end",
            1,
            91,
            "the time of `usage` is `event_time`, not `tenant`",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM TUMBLE(totals, t, INTERVAL '1 minute') GROUP BY tenant, window_end",
            1,
            92,
            "a window needs rows that are never taken back, and `totals` emits changes",
            "window its input",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM TUMBLE(usage, event_time) GROUP BY tenant, window_end",
            1,
            77,
            "expected `TUMBLE(relation, time, size [, offset])`",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM TUMBLE(usage, event_time, INTERVAL '1 month') GROUP BY tenant, window_end",
            1,
            112,
            "`INTERVAL '1 month'` is no length of time",
            "INTERVAL '1 minute'",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM HOP(usage, event_time, INTERVAL '2 hours', INTERVAL '1 hour') GROUP BY tenant, window_end",
            1,
            109,
            "the slide of `HOP`, 2 hours, is at most its size, 1 hour",
            "slide stands before",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM TUMBLE(usage, event_time, INTERVAL '401 days') GROUP BY tenant, window_end",
            1,
            112,
            "a window of 401 days is too long: at most 400 days",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM HOP(usage, event_time, INTERVAL '1 second', INTERVAL '30 days') GROUP BY tenant, window_end",
            1,
            109,
            "a window of 2592000 panes",
            "longer slide",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, COUNT(*) AS n FROM TUMBEL(usage, event_time, INTERVAL '1 day') GROUP BY tenant",
            1,
            65,
            "there is no window function `tumbel`",
            "did you mean `tumble`?",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, COUNT(*) AS n FROM TUMBLE(usage, event_time, INTERVAL '1 day') GROUP BY tenant",
            1,
            109,
            "a window function needs `window_start` or `window_end`",
            "GROUP BY",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM TUMBLE(usage, event_time, INTERVAL '1 day')", 1, 31, "a window function needs `GROUP BY`", ""),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, window_end, COUNT(*) AS n FROM TUMBLE(usage, event_time, INTERVAL '1 day') WHERE window_end > '2020-01-01' GROUP BY tenant, window_end",
            1,
            46,
            "`window_end` is known after `GROUP BY` only",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT region, window_end, COUNT(*) AS n FROM TUMBLE(usage, event_time, INTERVAL '1 day') GROUP BY region, window_end",
            1,
            31,
            "a windowed view by another key than its input's",
            "EMIT ON WINDOW CLOSE",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT region, window_end, COUNT(*) AS n FROM TUMBLE(usage, event_time, INTERVAL '1 day') GROUP BY region, window_end EMIT ON WINDOW CLOSE WITH (allowed_lateness = '1h')",
            1,
            176,
            "`allowed_lateness` is not part of this version",
            "",
        ),
    ]);
}

#[test]
fn joins_are_refused_that_are_not_by_the_key_of_tables() {
    check(&[
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, a.subscriber_id FROM totals a JOIN subscriber b USING (tenant)",
            1,
            81,
            "the view must select the key of `subscriber`",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT a.tenant, a.subscriber_id FROM totals a RIGHT JOIN subscriber b USING (tenant, subscriber_id)",
            1,
            78,
            "`RIGHT JOIN` is not part of this version",
            "turn it around",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT a.tenant FROM totals a, subscriber b", 1, 31, "a join without `ON` or `USING`", "USING"),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT a.tenant, a.subscriber_id FROM totals a LEFT JOIN subscriber b ON a.tenant = b.tenant AND a.bytes > b.nps",
            1,
            31,
            "a join compares columns of the same type with `=`, and not `a.bytes > ",
            "WHERE",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, bytes FROM totals JOIN subscriber USING (tenant, subscriber_id)",
            1,
            57,
            "the view must select the key of `totals`, by which its rows are known: `subscriber_id`",
            "",
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, bytes FROM totals JOIN subscriber USING (tenant, subscriber_id) EMIT ON WINDOW CLOSE",
            1,
            125,
            "a join of tables has no window that closes",
            "EMIT CHANGES",
        ),
    ]);
}
