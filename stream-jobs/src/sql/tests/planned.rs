//! Statements that plan, and what the job then says.

use super::{aggregate_of, columns, join_of, last, names, plan};
use crate::{
    plan::{AggregateFunction, Body, Emit, GroupColumn, JoinKind, KeyedFunction, LatePolicy, Phase, Relation, Step, WindowSpec},
    sql::{explain, explain_json},
    windows::Windows,
};

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;

#[test]
fn sources_and_tables_say_what_their_statements_say() {
    let job = plan("");
    let usage = &job.sources[0];
    assert_eq!((usage.name.as_str(), usage.topic.as_str(), usage.key.as_slice()), ("usage", "usage.v1", [0, 1].as_slice()));
    assert_eq!((usage.time_column, usage.bound_us, usage.dedup), (Some(3), 5_000_000, Some((2, 10 * MINUTE_US))));
    assert_eq!((usage.max_skew_us, usage.idle_timeout_ms, usage.table, usage.trust_partition), (30_000_000, 10_000, false, false));
    let types: Vec<String> = usage.schema.fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Utf8", "Utf8", "Utf8", "Timestamp(µs, \"UTC\")", "Int64", "Int64", "Utf8", "Decimal128(10, 2)"]);
    assert_eq!((job.sources[1].bound_us, job.sources[1].time_column), (0, Some(2)));
    assert_eq!((job.sources[2].table, job.sources[2].broadcast, job.sources[2].time_column), (true, false, None));
    assert_eq!((job.sources[3].table, job.sources[3].broadcast), (true, true));
    assert_eq!(job.sql_hash.len(), 32);
}

#[test]
fn a_tumbling_aggregate_by_the_record_key_stays_in_its_task() {
    let job = plan("");
    let view = &job.views[0];
    let aggregate = aggregate_of(view);
    let window = WindowSpec { time_column: 3, time_is_window_end: false, windows: Windows::Sliding { size_us: MINUTE_US, slide_us: MINUTE_US, offset_us: 0 } };
    assert_eq!((aggregate.window, aggregate.phase, aggregate.by_record_key, aggregate.input), (Some(window), Phase::Single, true, Relation::Source(0)));
    assert!(matches!(aggregate.group.as_slice(), [GroupColumn::Expr(_), GroupColumn::Expr(_), GroupColumn::WindowStart, GroupColumn::WindowEnd]));
    assert!(matches!(aggregate.aggregates[0].function, AggregateFunction::Sum));
    assert!(matches!(aggregate.aggregates[1].function, AggregateFunction::Count) && aggregate.aggregates[1].args.is_empty());
    assert_eq!((view.emit, view.late, view.level, view.time_column, view.uses_now), (Emit::OnWindowClose, LatePolicy::Side, 1, Some(3), false));
    assert_eq!(names(view, &view.key), ["tenant", "subscriber_id", "window_start", "window_end"]);
    assert_eq!(names(view, &view.partition_key), ["tenant", "subscriber_id"]);
    assert_eq!(
        columns(view),
        "tenant Utf8, subscriber_id Utf8, window_start Timestamp(µs, \"UTC\"), window_end Timestamp(µs, \"UTC\"), bytes Int64, records Int64"
    );
    assert!(view.sql.starts_with("CREATE MATERIALIZED VIEW usage_1m") && view.sql.ends_with("EMIT ON WINDOW CLOSE"));
}

#[test]
fn every_form_of_statement_plans() {
    let cases: &[(&str, &str)] = &[
        (
            "SELECT * FROM usage_1m",
            "tenant Utf8, subscriber_id Utf8, window_start Timestamp(µs, \"UTC\"), window_end Timestamp(µs, \"UTC\"), bytes Int64, records Int64",
        ),
        ("SELECT u.tenant AS t, upper(u.region) AS r, u.bytes_up / 2.0 AS half FROM usage AS u WHERE u.bytes_up > 5", "t Utf8, r Utf8, half Float64"),
        ("SELECT tenant, substr(region, 1, 2) AS r, split_part(region, '-', 1) AS p, region || 'x' AS x FROM usage", "tenant Utf8, r Utf8, p Utf8, x Utf8"),
        (
            "SELECT tenant, date_trunc('hour', event_time) AS h, CAST(event_time AS DATE) AS d, extract(hour FROM event_time) AS n FROM usage",
            "tenant Utf8, h Timestamp(µs, \"UTC\"), d Date32, n Int32",
        ),
        (
            "SELECT tenant, CASE WHEN bytes_up > 5 THEN 'big' ELSE 'small' END AS c, COALESCE(region, '?') AS r, NULL AS nothing FROM usage",
            "tenant Utf8, c Utf8, r Utf8, nothing Utf8",
        ),
        (
            "SELECT tenant, to_timestamp('2020-01-01T00:00:00Z') AS t, event_time - INTERVAL '1 day' AS y FROM usage",
            "tenant Utf8, t Timestamp(µs, \"UTC\"), y Timestamp(µs, \"UTC\")",
        ),
        (
            "SELECT tenant, bytes FROM (SELECT tenant, bytes_up + bytes_down AS bytes FROM usage WHERE region = 'n') x WHERE bytes > 5",
            "tenant Utf8, bytes Int64",
        ),
        ("WITH x AS (SELECT tenant, bytes_up AS b FROM usage) SELECT tenant, b FROM x", "tenant Utf8, b Int64"),
        (
            "SELECT tenant, subscriber_id, AVG(bytes_up) AS a, SUM(price) AS p, AVG(price) AS ap, MIN(region) AS m FROM usage GROUP BY tenant, subscriber_id",
            "tenant Utf8, subscriber_id Utf8, a Float64, p Decimal128(20, 2), ap Decimal128(14, 6), m Utf8",
        ),
        (
            "SELECT tenant, subscriber_id, last_value(region) AS region, first_value(bytes_up) AS b FROM usage GROUP BY tenant, subscriber_id HAVING count(*) > 1",
            "tenant Utf8, subscriber_id Utf8, region Utf8, b Int64",
        ),
        ("SELECT tenant, subscriber_id, SUM(bytes_up) * 1.0 / COUNT(*) AS mean FROM usage GROUP BY 1, 2", "tenant Utf8, subscriber_id Utf8, mean Float64"),
        (
            "SELECT tenant, subscriber_id, COUNT(*) FILTER (WHERE region = 'n') AS n FROM usage GROUP BY tenant, subscriber_id EMIT CHANGES EVERY INTERVAL '10 seconds'",
            "tenant Utf8, subscriber_id Utf8, n Int64",
        ),
        (
            "SELECT tenant, subscriber_id, extract(epoch FROM now() - max(event_time)) AS silent_s FROM usage GROUP BY tenant, subscriber_id",
            "tenant Utf8, subscriber_id Utf8, silent_s Float64",
        ),
        (
            "SELECT tenant, haversine_km(52.5, 13.4, 48, bytes_up) AS km, churn_band(0.5) AS band, hash_bucket(subscriber_id, 10) AS b, churn_score(bytes_up, 0.5) AS s, churn_reasons(bytes_up) AS r FROM usage",
            "tenant Utf8, km Float64, band Utf8, b Int64, s Float64, r Utf8",
        ),
        (
            "SELECT tenant, subscriber_id, window_end, approx_percentile_cont(bytes_up, 0.95) AS p95, COUNT(DISTINCT region) AS regions FROM HOP(usage, event_time, INTERVAL '1 minute', INTERVAL '5 minutes') GROUP BY tenant, subscriber_id, window_end EMIT ON WINDOW CLOSE",
            "tenant Utf8, subscriber_id Utf8, window_end Timestamp(µs, \"UTC\"), p95 Float64, regions Int64",
        ),
        (
            "SELECT substr(region, 1, 2) AS area, tenant, subscriber_id, COUNT(*) AS n FROM usage GROUP BY 1, 2, 3 HAVING substr(region, 1, 2) <> 'xx'",
            "area Utf8, tenant Utf8, subscriber_id Utf8, n Int64",
        ),
    ];
    for (query, expected) in cases {
        let job = plan(&format!("CREATE MATERIALIZED VIEW v AS {query}"));
        assert_eq!(columns(last(&job)), *expected, "{query}");
    }
}

#[test]
fn a_map_keeps_key_time_and_task_of_its_input_where_they_are_projected() {
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT subscriber_id, tenant, event_time AS at FROM usage WHERE bytes_up > 5");
    let view = last(&job);
    assert_eq!(
        (names(view, &view.key), names(view, &view.partition_key), view.time_column),
        (vec!["tenant".into(), "subscriber_id".into()], vec!["tenant".into(), "subscriber_id".into()], Some(2))
    );
    assert_eq!(view.emit, Emit::OnWindowClose);
    let Body::Map { input: Relation::Source(0), steps, .. } = &view.body else { panic!("{:?}", view.body) };
    assert!(matches!(steps.as_slice(), [Step::Filter(_), Step::Project { .. }]));
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT tenant, bytes_up FROM usage");
    assert_eq!((last(&job).key.len(), last(&job).time_column), (0, None));
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT * FROM totals WHERE bytes > 5");
    assert_eq!((last(&job).emit, names(last(&job), &last(&job).key)), (Emit::Changes, vec!["tenant".into(), "subscriber_id".into()]));
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT * FROM usage");
    assert!(matches!(&last(&job).body, Body::Map { steps, .. } if steps.is_empty()));
}

#[test]
fn a_window_over_a_windowed_view_goes_by_its_end() {
    let job = plan(
        "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, window_start, window_end, SUM(bytes) AS bytes
         FROM HOP(usage_1m, window_end, INTERVAL '1 day', INTERVAL '30 days') GROUP BY tenant, subscriber_id, window_start, window_end EMIT ON WINDOW CLOSE
         WITH (late = 'drop', allowed_lateness = '1h')",
    );
    let aggregate = aggregate_of(last(&job));
    let window = WindowSpec { time_column: 3, time_is_window_end: true, windows: Windows::Sliding { size_us: 30 * DAY_US, slide_us: DAY_US, offset_us: 0 } };
    assert_eq!((aggregate.window, aggregate.by_record_key, last(&job).level), (Some(window), false, 1));
    assert_eq!((last(&job).late, last(&job).allowed_lateness_us), (LatePolicy::Drop, HOUR_US));
}

#[test]
fn options_of_a_view_may_stand_before_its_query() {
    let job = plan(
        "CREATE MATERIALIZED VIEW v WITH (late = 'drop') AS WITH x AS (SELECT * FROM TUMBLE(usage, event_time, INTERVAL '1' HOUR))
        SELECT subscriber_id, tenant, window_end, COUNT(*) AS n FROM x GROUP BY subscriber_id, tenant, window_end EMIT ON WINDOW CLOSE",
    );
    assert_eq!((last(&job).late, last(&job).emit), (LatePolicy::Drop, Emit::OnWindowClose));
    // The columns are read out of the record's key in its order, so another order is no longer that key.
    assert!(!aggregate_of(last(&job)).by_record_key);
}

#[test]
fn a_subquery_under_a_window_keeps_the_time() {
    let job = plan(
        "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, window_end, SUM(b) AS b
         FROM (SELECT tenant, subscriber_id, bytes_up * 2 AS b, window_start, window_end FROM TUMBLE(usage, event_time, INTERVAL '1 hour', INTERVAL '15 minutes') WHERE region = 'n') x
         GROUP BY tenant, subscriber_id, window_end EMIT ON WINDOW CLOSE",
    );
    let aggregate = aggregate_of(last(&job));
    let window =
        WindowSpec { time_column: 3, time_is_window_end: false, windows: Windows::Sliding { size_us: HOUR_US, slide_us: HOUR_US, offset_us: 15 * MINUTE_US } };
    assert_eq!((aggregate.window, aggregate.by_record_key, aggregate.pre.len()), (Some(window), true, 2));
    let Step::Project { schema, .. } = &aggregate.pre[1] else { panic!() };
    assert_eq!(schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["tenant", "subscriber_id", "b", "__time"]);
}

#[test]
fn a_windowed_aggregate_by_another_key_is_split() {
    let job = plan(
        "CREATE MATERIALIZED VIEW by_region AS SELECT upper(region) AS region, window_start, window_end, SUM(bytes_up) AS bytes, AVG(price) AS price, last_value(node) AS node, COUNT(*) AS n
         FROM (SELECT region, bytes_up, price, event_id AS node, window_start, window_end FROM HOP(usage, event_time, INTERVAL '10 minutes', INTERVAL '25 minutes', INTERVAL '5 minutes')) x
         GROUP BY upper(region), window_start, window_end EMIT ON WINDOW CLOSE",
    );
    let [.., partial, result] = job.views.as_slice() else { panic!() };
    assert_eq!((partial.name.as_str(), partial.visible, partial.level, result.level), ("by_region$partial", false, 1, 2));
    let time = "Timestamp(µs, \"UTC\")";
    assert_eq!(
        columns(partial),
        format!(
            "upper(x.region) Utf8, window_start {time}, window_end {time}, __pane_start {time}, __pane_end {time}, __missed {time}, __s0_0 Int64, __s0_1 Int64, __s1_0 Binary, __s1_1 Int64, __s2_0 Utf8, __s2_1 Int64, __s3_0 Int64"
        )
    );
    let (below, above) = (aggregate_of(partial), aggregate_of(result));
    assert_eq!((below.phase, above.phase, above.input), (Phase::Partial, Phase::Final, Relation::View(job.views.len() - 2)));
    let pane =
        WindowSpec { time_column: 4, time_is_window_end: false, windows: Windows::Sliding { size_us: 5 * MINUTE_US, slide_us: 5 * MINUTE_US, offset_us: 0 } };
    let window = WindowSpec {
        time_column: 4,
        time_is_window_end: true,
        windows: Windows::Sliding { size_us: 25 * MINUTE_US, slide_us: 10 * MINUTE_US, offset_us: 5 * MINUTE_US },
    };
    assert_eq!((below.window, above.window), (Some(pane), Some(window)));
    assert_eq!((partial.time_column, names(partial, &partial.key)), (Some(4), vec!["upper(x.region)".into(), "__pane_start".into(), "__pane_end".into()]));
    assert_eq!((names(result, &result.partition_key), result.time_column), (vec!["region".into()], Some(2)));
    assert_eq!(above.aggregates[1].args.len(), 2);
    assert_eq!(columns(result), format!("region Utf8, window_start {time}, window_end {time}, bytes Int64, price Decimal128(14, 6), node Utf8, n Int64"));
    let job = plan("CREATE MATERIALIZED VIEW total AS SELECT window_start, window_end, SUM(bytes) AS b FROM TUMBLE(usage_1m, window_end, INTERVAL '1 day') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE;
         CREATE MATERIALIZED VIEW w AS SELECT window_end, SUM(b) AS b FROM TUMBLE(total, window_end, INTERVAL '7 days') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE");
    assert_eq!((last(&job).level, last(&job).partition_key.len(), aggregate_of(last(&job)).phase), (2, 0, Phase::Single));
}

#[test]
fn an_aggregate_without_window_by_another_key_reads_a_view_of_the_level_below() {
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT region, COUNT(*) AS n, SUM(bytes_up) FILTER (WHERE bytes_down > 5) AS b FROM usage GROUP BY region");
    let [.., rows, result] = job.views.as_slice() else { panic!() };
    assert_eq!((rows.name.as_str(), rows.visible, rows.level, result.level), ("v$rows", false, 1, 2));
    assert_eq!(columns(rows), "__g0 Utf8, __a1_0 Int64, __f1 Boolean, tenant Utf8, subscriber_id Utf8, __time Timestamp(µs, \"UTC\")");
    assert_eq!((names(rows, &rows.key), rows.time_column), (vec!["tenant".into(), "subscriber_id".into()], Some(5)));
    assert_eq!((aggregate_of(result).input, aggregate_of(result).phase, result.emit), (Relation::View(job.views.len() - 2), Phase::Single, Emit::Changes));
    assert_eq!(names(result, &result.partition_key), ["region"]);
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT tenant, SUM(bytes) AS b FROM totals GROUP BY tenant");
    assert_eq!((last(&job).level, aggregate_of(last(&job)).input), (2, Relation::View(1)));
}

#[test]
fn tables_are_joined_flat_by_their_key() {
    let job = plan(
        "CREATE MATERIALIZED VIEW v AS SELECT t.tenant, t.subscriber_id, s.plan_id, t.bytes, u.bytes AS minute
         FROM totals t LEFT JOIN subscriber s USING (tenant, subscriber_id) JOIN usage_1m u ON u.subscriber_id = t.subscriber_id AND t.tenant = u.tenant
         WHERE t.bytes > 5 EMIT CHANGES EVERY INTERVAL '1 minute'",
    );
    let (view, join) = (last(&job), join_of(last(&job)));
    assert_eq!(
        join.sides.iter().map(|s| (s.input, s.kind)).collect::<Vec<_>>(),
        [(Relation::View(1), JoinKind::Inner), (Relation::Source(2), JoinKind::Left), (Relation::View(0), JoinKind::Inner)]
    );
    assert!(join.sides.iter().all(|side| side.on == [0, 1]));
    assert_eq!(join.schema.fields().len(), 4 + 5 + 6);
    assert!(matches!(join.post.as_slice(), [Step::Filter(_), Step::Project { .. }]));
    assert_eq!(
        (names(view, &view.key), names(view, &view.partition_key), view.level),
        (vec!["tenant".into(), "subscriber_id".into()], vec!["tenant".into(), "subscriber_id".into()], 1)
    );
    assert_eq!(view.emit, Emit::ChangesEvery { interval_us: MINUTE_US });
    let job = plan("CREATE MATERIALIZED VIEW by_plan AS SELECT tenant, last_value(region) AS r, subscriber_id FROM usage GROUP BY tenant, subscriber_id;
        CREATE MATERIALIZED VIEW v AS SELECT * FROM (SELECT tenant AS ten, subscriber_id AS sub, r FROM by_plan WHERE r <> 'x') a JOIN totals b ON a.sub = b.subscriber_id AND a.ten = b.tenant");
    assert_eq!((join_of(last(&job)).sides[0].pre.len(), join_of(last(&job)).sides[1].on.clone()), (2, vec![1, 0]));
}

#[test]
fn keyed_calls_become_columns_before_the_step_that_uses_them() {
    let job = plan(
        "CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, robust_z(bytes_up, 168) AS z, bytes_up - prev(bytes_up) AS d, prev(event_time) AS before
         FROM usage WHERE percent_rank(bytes_down, 50) > 0.9",
    );
    let Body::Map { steps, .. } = &last(&job).body else { panic!() };
    let [Step::Keyed { functions: first, key, .. }, Step::Filter(_), Step::Keyed { functions: second, schema, .. }, Step::Project { .. }] = steps.as_slice()
    else {
        panic!("{steps:?}")
    };
    assert_eq!((first[0].function, key.as_slice()), (KeyedFunction::PercentRank { size: 50 }, [0, 1].as_slice()));
    let functions: Vec<KeyedFunction> = second.iter().map(|call| call.function).collect();
    assert_eq!(functions, [KeyedFunction::RobustZ { size: 168 }, KeyedFunction::Prev, KeyedFunction::Prev]);
    assert_eq!(schema.field(schema.fields().len() - 1).name(), "__keyed_3");
    assert_eq!(columns(last(&job)), "tenant Utf8, subscriber_id Utf8, z Float64, d Int64, before Timestamp(µs, \"UTC\")");
    let job = plan("CREATE MATERIALIZED VIEW v AS SELECT tenant, subscriber_id, window_end, robust_z(bytes, 100) AS z FROM usage_1m");
    let Body::Map { steps, .. } = &last(&job).body else { panic!() };
    assert!(matches!(&steps[0], Step::Keyed { key, .. } if key == &[0, 1]));
}

#[test]
fn alerts_and_sinks_hold_what_was_written() {
    let job = plan(
        "CREATE MATERIALIZED VIEW risk AS SELECT tenant, subscriber_id, bytes * 0.1 AS score, '[]' AS reasons FROM totals;
         CREATE SINK s FROM risk WITH (connector = 'redis', ttl = '24h');
         CREATE ALERT high ON risk RAISE WHEN score >= 0.7 CLEAR WHEN score < 0.65
           WITH (severity = 'critical', for = '10s', min_hold = '30m', rooms = 'sub:{tenant}:{subscriber_id}, admin:{tenant}', summary = 'score {score}')",
    );
    let alert = &job.alerts[0];
    assert_eq!((alert.raise_sql.as_str(), alert.clear_sql.as_deref()), ("score >= 0.7", Some("score < 0.65")));
    assert_eq!((alert.severity.as_str(), alert.for_us, alert.min_hold_us, alert.kind.as_str()), ("critical", 10_000_000, 30 * MINUTE_US, "high"));
    assert_eq!(alert.rooms, ["sub:{tenant}:{subscriber_id}", "admin:{tenant}"]);
    assert_eq!((alert.tenant_column, alert.score_column, alert.reasons_column, alert.version.len()), (Some(0), Some(2), Some(3), 16));
    assert_eq!((job.sinks[0].connector.as_str(), job.sinks[0].options["ttl"].as_str(), job.views[job.sinks[0].view].name.as_str()), ("redis", "24h", "risk"));
}

#[test]
fn explain_says_where_rows_go_and_what_may_be_relied_on() {
    let job = plan(
        "CREATE MATERIALIZED VIEW by_region AS SELECT region, window_end, COUNT(*) AS n FROM HOP(usage, event_time, INTERVAL '5 minutes', INTERVAL '1 hour') GROUP BY region, window_start, window_end EMIT ON WINDOW CLOSE;
         CREATE MATERIALIZED VIEW profile AS SELECT tenant, subscriber_id, plan_id, bytes FROM totals JOIN subscriber USING (tenant, subscriber_id) EMIT CHANGES EVERY INTERVAL '1 minute';
         CREATE ALERT much ON profile RAISE WHEN bytes > 5",
    );
    let plan = explain_json(&job);
    let view = |name: &str| plan["views"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap().clone();
    assert_eq!(
        (view("by_region$partial")["window"].as_str(), view("by_region")["panes"].as_str()),
        (Some("every 5 minutes"), Some("12 of 5 minutes a window"))
    );
    assert_eq!((view("by_region")["level"].as_i64(), view("by_region")["task_key"][0].as_str()), (Some(2), Some("region")));
    assert!(view("by_region")["results"].as_str().unwrap().starts_with("independent of the cut"));
    assert!(view("totals")["results"].as_str().unwrap().starts_with("replay-exact only"));
    assert_eq!(view("profile")["results"], "replay-exact only: it looks rows up in `subscriber` as it stands at the time");
    assert_eq!(plan["epoch_topics"], serde_json::json!(["epochs.test.l1", "epochs.test.l2", "epochs.test.rooms"]));
    let text = explain(&job);
    for line in [
        "topic         usage.v1",
        "watermark     event_time - 5 seconds",
        "panes         12 of 5 minutes a window",
        "epoch topics: epochs.test.l1, epochs.test.l2, epochs.test.rooms",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
