//! The program itself: what it prints, and the code with which it ends.

use std::{
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const JOB: &str = "CREATE SOURCE payment (tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, amount_minor BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
WITH (topic = 'payment.v1', format = 'json', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW revenue AS
SELECT tenant, subscriber_id, window_end, SUM(amount_minor) AS amount_minor
FROM TUMBLE(payment, event_time, INTERVAL '1 day') GROUP BY tenant, subscriber_id, window_start, window_end EMIT ON WINDOW CLOSE;
";

fn headend(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_headend")).current_dir(dir).args(args).env_remove("HEADEND_LOG").output().unwrap()
}

fn said(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A folder with a job and a configuration.
fn folder(job: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.sql"), job).unwrap();
    std::fs::write(dir.path().join("headend.toml"), format!("[engine]\njob = \"job.sql\"\npartitions = 2\n[gateway]\nsecret = \"{SECRET}\"\n")).unwrap();
    dir
}

#[test]
fn a_right_configuration_is_checked_and_its_topics_are_created_once() {
    let dir = folder(JOB);
    let (code, out, err) = said(&headend(dir.path(), &["check"]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "`headend.toml` is right: job `job` with 1 sources, 1 views, 0 sinks, 0 alerts\n", ""));
    for created in [true, false] {
        let (code, out, err) = said(&headend(dir.path(), &["topics", "apply", "--json"]));
        assert_eq!(code, 0, "{err}");
        let topics: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        let payment = topics.iter().find(|t| t["topic"] == "payment.v1").unwrap();
        assert_eq!((payment["partitions"].as_u64(), payment["created"].as_bool()), (Some(2), Some(created)));
    }
}

#[test]
fn an_unknown_column_ends_with_78_and_its_line_and_column() {
    let dir = folder(&JOB.replace("SUM(amount_minor)", "SUM(amount_minro)"));
    for args in [&["check"][..], &["explain", "job.sql"]] {
        let (code, _, err) = said(&headend(dir.path(), args));
        assert_eq!(code, 78, "{err}");
        assert!(err.starts_with("error: `job.sql`:5:") && err.contains("amount_minro"), "{err}");
    }
}

#[test]
fn a_wrong_key_ends_with_78_and_its_line() {
    let dir = folder(JOB);
    std::fs::write(dir.path().join("headend.toml"), "[engine]\njob = \"job.sql\"\npartition = 2\n").unwrap();
    let (code, _, err) = said(&headend(dir.path(), &["check"]));
    let expected = "error: headend.toml:3: unknown key `engine.partition`, did you mean `engine.partitions`?\nhint: all settings: headend check --settings\n";
    assert_eq!((code, err.as_str()), (78, expected));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let dir = folder(JOB);
    for args in [&["import", "f.csv", "--event", "payment"][..], &["schema", "paymnt"], &["token", "--tenant", "acme", "--role", "king"]] {
        assert_eq!(said(&headend(dir.path(), args)).0, 2, "{args:?}");
    }
}

#[test]
fn a_folder_in_use_ends_with_75() {
    let dir = folder(JOB);
    let log = ingest::EmbeddedLog::open(&dir.path().join("data/log"), ingest::EmbeddedConfig::default()).unwrap();
    let (code, _, err) = said(&headend(dir.path(), &["topics", "apply"]));
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("is in use by another process\nhint: "), "{err}");
    drop(log);
}

#[test]
fn a_token_carries_tenant_role_and_expiry() {
    let dir = folder(JOB);
    let (code, out, err) = said(&headend(dir.path(), &["token", "--tenant", "acme", "--role", "subscriber", "--subscriber", "s-17", "--ttl", "15m", "--json"]));
    assert_eq!(code, 0, "{err}");
    let printed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(printed["token"].as_str().unwrap().split('.').count(), 3);
    assert_eq!((printed["tenant"].as_str(), printed["subscriber"].as_str()), (Some("acme"), Some("s-17")));
}

#[test]
fn an_import_reports_every_line_and_resumes_behind_the_last() {
    let dir = folder(JOB);
    let lines = [
        "tenant,subscriber_id,event_time,outcome,amount_minor",
        "acme,s1,2026-01-01T00:00:00Z,ok,100",
        "acme,s1,2026-01-01T00:00:01Z,ok,lots",
        "acme,s1,1970-01-01T00:00:00Z,ok,1",
        "acme,s1,2099-01-01T00:00:00Z,ok,1",
        "acme,s1,2026-01-01T00:00:02Z",
        "acme,s2,2026-01-01T00:00:03Z,ok,200",
    ];
    std::fs::write(dir.path().join("p.csv"), lines.join("\n")).unwrap();
    let (code, out, err) = said(&headend(dir.path(), &["import", "p.csv", "--event", "payment", "-c", "headend.toml", "--json"]));
    assert_eq!(code, 0, "{err}");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (summary["lines"].as_u64(), summary["accepted"].as_u64(), summary["errors"].as_u64(), summary["last_line"].as_u64()),
        (Some(6), Some(2), Some(4), Some(7))
    );
    let errors = std::fs::read_to_string(dir.path().join("p.csv.errors.jsonl")).unwrap();
    let reasons: Vec<(u64, String)> = errors
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .map(|e| (e["line"].as_u64().unwrap(), e["reason"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        (3, "field `amount_minor` is `\"lots\"`, expected an integer"),
        (4, "field `event_time` is `1970-01-01T00:00:00Z`, before 1980-01-01"),
        (5, "field `event_time` is `2099-01-01T00:00:00Z`, more than a day ahead"),
        (6, "has 3 values, the header has 5"),
    ];
    assert_eq!(reasons, expected.map(|(line, reason)| (line, reason.to_owned())));
    let (_, out, _) = said(&headend(dir.path(), &["import", "p.csv", "--event", "payment", "-c", "headend.toml", "--from-line", "7", "--json"]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["accepted"].as_u64(), Some(1));
}
