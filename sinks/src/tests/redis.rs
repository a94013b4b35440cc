use super::{MemoryLog, epoch, eventually, output, texts};
use crate::{ErrorKind, RedisSink, RedisSinkConfig, Sink, SinkError, drive};
use arrow_array::{ArrayRef, Float64Array, StringArray, TimestampMicrosecondArray};
use redis::{Commands, Connection};
use schemas::{AcceptedEpoch, ChainPosition, Output, OutputKind};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// A real server without persistence on a port of its own; killed when dropped.
struct Server {
    port: u16,
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl Server {
    /// A port and no server on it yet. `None`, with a sentence, where Redis is not installed.
    fn absent() -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            assert!(std::env::var("HEADEND_REQUIRE_REDIS").as_deref() != Ok("1"), "`HEADEND_REQUIRE_REDIS` is `1`, but `redis-server` is not installed");
            eprintln!("skipped: `redis-server` is not installed");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { port, dir: tempfile::tempdir().unwrap(), process: None })
    }

    async fn started() -> Option<Self> {
        let mut server = Self::absent()?;
        server.start().await;
        Some(server)
    }

    async fn start(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(self.dir.path());
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let client = redis::Client::open(self.url()).unwrap();
        eventually("redis", async || client.get_connection().ok().map(drop)).await;
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn sink(&self) -> RedisSink {
        RedisSink::new(RedisSinkConfig::new("cache", "risk", self.url(), "subscriber:{tenant}:{subscriber_id}")).unwrap()
    }

    fn connection(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    fn hash(&self, subscriber: &str) -> BTreeMap<String, String> {
        self.connection().hgetall(format!("subscriber:acme:{subscriber}")).unwrap()
    }

    /// The score of `subscriber`, while Redis may be away.
    fn score(&self, subscriber: &str) -> Option<String> {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().ok()?;
        connection.hget(format!("subscriber:acme:{subscriber}"), "score").ok()?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Rows of `risk`: operation, subscriber, score, reasons.
fn risk(rows: &[(&str, &str, f64, Option<&str>)]) -> Output {
    let at = TimestampMicrosecondArray::from_value(1_700_000_000_500_000, rows.len()).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("tenant", texts(&vec!["acme"; rows.len()])),
        ("subscriber_id", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1)))),
        ("score", Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.2)))),
        ("reasons", Arc::new(StringArray::from_iter(rows.iter().map(|r| r.3)))),
        ("as_of", Arc::new(at.clone())),
        ("_time", Arc::new(at)),
        ("_op", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)))),
    ];
    output("risk", OutputKind::Changes, columns)
}

/// Epochs 1 to `last`: epoch n gives subscriber `s<n mod 10>` the score n.
fn chain(last: u64) -> Vec<Arc<AcceptedEpoch>> {
    (1..=last).map(|n| epoch(n, vec![risk(&[("+I", &format!("s{}", n % 10), n as f64, None)])])).collect()
}

#[tokio::test]
async fn a_row_is_a_hash_of_its_columns_that_expires() {
    let Some(server) = Server::started().await else { return };
    let mut sink = server.sink();
    sink.write(3, &[epoch(1, vec![risk(&[("+I", "s1", 0.25, Some(r#"[{"feature":"silence"}]"#)), ("+I", "s2", 0.5, None)])])]).await.unwrap();
    let expected =
        [("as_of", "2023-11-14T22:13:20.500Z"), ("reasons", r#"[{"feature":"silence"}]"#), ("score", "0.25"), ("subscriber_id", "s1"), ("tenant", "acme")];
    assert_eq!(server.hash("s1"), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert!(!server.hash("s2").contains_key("reasons"));
    let ttl: i64 = server.connection().ttl("subscriber:acme:s1").unwrap();
    assert!((86_390..=86_400).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn an_update_replaces_every_field_and_a_delete_removes_the_hash() {
    let Some(server) = Server::started().await else { return };
    let mut sink = server.sink();
    sink.write(3, &[epoch(1, vec![risk(&[("+I", "s1", 0.1, Some("[]")), ("+I", "s2", 0.2, None), ("+I", "s3", 0.3, None)])])]).await.unwrap();
    let second = risk(&[("-U", "s1", 0.1, Some("[]")), ("+U", "s1", 0.9, None), ("-D", "s2", 0.2, None), ("-D", "s3", 0.3, None), ("+I", "s3", 0.4, None)]);
    sink.write(3, &[epoch(2, vec![second])]).await.unwrap();
    let s1 = server.hash("s1");
    assert_eq!((s1["score"].as_str(), s1.get("reasons")), ("0.9", None));
    assert!(server.hash("s2").is_empty());
    assert_eq!(server.hash("s3")["score"], "0.4");
}

#[tokio::test]
async fn only_the_chosen_fields_are_written() {
    let Some(server) = Server::started().await else { return };
    let mut config = RedisSinkConfig::new("cache", "risk", server.url(), "r:{subscriber_id}");
    config.fields = Some(vec!["score".to_owned()]);
    RedisSink::new(config).unwrap().write(3, &chain(1)).await.unwrap();
    let hash: BTreeMap<String, String> = server.connection().hgetall("r:s1").unwrap();
    assert_eq!(hash, BTreeMap::from([("score".to_owned(), "1.0".to_owned())]));
}

#[tokio::test]
async fn a_batch_of_many_transactions_arrives_whole_with_its_cursor() {
    let Some(server) = Server::started().await else { return };
    let names: Vec<String> = (0..3000).map(|i| format!("s{i}")).collect();
    let rows: Vec<_> = names.iter().map(|n| ("+I", n.as_str(), 1.5, None)).collect();
    let epochs = [epoch(1, vec![risk(&rows)])];
    let mut sink = server.sink();
    sink.write(3, &epochs).await.unwrap();
    let keys: usize = redis::cmd("DBSIZE").query(&mut server.connection()).unwrap();
    assert_eq!(keys, 3001);
    let expected = ChainPosition { next_offset: 3, epoch: 1, id: epochs[0].record.header.id };
    assert_eq!(server.sink().cursor(3).await.unwrap(), expected);
    assert_eq!(server.sink().cursor(4).await.unwrap(), ChainPosition::default());
}

#[tokio::test]
async fn of_two_sinks_at_once_the_one_behind_reads_its_cursor_again() {
    let Some(server) = Server::started().await else { return };
    let (mut ahead, mut behind) = (server.sink(), server.sink());
    behind.cursor(3).await.unwrap();
    ahead.write(3, &chain(12)).await.unwrap();
    let error = behind.write(3, &chain(2)).await.unwrap_err();
    assert!(matches!(error, SinkError::CursorMoved { found: 12, .. }) && error.kind() == ErrorKind::Retry, "{error}");
    assert_eq!(server.hash("s2")["score"], "12.0");
    behind.write(3, &chain(13)).await.unwrap();
    assert_eq!(server.hash("s3")["score"], "13.0");
}

#[tokio::test]
async fn an_absent_redis_is_named_and_the_sink_starts_when_it_does() {
    let Some(mut server) = Server::absent() else { return };
    let error = server.sink().cursor(3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port)), "{error}");

    let (log, stop) = (MemoryLog::new(chain(25)), CancellationToken::new());
    let running = tokio::spawn(drive(Box::new(server.sink()), 3, log.source(), stop.clone()));
    server.start().await;
    eventually("the newest score", async || (server.score("s5").as_deref() == Some("25.0")).then_some(())).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_redis_that_came_back_empty_is_filled_from_the_start() {
    let Some(mut server) = Server::started().await else { return };
    let (log, stop) = (MemoryLog::new(chain(20)), CancellationToken::new());
    let running = tokio::spawn(drive(Box::new(server.sink()), 3, log.source(), stop.clone()));
    eventually("epoch 20", async || (server.score("s0").as_deref() == Some("20.0")).then_some(())).await;
    server.kill();
    log.append(chain(21)[20].clone());
    server.start().await;
    eventually("epoch 21", async || (server.score("s1").as_deref() == Some("21.0")).then_some(())).await;
    eventually("epoch 20 again", async || (server.score("s0").as_deref() == Some("20.0")).then_some(())).await;

    // Flushed while nothing arrives: noticed by the idle check.
    redis::cmd("FLUSHALL").exec(&mut server.connection()).unwrap();
    eventually("everything again", async || (server.score("s1").as_deref() == Some("21.0") && server.score("s2").as_deref() == Some("12.0")).then_some(()))
        .await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_key_of_another_type_and_a_strange_cursor_stop_the_sink() {
    let Some(server) = Server::started().await else { return };
    let () = server.connection().set("subscriber:acme:s1", "mine").unwrap();
    let error = server.sink().write(3, &chain(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop, "{error}");
    assert_eq!(server.sink().cursor(3).await.unwrap(), ChainPosition::default(), "the cursor waits for the row that was refused");
    let () = server.connection().hset("headend:cursor:cache:3", "epoch", "many").unwrap();
    let error = server.sink().cursor(3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stop);
    assert!(error.to_string().contains("headend:cursor:cache:3"), "{error}");
}

#[tokio::test]
async fn stopping_does_not_wait_for_an_absent_redis() {
    let Some(server) = Server::absent() else { return };
    let (log, stop) = (MemoryLog::new(chain(1)), CancellationToken::new());
    let running = tokio::spawn(drive(Box::new(server.sink()), 3, log.source(), stop.clone()));
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap().unwrap();
}
