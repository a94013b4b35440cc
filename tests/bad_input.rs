//! What a stranger does wrong, and what weather does: each with its message, its exit code, and nothing lost.
//!
//! Everything here runs the program itself, as a user would.

pub mod program;

use program::{Folder, SECRET, SmallDisk, all_once, delivered, eventually, kill, now, post, said, toml, usage};
use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub const JOB: &str = "CREATE SOURCE usage (tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW down AS
SELECT tenant, subscriber_id, event_id, event_time, bytes_down FROM usage;
CREATE SINK files FROM down WITH (connector = 'parquet', path = 'out', flush_interval = '100ms');
";
/// An orderly end takes no longer.
const STOP_MAX: Duration = Duration::from_secs(2);

#[test]
fn an_unknown_column_ends_every_command_with_78_before_anything_is_touched() {
    let folder = Folder::new(&JOB.replace("bytes_down FROM", "bytes_dwn FROM"));
    folder.write("u.jsonl", &usage("e1", "2026-01-01T00:00:00Z", "1"));
    for args in [&["check"][..], &["explain", "job.sql"], &["try", "job.sql", "--input", "usage=u.jsonl", "--output", "down"], &["run"]] {
        let (code, out, err) = folder.run(args);
        assert_eq!((code, out.as_str()), (78, ""), "{args:?}: {err}");
        assert!(err.starts_with("error: `job.sql`:5:53: there is no column `bytes_dwn` in `usage`"), "{args:?}: {err}");
        assert_eq!(err.matches("there is no column").count(), 1, "said once: {err}");
        assert!(err.ends_with("hint: did you mean `bytes_down`?\n"), "{err}");
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_wrong_mapping_ends_with_78_and_its_place() {
    let folder = Folder::new(JOB);
    folder.write("u.csv", "who,bytes\ns1,5\n");
    folder.write("m.sql", "SELECT who AS subscriber_id,\n  bites AS bytes_down FROM input");
    for args in [
        &["try", "job.sql", "--input", "usage=u.csv", "--mapping", "usage=m.sql", "--output", "down"][..],
        &["import", "u.csv", "--event", "usage", "--mapping", "m.sql", "-c", "headend.toml"],
    ] {
        let (code, _, err) = folder.run(args);
        assert_eq!(code, 78, "{err}");
        assert!(err.starts_with("error: `m.sql`:2:3: ") && err.contains("bites"), "{err}");
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_name_that_is_not_there_is_told_and_creates_nothing() {
    let folder = Folder::new(JOB);
    folder.write("u.jsonl", &usage("e1", "2026-01-01T00:00:00Z", "1"));
    folder.write("nojob.toml", &toml("nojob.sql", "data", "127.0.0.1:0", SECRET));
    let cases: [(&[&str], i32, &str); 8] = [
        (&["try", "job.sql", "--input", "usage=u.jsonl", "--output", "dwn"], 2, "error: there is no view `dwn` in `job.sql`; views are `down`"),
        (&["try", "job.sql", "--input", "usge=u.jsonl", "--output", "down"], 2, "error: there is no source `usge` in `job.sql`; sources are `usage`"),
        (&["try", "job.sql", "--input", "usage=no.jsonl", "--output", "down"], 1, "error: cannot read `no.jsonl`: No such file"),
        (&["try", "nojob.sql", "--input", "usage=u.jsonl", "--output", "down"], 78, "error: cannot read job `nojob.sql`: No such file"),
        (&["run", "-c", "nojob.toml"], 78, "error: cannot read job `nojob.sql`: No such file"),
        (&["run", "-c", "no.toml"], 78, "error: cannot read `no.toml`: No such file"),
        (&["import", "no.csv", "--event", "usage", "-c", "headend.toml"], 1, "error: cannot read `no.csv`: No such file"),
        (&["import", "u.jsonl", "--event", "usge", "-c", "headend.toml"], 2, "error: "),
    ];
    for (args, code, message) in cases {
        let (found, _, err) = folder.run(args);
        assert_eq!(found, code, "{args:?}: {err}");
        assert!(err.starts_with(message), "{args:?}: {err}");
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn a_wrong_setting_or_a_short_secret_ends_with_78_and_its_line() {
    let folder = Folder::new(JOB);
    folder.write("short.toml", &toml("job.sql", "data", "127.0.0.1:0", "short"));
    folder.write("unknown.toml", &toml("job.sql", "data", "127.0.0.1:0", SECRET).replace("partitions", "partition"));
    let cases = [
        ("short.toml", "error: short.toml:7: `gateway.secret`: it has 5 bytes, expected at least 16\nhint: make one with: openssl rand -hex 32\n"),
        (
            "unknown.toml",
            "error: unknown.toml:3: unknown key `engine.partition`, did you mean `engine.partitions`?\nhint: all settings: headend check --settings\n",
        ),
    ];
    for (config, message) in cases {
        for command in ["run", "check"] {
            assert_eq!(folder.run(&[command, "-c", config]), (78, String::new(), message.to_owned()));
        }
    }
}

#[test]
fn what_a_program_reads_is_json() {
    let folder = Folder::new(JOB);
    let commands: [&[&str]; 5] = [
        &["token", "--tenant", "acme", "--role", "admin", "--json"],
        &["schema", "usage", "--json"],
        &["schema", "usage", "--sample"],
        &["explain", "job.sql", "--json"],
        &["check", "--json"],
    ];
    for args in commands {
        let (code, out, err) = folder.run(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap().is_object(), "{args:?}: {out}");
    }
}

#[test]
fn a_second_run_on_the_same_folder_and_a_taken_port_end_with_75() {
    let folder = Folder::new(JOB);
    let mut engine = folder.engine();
    let (code, _, err) = folder.run(&["run"]);
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("error: cannot open the log in `data/log`: log `data/log` is in use by another process\nhint: "), "{err}");
    let taken = engine.address.strip_prefix("http://").unwrap();
    folder.write("port.toml", &toml("job.sql", "other", taken, SECRET));
    let (code, _, err) = folder.run(&["run", "-c", "port.toml"]);
    assert_eq!(code, 75, "{err}");
    assert!(
        err.contains(&format!("error: cannot listen on `{taken}`: Address already in use")) && err.contains("hint: another program listens there"),
        "{err}"
    );
    assert_eq!(engine.post(usage("e1", &now(), "1")).unwrap().0, 200, "the first one goes on");
    assert_eq!(engine.stop("TERM").0, Some(0));
}

#[test]
fn try_takes_the_good_lines_of_a_file_and_names_the_others() {
    let folder = Folder::new(JOB);
    let lines = [
        "tenant,subscriber_id,event_time,bytes_down",
        "acme,s1,2026-01-01T00:00:00Z,1",
        "acme,s1,2026-01-01T00:00:01Z,\"2",
        "acme,s1,2026-01-01T00:00:02Z",
        "acme,s1,2026-01-01T00:00:03Z,lots",
        "acme,s1,1970-01-01T00:00:00Z,4",
        "acme,s1,2099-01-01T00:00:00Z,5",
        "acme,s1,2026-01-01T00:00:04Z,6",
    ];
    folder.write("u.csv", &lines.join("\n"));
    let (code, out, err) = folder.run(&["try", "job.sql", "--input", "usage=u.csv", "--output", "down", "--report", "r.json"]);
    assert_eq!(code, 0, "{err}");
    let bytes: Vec<i64> = out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["bytes_down"].as_i64().unwrap()).collect();
    assert_eq!(bytes, [1, 6]);
    for reason in ["a quote is opened and not closed", "has 3 values, the header has 4", "`bytes_down` is", "1970", "2099"] {
        assert!(err.contains(reason), "`{reason}` is not said: {err}");
    }
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.path().join("r.json")).unwrap()).unwrap();
    assert_eq!((report["rejected"].as_u64(), report["dead"].as_u64(), report["rows_out"].as_u64()), (Some(2), Some(3), Some(2)));
}

#[test]
fn an_import_takes_the_neighbours_of_a_broken_line_and_of_one_of_twenty_mebibytes() {
    let folder = Folder::new(JOB);
    let time = "2026-01-01T00:00:00Z";
    let huge = usage("huge", time, "1").replace('}', &format!(",\"region\":\"{}\"}}", "x".repeat(20 << 20)));
    let lines = [usage("e1", time, "1"), usage("text", time, "\"12a\""), huge, "{\"tenant\":".to_owned(), usage("e2", time, "2")];
    folder.write("u.jsonl", &lines.join("\n"));
    let (code, out, err) = folder.run(&["import", "u.jsonl", "--event", "usage", "-c", "headend.toml", "--json"]);
    assert_eq!(code, 0, "{err}");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((summary["accepted"].as_u64(), summary["errors"].as_u64()), (Some(2), Some(3)));
    let errors = std::fs::read_to_string(folder.path().join("u.jsonl.errors.jsonl")).unwrap();
    let errors: Vec<serde_json::Value> = errors.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let reasons = ["field `bytes_down` is `\"12a\"`, expected an integer", "is longer than 1048576 bytes", "is not JSON: "];
    for (error, (line, reason)) in errors.iter().zip([2, 3, 4].into_iter().zip(reasons)) {
        assert_eq!((error["file"].as_str(), error["line"].as_u64()), (Some("u.jsonl"), Some(line)));
        assert!(error["reason"].as_str().unwrap().starts_with(reason), "{}", error["reason"]);
    }
    let mut engine = folder.engine();
    eventually("both neighbours are in the sink", || all_once(["e1", "e2"].map(str::to_owned), &folder.path().join("data/out")));
    assert_eq!(engine.stop("INT").0, Some(0));
    assert_eq!(delivered(&folder.path().join("data/out")).len(), 2);
}

#[test]
fn the_door_refuses_a_bad_event_with_its_field_and_appends_nothing() {
    let folder = Folder::new(JOB);
    let mut engine = folder.engine();
    let good = usage("good", &now(), "1");
    let cases = [
        (format!("{good}\n{}", usage("text", &now(), "\"12a\"")), 400, "field `bytes_down` is `\\\"12a\\\"`, expected an integer\",\"index\":1"),
        (usage("past", "1970-01-01T00:00:00Z", "1"), 400, "field `event_time` is `\\\"1970-01-01T00:00:00Z\\\"`, before 1980"),
        (usage("future", "2099-01-01T00:00:00Z", "1"), 400, "field `event_time` is `\\\"2099-01-01T00:00:00Z\\\"`, more than a day ahead"),
        (good.replace('}', &format!(",\"region\":\"{}\"}}", "x".repeat(20 << 20))), 413, "body has more than 16777216 bytes, the limit of a request"),
        (good.replace('}', &format!(",\"region\":\"{}\"}}", "x".repeat(2 << 20))), 413, "event has "),
        ("{\"tenant\":".to_owned(), 400, "not JSON"),
    ];
    for (body, status, message) in cases {
        let answer = engine.post(&body).unwrap();
        assert_eq!(answer.0, status, "{}", answer.1);
        assert!(answer.1.contains(message), "{}", answer.1);
    }
    assert_eq!(engine.post(usage("last", &now(), "1")).unwrap(), (200, "{\"accepted\":1}".to_owned()));
    eventually("the good event is in the sink", || delivered(&folder.path().join("data/out")).contains_key("last"));
    assert!(engine.metrics().contains("headend_log_appends_total{topic=\"usage.v1\"} 1\n"), "nothing else was appended");
    assert_eq!(engine.stop("INT").0, Some(0));
}

#[tokio::test]
async fn a_bad_event_in_the_log_is_a_dead_letter_and_its_neighbours_are_fine() {
    use ingest::Log;
    let folder = Folder::new(JOB);
    let log = ingest::EmbeddedLog::open(&folder.path().join("data/log"), ingest::EmbeddedConfig::default()).unwrap();
    log.create_topic(&ingest::TopicSpec { name: "usage.v1".to_owned(), partitions: 2, compacted: false }).await.unwrap();
    let bad = [usage("text", &now(), "\"12a\""), usage("past", "1970-01-01T00:00:00Z", "1"), usage("future", "2099-01-01T00:00:00Z", "1")];
    let payloads = [usage("e1", &now(), "1"), bad[0].clone(), bad[1].clone(), bad[2].clone(), usage("e2", &now(), "2")];
    // One key, so one partition: neighbours in the strict sense.
    let records =
        payloads.map(|p| schemas::NewRecord::new("acme|s", p.replacen("\"s1\"", "\"s\"", 1).replacen("\"s2\"", "\"s\"", 1).replacen("\"s0\"", "\"s\"", 1)));
    log.append_keyed("usage.v1", records.to_vec()).await.unwrap();
    log.close().await;
    let mut engine = folder.engine();
    eventually("both neighbours are in the sink", || all_once(["e1", "e2"].map(str::to_owned), &folder.path().join("data/out")));
    eventually("the dead letters are counted", || engine.metrics().contains("headend_rows_total{fate=\"dead\"} 3\n"));
    let said = engine.log();
    assert!(said.contains("cannot take the event at `usage.v1/") && said.contains("`bytes_down` is `\"12a\"`, expected an integer"), "{said}");
    assert_eq!(engine.stop("TERM").0, Some(0));
    assert_eq!(delivered(&folder.path().join("data/out")).len(), 2);
}

#[test]
fn a_full_disk_is_a_503_and_with_room_again_everything_acknowledged_is_there_once() {
    let folder = Folder::new(JOB);
    let Some(disk) = SmallDisk::mount(folder.path().join("disk")) else { return };
    folder.write("disk.toml", &toml("job.sql", "disk/data", "127.0.0.1:0", SECRET));
    let mut engine = folder.engine_of("disk.toml");
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    let ballast = format!(",\"region\":\"{}\"}}", "x".repeat(20_000));
    for n in 0.. {
        assert!(n < 5000, "the disk does not fill");
        let id = format!("e{n}");
        match engine.post(usage(&id, &now(), "1").replace('}', &ballast)).unwrap() {
            (200, _) => acknowledged.push(id),
            (503, body) => {
                assert!(body.contains("disk is full"), "{body}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
        if refused >= 10 {
            break;
        }
    }
    disk.grow();
    eventually("the door takes events again", || engine.post(usage("after", &now(), "1")).unwrap().0 == 200);
    acknowledged.push("after".to_owned());
    let out = disk.path.join("data/out");
    eventually("all that was acknowledged is in the sink", || all_once(acknowledged.iter().filter(|id| *id != "after").cloned(), &out));
    eventually("what came after is in the sink", || delivered(&out).contains_key("after"));
    let (code, took) = engine.stop("INT");
    assert_eq!(code, Some(0), "{}", engine.log());
    println!("{} acknowledged, {refused} refused, stopped in {took:?}", acknowledged.len());
}

#[test]
fn an_interrupted_import_says_where_to_resume_and_every_line_arrives_once() {
    const LINES: u32 = 3000;
    let folder = Folder::new(JOB);
    let time = |n: u32| format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
    let lines: Vec<String> = (0..LINES).map(|n| usage(&format!("e{n}"), &time(n), "1")).collect();
    folder.write("u.jsonl", &lines.join("\n"));
    let mut engine = folder.engine();
    let to = engine.address.clone();
    let arguments = ["import", "u.jsonl", "--event", "usage", "--to", &to];
    // A second of event time a line: at this speed the file takes half a minute.
    let paced = folder.command(&arguments).args(["--speed", "100"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = folder.path().join("data/out");
    eventually("the import is under way", || delivered(&out).len() > 20);
    kill(&paced, "INT");
    let (code, summary, err) = said(&paced.wait_with_output().unwrap());
    assert_eq!(code, 130, "{err}");
    assert!(summary.starts_with("u.jsonl: "), "{summary}");
    let next: u32 = err.trim().rsplit_once("resume with --from-line ").unwrap_or_else(|| panic!("no line to resume from: {err}")).1.parse().unwrap();
    assert!(next > 20 && next < LINES, "{next}");
    let (code, _, err) = said(&folder.command(&arguments).args(["--from-line", &next.to_string()]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    let ids = || (0..LINES).map(|n| format!("e{n}"));
    eventually("every line is in the sink once", || all_once(ids(), &out));
    assert_eq!(engine.stop("INT").0, Some(0));
    let delivered = delivered(&out);
    assert_eq!((delivered.len(), delivered.values().max()), (LINES as usize, Some(&1)));
}

#[test]
fn an_interrupted_run_ends_in_order_and_goes_on_with_nothing_lost_and_nothing_twice() {
    let folder = Folder::new(JOB);
    let out = folder.path().join("data/out");
    let mut acknowledged: Vec<String> = Vec::new();
    for signal in ["INT", "TERM", "INT"] {
        let mut engine = folder.engine();
        let stopped = Arc::new(AtomicBool::new(false));
        let (address, from, ended) = (engine.address.clone(), acknowledged.len(), Arc::clone(&stopped));
        let sender = std::thread::spawn(move || {
            let mut ids = Vec::new();
            while !ended.load(Ordering::Acquire) {
                let id = format!("e{}-{}", from, ids.len());
                match post(&address, usage(&id, &now(), "1").as_bytes()) {
                    Some((200, _)) => ids.push(id),
                    _ => break,
                }
            }
            ids
        });
        eventually("events flow", || delivered(&out).len() > from + 20);
        let (code, took) = engine.stop(signal);
        stopped.store(true, Ordering::Release);
        assert_eq!(code, Some(0), "{}", engine.log());
        assert!(took < STOP_MAX, "{signal} took {took:?}");
        println!("{signal}: {} acknowledged so far, stopped in {took:?}", acknowledged.len());
        acknowledged.extend(sender.join().unwrap());
    }
    let mut engine = folder.engine();
    eventually("everything acknowledged is in the sink once", || all_once(acknowledged.iter().cloned(), &out));
    assert_eq!(engine.stop("TERM").0, Some(0));
    assert_eq!(delivered(&out).values().max(), Some(&1));
}

#[test]
fn a_flipped_bit_in_the_log_ends_run_with_1_and_names_topic_partition_offset_and_file() {
    let folder = Folder::new(JOB);
    let mut engine = folder.engine();
    let ids: Vec<String> = (0..20).map(|n| format!("flipped-{n:02}")).collect();
    assert_eq!(engine.post(ids.iter().map(|id| usage(id, &now(), "1") + "\n").collect::<String>()).unwrap().0, 200);
    eventually("the events are in the sink", || all_once(ids.iter().cloned(), &folder.path().join("data/out")));
    assert_eq!(engine.stop("TERM").0, Some(0));
    // Whoever recovers without a snapshot reads all of the log again.
    std::fs::remove_dir_all(folder.path().join("data/snapshots")).unwrap();
    let file = folder.path().join("data/log/log.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let places: Vec<usize> = bytes.windows(10).enumerate().filter(|(_, w)| w == b"flipped-07").map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + 9] ^= 1);
    std::fs::write(&file, bytes).unwrap();
    let (code, _, err) = folder.run(&["run"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("log is damaged at `usage.v1/") && err.contains("@") && err.contains("log.redb"), "{err}");
}

#[test]
fn a_redis_that_comes_later_is_waited_for_and_gets_everything() {
    if Command::new("redis-server").arg("--version").output().is_err() {
        println!("left out: `redis-server` is not installed");
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sink = "CREATE SINK cache FROM down WITH (connector = 'redis', url = 'redis://127.0.0.1:PORT/', key = 'usage:{event_id}', ttl = '1h');\n";
    let folder = Folder::new(&format!("{JOB}{}", sink.replace("PORT", &port.to_string())));
    let mut engine = folder.engine();
    let ids: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
    assert_eq!(engine.post(ids.iter().map(|id| usage(id, &now(), "1") + "\n").collect::<String>()).unwrap().0, 200);
    eventually("the other sink is not held back", || all_once(ids.iter().cloned(), &folder.path().join("data/out")));
    eventually("it has tried more than once", || {
        let retries = engine.metrics();
        retries.lines().any(|l| l.strip_prefix("headend_sink_retries_total{sink=\"cache\"} ").is_some_and(|n| n.parse::<u64>().unwrap() >= 6))
    });
    let said = engine.log();
    assert_eq!(said.matches("cannot use redis at").count(), 2, "once for each of the two tasks: {said}");
    let mut redis = Command::new("redis-server");
    let redis = redis.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder.path());
    let mut redis = redis.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let has = |id: &String| client.get_connection().and_then(|mut c| redis::cmd("EXISTS").arg(format!("usage:{id}")).query::<bool>(&mut c)).unwrap_or(false);
    eventually("every row is in Redis", || ids.iter().all(has));
    eventually("it is said that the sink works again", || engine.log().contains("sink works again"));
    assert_eq!(engine.stop("INT").0, Some(0));
    redis.kill().unwrap();
    redis.wait().unwrap();
}
