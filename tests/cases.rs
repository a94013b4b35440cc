//! What a job means, as data: a folder of `cases` is a job, its rows, and the rows that must come out.
//!
//! `job.sql` opens with lines `-- name: value` that say how the case runs:
//!
//! * `output` – the output that is compared, `VIEW`, or `NAME of VIEW` for another output of the view's task: `alerts of risky`;
//! * `now` – the time at which the log appended the rows; without it, the present;
//! * `counts` – counters that must come out for every cut: `late=1 dead=2`;
//! * `columns` – the columns that are compared; without it, all;
//! * `compare` – what must be equal for other cuts than the straight one: `rows` (all of them, any order), `final` (the rows that stand at the
//!   end) or `cut` (all rows, for crashes at the same cut only); without it, `final` for changes and `rows` for the rest;
//! * `cut` – rows of an epoch in the run that must give exactly `expected.jsonl`; without it, all rows are one epoch;
//! * `partitions` – numbers of partitions with which the rows must be the same.
//!
//! `<source>.jsonl` (or `events.jsonl` for the only source) holds a record a line: its value as it is, or `{"_key": …, "_value": …}` where the key
//! is not the one that the value tells; a `null` value is a tombstone. `UPDATE_GOLDEN=1` rewrites `expected.jsonl`: check by hand what it wrote.

use headend::{
    engine::{EngineConfig, Totals},
    try_job::Trial,
};
use schemas::{AcceptedEpoch, NewRecord, partition::partition_of};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use stream_jobs::{plan::SourceSpec, rooms::JsonRows, upstream::read_rows};

macro_rules! cases {
    ($($name:ident,)*) => {
        const CASES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { check(stringify!($name)) })*
    };
}

cases! {
    a_tumbling_window_is_summed_once_when_the_watermark_passes_its_end,
    an_offset_moves_the_bounds_of_windows,
    a_window_holds_its_start_and_not_its_end,
    a_hopping_window_counts_a_row_in_each_of_its_windows,
    a_slide_need_not_divide_the_size,
    a_hopping_window_has_an_offset_too,
    a_row_whose_window_the_watermark_has_passed_is_late_and_counted,
    a_late_row_goes_to_the_side_with_its_place_and_the_reason,
    a_late_row_is_dropped_where_the_view_says_so,
    a_row_late_for_some_of_its_hopping_windows_counts_in_the_others,
    partly_late_rows_count_right_where_the_slide_does_not_divide_the_size,
    a_wider_bound_waits_for_rows_that_come_out_of_order,
    nulls_count_as_rows_and_nowhere_else,
    a_filter_keeps_rows_from_one_aggregate_alone,
    first_and_last_value_go_by_event_time_and_then_by_the_log,
    first_and_last_value_go_over_the_panes_of_a_hopping_window,
    decimals_are_added_exactly,
    other_aggregates_are_served_by_datafusion_when_the_window_closes,
    other_aggregates_run_over_hopping_windows,
    changes_of_a_tumbling_window_carry_the_row_before_and_after,
    changes_of_a_hopping_window_touch_each_of_its_windows,
    a_row_that_does_not_change_the_result_makes_no_change,
    changes_of_one_epoch_are_coalesced,
    changes_every_tick_do_not_depend_on_the_cut,
    a_row_behind_the_watermark_counts_at_the_next_tick,
    a_view_without_a_window_keeps_a_row_per_key,
    a_row_that_moves_to_another_band_is_taken_back_from_the_old_one,
    a_view_by_another_key_adds_up_what_the_tasks_have,
    a_hopping_view_by_another_key_merges_panes_of_all_tasks,
    an_unwindowed_view_by_another_key_converges,
    a_view_over_a_windowed_view_takes_its_rows_at_their_windows_end,
    a_total_over_all_keys_stands_on_the_view_by_key,
    having_holds_rows_back_when_a_window_closes,
    having_over_changes_deletes_a_row_that_no_longer_passes,
    a_map_hands_each_row_on_at_once,
    a_row_whose_expression_fails_becomes_null_and_harms_no_other,
    an_argument_that_fails_is_null_to_its_aggregate,
    a_result_that_fails_after_the_aggregate_is_null,
    a_table_keeps_the_newest_row_per_key_and_a_tombstone_deletes,
    counts_over_a_table_follow_its_updates_and_tombstones,
    an_inner_join_has_a_row_where_both_tables_have_one,
    a_left_join_fills_up_with_null,
    silence_moves_the_value_of_a_sliding_table,
    a_key_that_falls_silent_leaves_an_inner_join,
    silence_leaves_a_table_of_closed_windows_too,
    a_sliding_table_tells_each_value_on_its_way_down,
    now_is_the_watermark_cut_to_the_hour_and_its_tick_moves_rows,
    prev_is_the_value_of_the_row_before_in_the_log,
    robust_z_and_percent_rank_hold_a_row_against_the_rows_before_it,
    haversine_km_is_the_distance_on_the_sphere,
    prev_over_windows_is_the_window_before_of_the_same_key,
    a_duplicate_is_dropped_within_the_horizon_per_key,
    records_that_cannot_be_read_are_dead_letters_and_stop_nobody,
    a_dead_letter_says_where_it_stands_and_what_is_wrong,
    a_row_whose_key_is_not_its_records_is_misplaced,
    a_row_from_the_future_counts_and_does_not_move_the_watermark,
    hysteresis_keeps_a_score_on_the_edge_from_flapping,
    an_alert_with_for_fires_when_its_condition_has_held_so_long,
    an_alert_holds_at_least_its_min_hold,
    a_condition_that_returns_within_min_hold_goes_on_with_its_alert,
    a_deleted_row_resolves_its_alert,
    an_alert_on_a_window_ends_with_the_window,
    an_alert_on_rows_holds_until_rows_are_quiet,
    a_view_that_only_renames_carries_the_new_names,
}

#[test]
fn every_folder_of_cases_is_run() {
    let folders = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), CASES.iter().map(|name| (*name).to_owned()).collect());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

struct Case {
    name: &'static str,
    dir: PathBuf,
    sql: String,
    /// The lines `-- name: value`.
    settings: BTreeMap<String, String>,
}

/// One way of running a case.
#[derive(Debug, Clone, Copy)]
struct Way {
    cut_rows: usize,
    crash_every: Option<u64>,
    snapshot_every: u64,
    partitions: u32,
}

struct Outcome {
    rows: Vec<Value>,
    /// The key of the rows, where they are changes.
    key: Option<Vec<String>>,
    counts: BTreeMap<String, u64>,
}

fn check(name: &'static str) {
    let case = Case::read(name);
    let straight = Way { cut_rows: case.number("cut").unwrap_or(8192), crash_every: None, snapshot_every: u64::MAX, partitions: 1 };
    let outcome = case.run(straight);
    let golden = case.dir.join("expected.jsonl");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, lines(&outcome.rows)).unwrap();
    }
    let expected = jsonl(&golden);
    let key = outcome.key.as_deref();
    let compare = case.settings.get("compare").map_or(if key.is_some() { "final" } else { "rows" }, String::as_str);
    case.check_counts(straight, &outcome);
    // Where tables are joined, the order in which their first rows arrive is free; what stands at the end is not.
    let straight_compare = if case.settings.get("compare").is_some_and(|c| c == "final") { "final" } else { "rows" };
    same(&format!("`{name}`, {straight:?}"), straight_compare, key, &outcome.rows, &expected);
    for way in case.other_ways() {
        let other = case.run(way);
        case.check_counts(way, &other);
        let compare = match compare {
            "cut" if way.cut_rows == straight.cut_rows => "rows",
            "cut" => continue,
            other => other,
        };
        same(&format!("`{name}`, {way:?}"), compare, key, &other.rows, &expected);
    }
}

fn same(what: &str, compare: &str, key: Option<&[String]>, rows: &[Value], expected: &[Value]) {
    match key.filter(|_| compare == "final") {
        Some(key) => assert_eq!(standing(key, rows), standing(key, expected), "{what}, came out as\n{}", lines(rows)),
        None => assert_eq!(sorted(rows), sorted(expected), "{what}, came out as\n{}", lines(rows)),
    }
}

impl Case {
    fn read(name: &'static str) -> Self {
        let dir = root().join(name);
        let sql = std::fs::read_to_string(dir.join("job.sql")).unwrap();
        let setting = |line: &str| line.strip_prefix("-- ")?.split_once(": ").map(|(k, v)| (k.to_owned(), v.trim().to_owned()));
        let settings = sql.lines().take_while(|l| l.starts_with("--")).filter_map(setting).collect();
        Self { name, dir, sql, settings }
    }

    fn number(&self, setting: &str) -> Option<usize> {
        self.settings.get(setting).map(|n| n.parse().unwrap())
    }

    fn other_ways(&self) -> Vec<Way> {
        let cut = |cut_rows| Way { cut_rows, crash_every: None, snapshot_every: u64::MAX, partitions: 1 };
        let crash = |cut_rows, crash_every, snapshot_every| Way { cut_rows, crash_every: Some(crash_every), snapshot_every, partitions: 1 };
        let mut ways = vec![cut(1), cut(2), cut(3), cut(5), crash(1, 1, 1), crash(1, 2, 5), crash(2, 3, 1), crash(3, 2, 1)];
        for partitions in self.settings.get("partitions").map_or("", String::as_str).split_whitespace() {
            let partitions = partitions.parse().unwrap();
            ways.extend([Way { partitions, ..cut(8192) }, Way { partitions, ..cut(1) }, Way { partitions, ..crash(2, 2, 1) }]);
        }
        ways
    }

    /// The output's name, and the view whose task it leaves.
    fn output(&self) -> (String, String) {
        let output = self.settings.get("output").unwrap_or_else(|| panic!("`{}` names no output", self.name));
        match output.split_once(" of ") {
            Some((name, view)) => (name.to_owned(), view.to_owned()),
            None => (output.clone(), output.clone()),
        }
    }

    /// Rows that a crash makes the program read again are counted again.
    fn check_counts(&self, way: Way, outcome: &Outcome) {
        if way.crash_every.is_some() {
            return;
        }
        let wanted = self.settings.get("counts").map_or("", String::as_str).split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let zero = ["late", "dead", "duplicate", "misplaced", "future"].into_iter().map(|name| (name, "0"));
        for (name, n) in zero.chain(wanted).collect::<BTreeMap<_, _>>() {
            assert_eq!(outcome.counts[name].to_string(), n, "`{}`, {way:?}: `{name}`", self.name);
        }
    }

    fn run(&self, way: Way) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(self.outcome(way))
    }

    async fn outcome(&self, way: Way) -> Outcome {
        let (output, view) = self.output();
        let mut config = EngineConfig::new(self.name, self.sql.clone());
        config.partitions = way.partitions;
        config.upper_partitions = way.partitions;
        config.rows_max = way.cut_rows;
        config.cut_min = Duration::ZERO;
        config.crash_every = way.crash_every;
        config.snapshot_every = way.snapshot_every;
        config.snapshot_interval = Duration::MAX;
        config.appended_us = self.settings.get("now").map(|t| schemas::clock::parse_rfc3339(t).unwrap());
        config.wanted = vec![view.clone()];
        let trial = Trial::new(config).await.unwrap_or_else(|e| panic!("`{}`: {e}", self.name));
        for source in &trial.job.sources {
            self.append(&trial, source, way.partitions).await;
        }
        trial.close_sources().await.unwrap();
        let spec = trial.job.views.iter().find(|v| v.name == view).unwrap();
        let key: Vec<String> = spec.key.iter().map(|i| spec.schema.field(*i).name().clone()).collect();
        let columns: Option<Vec<&str>> = self.settings.get("columns").map(|c| c.split(',').map(str::trim).collect());
        let mut rows = Vec::new();
        let totals = trial
            .run(&view, |epoch| {
                rows.extend(rows_of(epoch, &output).into_iter().map(|row| narrowed(row, columns.as_deref())));
                Ok(())
            })
            .await
            .unwrap_or_else(|e| panic!("`{}`, {way:?}: {e}", self.name));
        let key = rows.first().is_some_and(|r: &Value| r.get("_op").is_some()).then_some(key);
        Outcome { rows, key, counts: counts(&totals) }
    }

    async fn append(&self, trial: &Trial, source: &SourceSpec, partitions: u32) {
        let file = self.dir.join(format!("{}.jsonl", source.name));
        let file = if file.exists() { file } else { self.dir.join("events.jsonl") };
        for line in std::fs::read_to_string(&file).unwrap().lines().filter(|l| !l.is_empty()) {
            let (key, value) = record(source, line);
            let partition = key.as_ref().map_or(0, |k| partition_of(k.as_bytes(), partitions));
            let record = NewRecord { key: key.map(Into::into), value: value.map(Into::into), headers: Vec::new() };
            trial.log.append(&source.topic, partition, vec![record]).await.unwrap();
        }
    }
}

/// Key and value of a line.
fn record(source: &SourceSpec, line: &str) -> (Option<String>, Option<String>) {
    let parsed: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    if let Some(key) = parsed.get("_key") {
        let value = match &parsed["_value"] {
            Value::Null => None,
            Value::String(raw) => Some(raw.clone()),
            value => Some(value.to_string()),
        };
        return (key.as_str().map(str::to_owned), value);
    }
    let parts: Option<Vec<&str>> = source.key.iter().map(|i| parsed.get(source.schema.field(*i).name())?.as_str()).collect();
    (parts.map(|p| p.join("|")), Some(line.to_owned()))
}

fn rows_of(epoch: &AcceptedEpoch, name: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for output in epoch.record.outputs.iter().filter(|o| o.name == name) {
        let delta = read_rows(output).unwrap();
        let rows = JsonRows::new(&delta.batch).unwrap();
        for row in 0..delta.len() {
            let mut value = rows.object(row).unwrap();
            if let Some(event) = value.get("event").filter(|_| name == "alerts") {
                value = serde_json::from_str(event.as_str().unwrap()).unwrap();
            }
            if let Some(ops) = &delta.ops {
                value["_op"] = json!(ops[row].as_str());
            }
            all.push(value);
        }
    }
    all
}

/// The row with these columns only; `a.b` is a field of a field.
fn narrowed(row: Value, columns: Option<&[&str]>) -> Value {
    let Some(columns) = columns else { return row };
    let at = |path: &str| row.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or(Value::Null);
    Value::Object(columns.iter().map(|c| ((*c).to_owned(), at(c))).collect::<Map<_, _>>())
}

fn counts(totals: &Arc<Totals>) -> BTreeMap<String, u64> {
    let n = Totals::get;
    [
        ("rows_in", n(&totals.rows_in)),
        ("late", n(&totals.late)),
        ("dead", n(&totals.dead)),
        ("duplicate", n(&totals.duplicate)),
        ("misplaced", n(&totals.misplaced)),
        ("future", n(&totals.future)),
    ]
    .map(|(name, n)| (name.to_owned(), n))
    .into()
}

/// The rows that stand after all changes, by key. A change that does not fit to what stands is an error.
fn standing(key: &[String], rows: &[Value]) -> BTreeMap<String, Value> {
    let mut standing: BTreeMap<String, Value> = BTreeMap::new();
    for row in rows {
        let mut row = row.clone();
        let op = row.as_object_mut().unwrap().remove("_op").unwrap();
        let at = Value::Array(key.iter().map(|k| row[k].clone()).collect()).to_string();
        match op.as_str().unwrap() {
            "+I" => assert_eq!(standing.insert(at, row), None, "a row is inserted over another"),
            "+U" => assert_eq!(standing.insert(at, row), None, "a row is put over another"),
            _ => assert_eq!(standing.remove(&at), Some(row), "what is taken back is not what stood"),
        }
    }
    standing
}

fn sorted(rows: &[Value]) -> Vec<String> {
    let mut texts: Vec<String> = rows.iter().map(canonical).collect();
    texts.sort_unstable();
    texts
}

/// The value with the fields of objects in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => json!(fields.iter().map(|(k, v)| (k.clone(), canonical(v))).collect::<BTreeMap<_, _>>()).to_string(),
        other => other.to_string(),
    }
}

fn jsonl(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("`{}`: {e}", file.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}
