//! A job that is changed while it has state: what goes on, what begins, what is refused. Each test runs one version after the other over the
//! same log and snapshots, and once more with every snapshot deleted in between, so that the next version runs the epochs of the older ones again.

use crate::{
    bad_input::{
        JOB,
        program::{Folder, all_once, delivered, eventually, now, usage},
    },
    cases::rows_of,
};
use futures_util::TryStreamExt;
use headend::engine::{Engine, EngineConfig, Totals, chain::ChainFollower, runner::levels};
use ingest::{EmbeddedLog, Log, log::end_source};
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};
use schemas::{ChainPosition, NewRecord, partition::partition_of};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use stream_jobs::{
    change::{Change, Fate},
    task::{epoch_topic, level_group},
};
use tokio_util::sync::CancellationToken;

const SOURCE: &str = "CREATE SOURCE a (tenant TEXT, sub TEXT, t TIMESTAMPTZ, n BIGINT,
  WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH (topic = 'a.v1', key = 'tenant, sub');\n";
const KEPT: &str = "CREATE MATERIALIZED VIEW closed AS SELECT tenant, sub, window_start, SUM(n) AS n FROM TUMBLE(a, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW total AS SELECT tenant, sub, COUNT(*) AS n, SUM(n) AS s FROM a GROUP BY tenant, sub;
CREATE MATERIALIZED VIEW of_tenant AS SELECT tenant, window_start, COUNT(DISTINCT sub) AS subs FROM TUMBLE(a, t, INTERVAL '10 seconds')
GROUP BY tenant, window_start, window_end EMIT ON WINDOW CLOSE;\n";

/// A log and snapshots that outlive the engines over them.
struct World {
    log: Arc<dyn Log>,
    store: Arc<InMemory>,
    partitions: u32,
    forgets: bool,
}

/// A version: its SQL, and the rows that come while it runs, each a subscriber, a time of the day and a number.
type Version<'a> = (String, &'a [(&'a str, &'a str, i64)]);

impl World {
    fn new(partitions: u32, forgets: bool) -> Self {
        Self { log: EmbeddedLog::in_memory().unwrap(), store: Arc::new(InMemory::new()), partitions, forgets }
    }

    fn config(&self, sql: &str) -> EngineConfig {
        let mut config = EngineConfig::new("job", sql);
        let (job, _) = config.plan().unwrap();
        (config.partitions, config.upper_partitions) = (self.partitions, self.partitions);
        config.wanted = job.views.iter().filter(|v| v.visible).map(|v| v.name.clone()).collect();
        (config.rows_max, config.cut_min) = (3, Duration::ZERO);
        config.appended_us = Some(schemas::clock::parse_rfc3339("2026-01-01T12:00:00Z").unwrap());
        config
    }

    async fn append(&self, rows: &[(&str, &str, i64)]) {
        for (sub, time, n) in rows {
            let row = json!({ "tenant": "acme", "sub": sub, "t": format!("2026-01-01T{time}Z"), "n": n, "kind": if n % 2 == 0 { "even" } else { "odd" } });
            let key = format!("acme|{sub}");
            let partition = partition_of(key.as_bytes(), self.partitions);
            self.log.append("a.v1", partition, vec![NewRecord::new(key, row.to_string())]).await.unwrap();
        }
    }

    /// Runs a version until it has taken its rows, and where it is the last until its sources have ended. The epochs of every level.
    async fn run(&self, (sql, rows): &Version<'_>, is_last: bool) {
        let config = self.config(sql);
        let stop = CancellationToken::new();
        let engine = Engine::start(config.clone(), Arc::clone(&self.log), Arc::clone(&self.store) as Arc<dyn ObjectStore>, stop.clone()).await.unwrap();
        let (job, totals) = (Arc::clone(&engine.job), Arc::clone(&engine.totals));
        let running = tokio::spawn(engine.join());
        self.append(rows).await;
        if is_last {
            end_source(self.log.as_ref(), "a.v1", self.partitions).await.unwrap();
            for level in levels(&job) {
                for partition in 0..self.partitions {
                    let mut chain = self.chain(level, partition);
                    let mut ended = false;
                    while !ended {
                        assert!(!running.is_finished(), "the engine stopped: {:?}", running.await);
                        let (epochs, _) = chain.next_epochs(64, Duration::from_millis(50)).await.unwrap();
                        ended = epochs.iter().any(|e| e.record.header.watermark == Some(i64::MAX));
                    }
                }
            }
        } else {
            while Totals::get(&totals.rows_in) < rows.len() as u64 {
                assert!(!running.is_finished(), "the engine stopped: {:?}", running.await);
                tokio::task::yield_now().await;
            }
            for level in levels(&job).into_iter().skip(1) {
                self.follows(level).await;
            }
        }
        stop.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(Totals::get(&totals.dead) + totals.misplaced.load(Ordering::Relaxed), 0);
    }

    /// Waits until the tasks of a level have taken what the level below has told so far.
    async fn follows(&self, level: u8) {
        let below = epoch_topic(&level_group("job", level - 1));
        for from in 0..self.partitions {
            let end = self.log.end(&below, from).await.unwrap();
            for partition in 0..self.partitions {
                let mut chain = self.chain(level, partition);
                let mut taken = 0;
                while taken < end {
                    let (epochs, _) = chain.next_epochs(64, Duration::from_millis(50)).await.unwrap();
                    let of_input = |range: &&schemas::CutRange| range.topic == below && range.partition == from;
                    taken = epochs.iter().flat_map(|e| e.record.header.cut.iter().filter(of_input)).map(|range| range.to).max().unwrap_or(taken).max(taken);
                }
            }
        }
    }

    fn chain(&self, level: u8, partition: u32) -> ChainFollower {
        ChainFollower::new(&self.log, &epoch_topic(&level_group("job", level)), partition, ChainPosition::default()).unwrap()
    }

    async fn forget_snapshots(&self) {
        let all: Vec<_> = self.store.list(Some(&"snapshots".into())).try_collect().await.unwrap();
        assert!(!all.is_empty());
        for object in all {
            self.store.delete(&object.location).await.unwrap();
        }
    }

    /// Everything that a view has told, of any version.
    async fn rows(&self, level: u8, view: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        for partition in 0..self.partitions {
            let mut chain = self.chain(level, partition);
            loop {
                let (epochs, caught_up) = chain.next_epochs(256, Duration::ZERO).await.unwrap();
                rows.extend(epochs.iter().flat_map(|epoch| rows_of(epoch, view)));
                if caught_up && epochs.is_empty() {
                    break;
                }
            }
        }
        rows.sort_by_key(Value::to_string);
        rows
    }
}

/// Runs the versions one after another, with snapshots and without, on one partition and on two; `check` sees what is left.
async fn through<F: AsyncFn(&World)>(versions: &[Version<'_>], check: F) {
    for (partitions, forgets) in [(1, false), (1, true), (2, false), (2, true)] {
        let world = World::new(partitions, forgets);
        for (i, version) in versions.iter().enumerate() {
            if i > 0 && forgets {
                world.forget_snapshots().await;
            }
            world.run(version, i + 1 == versions.len()).await;
        }
        check(&world).await;
    }
}

/// What one version makes of all the rows.
async fn unchanged(sql: &str, versions: &[Version<'_>], level: u8, view: &str) -> Vec<Value> {
    let all: Vec<(&str, &str, i64)> = versions.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    let world = World::new(1, false);
    world.run(&(sql.to_owned(), &all), true).await;
    world.rows(level, view).await
}

const BEFORE: &[(&str, &str, i64)] = &[("s1", "12:00:01", 1), ("s2", "12:00:02", 2), ("s1", "12:00:12", 3), ("s2", "12:00:13", 4), ("s3", "12:00:14", 5)];
const AFTER: &[(&str, &str, i64)] =
    &[("s1", "12:00:16", 6), ("s2", "12:00:19", 7), ("s1", "12:00:21", 8), ("s3", "12:00:22", 9), ("s1", "12:00:33", 10), ("s2", "12:00:34", 11)];

fn last(rows: &[Value], key: &str, value: &str) -> Vec<(String, i64)> {
    rows.iter().map(|row| (row[key].as_str().unwrap().to_owned(), row[value].as_i64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_is_as_it_was_goes_on_with_its_state() {
    let more = "CREATE MATERIALIZED VIEW new_one AS SELECT tenant, sub, n FROM a WHERE n > 6;\n";
    // A column more, a view before the others and one less.
    let source = SOURCE.replace("n BIGINT,", "n BIGINT, kind TEXT,");
    let versions = [(format!("{SOURCE}{KEPT}"), BEFORE), (format!("{source}{more}{KEPT}"), AFTER)];
    let all: Vec<(u8, &str)> = vec![(1, "closed"), (2, "of_tenant")];
    let mut expected = Vec::new();
    for (level, view) in &all {
        expected.push(unchanged(&versions[0].0, &versions, *level, view).await);
    }
    through(&versions, async |world| {
        for ((level, view), expected) in all.iter().zip(&expected) {
            assert_eq!(world.rows(*level, view).await, *expected, "`{view}` with {} partitions, {}", world.partitions, world.forgets);
        }
        let total = world.rows(1, "total").await;
        let greatest = |sub: &str| total.iter().filter(|r| r["sub"] == *sub).map(|r| (r["n"].as_i64(), r["s"].as_i64())).max();
        assert_eq!([greatest("s1"), greatest("s2"), greatest("s3")], [(5, 28), (4, 24), (2, 14)].map(|(n, s)| Some((Some(n), Some(s)))));
        assert_eq!(
            last(&world.rows(1, "new_one").await, "sub", "n"),
            [("s1", 10), ("s1", 8), ("s2", 11), ("s2", 7), ("s3", 9)].map(|(s, n)| (s.to_owned(), n))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_windowed_view_begins_with_the_first_window_that_is_whole() {
    let new = "CREATE MATERIALIZED VIEW fresh AS SELECT tenant, sub, window_start, SUM(n) AS n FROM TUMBLE(a, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW sliding AS SELECT tenant, window_start, COUNT(*) AS n FROM HOP(a, t, INTERVAL '5 seconds', INTERVAL '10 seconds')
GROUP BY tenant, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW changing AS SELECT tenant, sub, window_start, COUNT(*) AS n FROM TUMBLE(a, t, INTERVAL '10 seconds')
GROUP BY tenant, sub, window_start, window_end;
CREATE MATERIALIZED VIEW visits AS SELECT tenant, sub, window_start, COUNT(*) AS n FROM SESSION(a, t, INTERVAL '6 seconds')
GROUP BY tenant, sub, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW best AS SELECT tenant, sub, window_start, n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, window_start ORDER BY n DESC) AS place
FROM fresh) WHERE place <= 1;\n";
    let versions = [(format!("{SOURCE}{KEPT}"), BEFORE), (format!("{SOURCE}{KEPT}{new}"), AFTER)];
    through(&versions, async |world| {
        let about = format!("{} partitions, {}", world.partitions, world.forgets);
        let starts = async |level: u8, view: &str| -> Vec<(String, i64)> {
            let rows = world.rows(level, view).await;
            let mut told: Vec<(String, i64)> = rows
                .iter()
                .filter(|r| r["_op"] != "-U" && r["_op"] != "-D")
                .map(|r| (r["window_start"].as_str().unwrap()[14..19].to_owned(), r["n"].as_i64().unwrap()))
                .collect();
            told.sort();
            told
        };
        let rows = |rows: &[(&str, i64)]| -> Vec<(String, i64)> { rows.iter().map(|(start, n)| ((*start).to_owned(), *n)).collect() };
        // 12:00:14 is the newest row before: the window from 12:00:10 has it, that from 12:00:20 not. A task knows of its own rows only.
        let fresh = starts(1, "fresh").await;
        assert_eq!(fresh, rows(&[("00:20", 8), ("00:20", 9), ("00:30", 10), ("00:30", 11)]), "{about}");
        assert_eq!(starts(2, "sliding").await, rows(&[("00:15", 4), ("00:20", 2), ("00:25", 2), ("00:30", 2)]), "{about}");
        assert_eq!(starts(1, "changing").await, rows(&[("00:20", 1), ("00:20", 1), ("00:30", 1), ("00:30", 1)]), "{about}");
        // The visit of s1 that began at 12:00:12 goes on until 12:00:21; that of s3 at 12:00:22 and those after 12:00:30 are new.
        assert_eq!(starts(1, "visits").await, rows(&[("00:22", 1), ("00:33", 1), ("00:34", 1)]), "{about}");
        let best: BTreeSet<String> = starts(2, "best").await.into_iter().map(|(start, _)| start).collect();
        assert_eq!(best.into_iter().collect::<Vec<_>>(), ["00:20", "00:30"], "{about}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_aggregate_of_a_windowed_view_begins_with_the_next_window_and_the_others_go_on() {
    let before = format!(
        "{SOURCE}CREATE MATERIALIZED VIEW w AS SELECT tenant, sub, window_start, SUM(n) AS n, COUNT(DISTINCT n) AS d
FROM HOP(a, t, INTERVAL '10 seconds', INTERVAL '20 seconds') GROUP BY tenant, sub, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW above AS SELECT tenant, sub, window_start, n FROM w WHERE n > 0;
CREATE MATERIALIZED VIEW c AS SELECT tenant, sub, window_start, MAX(n) AS n FROM TUMBLE(a, t, INTERVAL '10 seconds') GROUP BY tenant, sub, window_start, window_end;"
    );
    let after = before.replace("SUM(n) AS n,", "SUM(n) AS n, MAX(n) AS m,").replace("MAX(n) AS n FROM TUMBLE", "COUNT(*) AS rows, MAX(n) AS n FROM TUMBLE");
    let again = after.replace("MAX(n) AS m,", "MAX(n) AS m, COUNT(*) AS rows,");
    let versions = [(before.clone(), BEFORE), (after, AFTER), (again, &[("s1", "12:00:44", 12), ("s1", "12:01:20", 1)])];
    let expected = unchanged(&before, &versions, 1, "above").await;
    through(&versions, async |world| {
        let about = format!("{} partitions, {}", world.partitions, world.forgets);
        assert_eq!(world.rows(1, "above").await, expected, "{about}");
        let rows = world.rows(1, "w").await;
        let of = |sub: &str, start: &str| {
            rows.iter().find(|r| r["sub"] == *sub && r["window_start"] == format!("2026-01-01T12:{start}Z")).unwrap_or_else(|| panic!("{rows:#?}"))
        };
        // 12:00:14 is the newest row before the first change, 12:00:34 that before the second.
        for (sub, start, n, d, m, count) in [
            ("s1", "00:00", 10, 3, None, None),
            ("s1", "00:10", 17, 3, None, None),
            ("s1", "00:20", 18, 2, Some(10), None),
            ("s2", "00:30", 11, 1, Some(11), None),
            ("s1", "00:40", 12, 1, Some(12), Some(1)),
        ] {
            let row = of(sub, start);
            let number = |column: &str| row.get(column).and_then(Value::as_i64);
            assert_eq!((number("n"), number("d"), number("m"), number("rows")), (Some(n), Some(d), m, count), "{about} {sub} {start}: {row}");
        }
        let changes = world.rows(1, "c").await;
        let counted: BTreeSet<String> = changes.iter().filter(|r| r["rows"].is_i64()).map(|r| r["window_start"].as_str().unwrap()[14..19].to_owned()).collect();
        assert_eq!(counted.into_iter().collect::<Vec<_>>(), ["00:20", "00:30", "00:40", "01:20"], "{about}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_no_view_had_read_is_read_from_its_beginning_by_the_first_that_does() {
    let other = SOURCE.replace("SOURCE a", "SOURCE b");
    let first = "CREATE MATERIALIZED VIEW first AS SELECT tenant, sub, COUNT(*) AS n FROM b GROUP BY tenant, sub;\n";
    let versions = [(format!("{SOURCE}{other}{KEPT}"), BEFORE), (format!("{SOURCE}{other}{KEPT}{first}"), AFTER)];
    let expected = unchanged(&versions[0].0, &versions, 1, "closed").await;
    through(&versions, async |world| {
        assert_eq!(world.rows(1, "closed").await, expected);
        let first = world.rows(1, "first").await;
        let most = |sub: &str| first.iter().filter(|r| r["sub"] == *sub).filter_map(|r| r["n"].as_i64()).max();
        assert_eq!([most("s1"), most("s2"), most("s3")], [Some(5), Some(4), Some(2)], "of all rows, those of before too: {first:#?}");
    })
    .await;
}

/// Text of the error with which a version is refused after another.
async fn refused(before: &str, after: &str) -> String {
    let world = World::new(1, false);
    world.run(&(before.to_owned(), BEFORE), false).await;
    let files = || async { world.store.list(Some(&"jobs".into())).try_collect::<Vec<_>>().await.unwrap().len() };
    let stored = files().await;
    let started = Engine::start(world.config(after), Arc::clone(&world.log), Arc::clone(&world.store) as Arc<dyn ObjectStore>, CancellationToken::new()).await;
    let Err(error) = started else { panic!("it is not refused") };
    assert_eq!((stored, files().await), (1, 1), "nothing was written");
    // The job as it was goes on.
    world.run(&(before.to_owned(), AFTER), true).await;
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_no_state_fits_to_is_refused_with_each_view_and_touches_nothing() {
    let before = format!("{SOURCE}{KEPT}");
    let more = |view: &str| format!("{before}CREATE MATERIALIZED VIEW more AS {view};");
    let cases = [
        (before.replace("COUNT(*) AS n, SUM(n) AS s", "COUNT(*) AS n, MAX(n) AS s"), "view `total` is not what it was"),
        (before.replace("INTERVAL '10 seconds')\nGROUP BY tenant, sub", "INTERVAL '20 seconds')\nGROUP BY tenant, sub"), "view `closed` is not what it was"),
        (before.replace("topic = 'a.v1'", "topic = 'b.v1'"), "view `closed` reads something that was changed"),
        (more("SELECT tenant, COUNT(*) AS n FROM a GROUP BY tenant"), "view `more` is an aggregate of all rows that ever came"),
        (more("SELECT t.tenant, t.sub, t.n FROM total t JOIN total u ON t.tenant = u.tenant AND t.sub = u.sub"), "view `more` keeps rows"),
        (more("SELECT tenant, sub, t, prev(n) AS n FROM a"), "view `more` looks at the rows before a row"),
    ];
    for (after, why) in cases {
        let said = refused(&before, &after).await;
        assert!(said.starts_with("job `job` was changed, and cannot go on with the state that it has:\n  view `") && said.contains(why), "{said}");
        assert_eq!(said.matches("view `").count(), if why.contains("reads something") { 3 } else { 1 }, "{said}");
    }
}

const ALERT: &str = "CREATE ALERT high ON total RAISE WHEN s > 3 CLEAR WHEN s < 0 WITH (severity = 'warning');\n";
const OTHER: &str = "CREATE ALERT other ON total RAISE WHEN s > 3 CLEAR WHEN s < 0 WITH (severity = 'warning', inhibited_by = 'high');\n";

/// Rule, action and subscriber of every alert that was told.
async fn alerts(world: &World) -> Vec<(String, String, String)> {
    let mut rows = world.rows(1, "alerts").await;
    rows.extend(world.rows(2, "alerts").await);
    let text = |row: &Value, at: &str| row.pointer(at).unwrap().as_str().unwrap().to_owned();
    let mut told: Vec<_> = rows.iter().map(|r| (text(r, "/rule"), text(r, "/action"), text(r, "/entity/id"))).collect();
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_of_a_rule_that_is_gone_or_another_one_expires() {
    let base = format!("{SOURCE}{KEPT}");
    let changed = ALERT.replace("s > 3", "s > 1000");
    let rules = |told: Vec<(String, String, String)>, rule: &str, action: &str| -> Vec<String> {
        told.into_iter().filter(|(r, a, _)| r == rule && a == action).map(|(.., sub)| sub).collect()
    };
    let with = |rules: &str| format!("{base}{rules}");
    for after in [base.clone(), with(&changed)] {
        through(&[(with(ALERT), BEFORE), (after, AFTER)], async |world| {
            let told = alerts(world).await;
            assert_eq!(rules(told.clone(), "high", "raise"), ["acme|s1", "acme|s2", "acme|s3"].map(|s| s.rsplit('|').next().unwrap()), "{told:?}");
            assert_eq!(rules(told.clone(), "high", "expire"), ["s1", "s2", "s3"], "{told:?}");
        })
        .await;
    }
    // A rule with an alert task of its own, and back again: it raises anew.
    let both = with(&format!("{ALERT}{OTHER}"));
    through(&[(both.clone(), BEFORE), (with(ALERT), &[("s1", "12:00:15", 1)]), (both, AFTER)], async |world| {
        let told = alerts(world).await;
        assert_eq!(rules(told.clone(), "other", "expire").len(), 3, "{told:?}");
        assert!(rules(told.clone(), "high", "expire").is_empty(), "{told:?}");
        assert_eq!(rules(told.clone(), "high", "raise").len(), 3, "{told:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_not_read_before_is_read_from_its_beginning() {
    let table = "CREATE TABLE plans (tenant TEXT, sub TEXT, plan TEXT) WITH (topic = 'plans.v1', key = 'tenant, sub');
CREATE MATERIALIZED VIEW planned AS SELECT tenant, sub, plan FROM plans;
CREATE MATERIALIZED VIEW by_plan AS SELECT plan, COUNT(*) AS n FROM plans GROUP BY plan;\n";
    for forgets in [false, true] {
        let world = World::new(2, forgets);
        world.run(&(format!("{SOURCE}{KEPT}"), BEFORE), false).await;
        world.log.create_topic(&ingest::TopicSpec { name: "plans.v1".to_owned(), partitions: 2, compacted: true }).await.unwrap();
        for (sub, plan) in [("s1", "fibre"), ("s2", "fibre"), ("s3", "cable")] {
            let key = format!("acme|{sub}");
            let row = json!({ "tenant": "acme", "sub": sub, "plan": plan }).to_string();
            world.log.append("plans.v1", partition_of(key.as_bytes(), 2), vec![NewRecord::new(key, row)]).await.unwrap();
        }
        if forgets {
            world.forget_snapshots().await;
        }
        end_source(world.log.as_ref(), "plans.v1", 2).await.unwrap();
        world.run(&(format!("{table}{SOURCE}{KEPT}"), AFTER), true).await;
        assert_eq!(world.rows(1, "planned").await.len(), 3);
        let rows = world.rows(2, "by_plan").await;
        assert!(rows.contains(&json!({ "plan": "fibre", "n": 2, "_op": "+I" })) || rows.contains(&json!({ "plan": "fibre", "n": 2, "_op": "+U" })), "{rows:?}");
        let expected = unchanged(&format!("{SOURCE}{KEPT}"), &[(String::new(), BEFORE), (String::new(), AFTER)], 1, "closed").await;
        assert_eq!(world.rows(1, "closed").await, expected);
    }
}

#[test]
fn the_same_text_planned_twice_is_the_same_job() {
    for folder in std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).unwrap() {
        let Ok(sql) = std::fs::read_to_string(folder.unwrap().path().join("job.sql")) else { continue };
        let config = EngineConfig::new("case", sql.as_str());
        let Ok((job, now_us)) = config.plan() else { continue };
        // The clock of a plan is no part of it.
        now_us.store(0, Ordering::Relaxed);
        let (again, _) = config.plan().unwrap();
        let change = Change::between(&job, &again).unwrap_or_else(|refused| panic!("{refused:?}\n{sql}"));
        assert!(change.told().is_empty() && job.views.iter().all(|v| change.fate(&v.name) == Some(Fate::GoesOn)), "{sql}");
    }
}

#[test]
fn a_case_of_many_branches_is_the_same_each_time_that_it_is_planned() {
    let branches: String = (0..20).map(|i| format!(" WHEN '{i}' THEN '{{map: {{{i}'")).collect();
    let numbers: String = (0..20).map(|i| format!(" WHEN {i} THEN {}", i * 7)).collect();
    let plan = |branches: &str, numbers: &str| {
        let sql = format!(
            "CREATE SOURCE s (k TEXT, n BIGINT, t TIMESTAMPTZ, WATERMARK FOR t AS t) WITH (topic = 's.v1', format = 'json', key = 'k');
             CREATE MATERIALIZED VIEW w AS SELECT k, CASE k{branches} ELSE '' END AS name, sum(CASE n{numbers} END) AS n, window_end FROM TUMBLE(s, t, INTERVAL '1 minute') GROUP BY k, window_end EMIT ON WINDOW CLOSE;"
        );
        EngineConfig::new("case", &sql).plan().unwrap().0
    };
    let job = plan(&branches, &numbers);
    for _ in 0..20 {
        assert_eq!(Change::between(&job, &plan(&branches, &numbers)).unwrap().fate("w"), Some(Fate::GoesOn));
    }
    // What stands in the branches still counts.
    for (branches, numbers) in [(branches.replace("map: {7'", "map: {8'"), numbers.clone()), (branches, numbers.replace("WHEN 19 ", "WHEN 21 "))] {
        let change = Change::between(&job, &plan(&branches, &numbers));
        assert!(change.is_err() || change.is_ok_and(|change| change.fate("w") != Some(Fate::GoesOn)));
    }
}

/// How often each event stands in the files of a sink.
fn totals_of(folder: &Folder, path: &str) -> BTreeMap<String, usize> {
    delivered(&folder.path().join("data").join(path))
}

#[test]
fn a_job_that_cannot_go_on_is_built_anew_beside_the_one_that_serves() {
    let all = |n: usize| (0..n).map(|i| format!("e{i}"));
    let folder = Folder::new(JOB);
    let mut engine = folder.engine();
    for id in all(3) {
        assert_eq!(engine.post(usage(&id, &now(), "1")).unwrap().0, 200);
    }
    eventually("the rows are in the sink", || all_once(all(3), &folder.path().join("data/out")));
    assert_eq!(engine.stop("TERM").0, Some(0));

    // `prev` looks at the rows before: no state fits to that.
    folder.write("job.sql", &JOB.replace("bytes_down FROM", "prev(bytes_down) AS before_it FROM"));
    for command in [&["check"][..], &["run"]] {
        let (code, _, err) = folder.run(command);
        assert_eq!(code, 78, "{err}");
        assert!(err.starts_with("error: job `job` was changed, and cannot go on with the state that it has:\n  view `down` is not what it was"), "{err}");
        assert!(err.contains("\nhint: nothing was touched; `headend run --from-beginning` builds the job anew"), "{err}");
    }

    let mut engine = folder.engine_with("headend.toml", &["--from-beginning"]);
    eventually("the new build has the rows of before", || totals_of(&folder, "out/build=2").len() == 3);
    eventually("it takes rows", || engine.post(usage("e3", &now(), "1")).is_some_and(|(status, _)| status == 200));
    eventually("the new row is in its sink", || totals_of(&folder, "out/build=2").contains_key("e3"));
    assert_eq!(engine.stop("TERM").0, Some(0));
    assert!(all_once(all(3), &folder.path().join("data/out/down")), "what the build before delivered is as it was");

    // From here on it is the one that serves.
    let mut engine = folder.engine();
    assert_eq!(engine.post(usage("e4", &now(), "1")).unwrap().0, 200);
    eventually("the row is in the sink of the new build", || all_once(all(5), &folder.path().join("data/out/build=2")));
    assert_eq!(engine.stop("TERM").0, Some(0));
}
