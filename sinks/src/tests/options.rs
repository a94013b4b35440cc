use super::revenue;
use crate::{ErrorKind, SinkOptions, build};
use std::path::PathBuf;

fn spec(connector: &str, options: &[(&str, &str)]) -> SinkOptions {
    SinkOptions {
        name: "s".to_owned(),
        view: "revenue".to_owned(),
        connector: connector.to_owned(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        base_dir: PathBuf::from("data"),
        schema: Some(revenue([]).batch.schema()),
    }
}

#[test]
fn wrong_options_are_refused_with_what_was_expected() {
    let (url, brokers) = (("url", "redis://localhost:6379/0"), ("brokers", "localhost:9092"));
    /// Connector, options, message.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        ("pulsar", &[], "sink `s`: unknown connector `pulsar`, expected `parquet`, `redis` or `kafka`"),
        ("kafka", &[], "sink `s`: option `brokers` is missing, expected `host:port,host:port`"),
        ("kafka", &[brokers, ("partitions", "0")], "sink `s`: option `partitions` is `0`, expected a whole number from 1 to 1024"),
        ("kafka", &[brokers, ("key", "id")], "sink `s`: option `key` is `id`, expected a pattern with columns in braces, such as `{tenant}|{subscriber_id}`"),
        ("kafka", &[brokers, ("key", "{tenant}")], "sink `s`: view `revenue` has no column `tenant`, which option `key` names"),
        ("parquet", &[("dir", "x")], "sink `s`: unknown option `dir`, connector `parquet` takes `path`, `flush_interval`, `file_rows`"),
        ("parquet", &[("flush_interval", "soon")], "sink `s`: option `flush_interval` is `soon`, expected a duration such as `500ms`, `1s`, `10m` or `24h`"),
        ("parquet", &[("file_rows", "0")], "sink `s`: option `file_rows` is `0`, expected a whole number above 0"),
        ("redis", &[url], "sink `s`: option `key` is missing, expected a pattern with columns in braces, such as `subscriber:{subscriber_id}`"),
        ("redis", &[("url", "http://u:secret@localhost"), ("key", "{id}")], "sink `s`: option `url` is `http://…@localhost`, expected `redis://host:port/db`"),
        ("redis", &[url, ("key", "all")], "sink `s`: option `key` is `all`, expected a pattern with columns in braces, such as `subscriber:{subscriber_id}`"),
        (
            "redis",
            &[url, ("key", "s:{id")],
            "sink `s`: option `key` is `s:{id`, expected a pattern with columns in braces, such as `subscriber:{subscriber_id}`",
        ),
        ("redis", &[url, ("key", "s:{tenant}")], "sink `s`: view `revenue` has no column `tenant`, which option `key` names"),
        ("redis", &[url, ("key", "s:{id}"), ("fields", "share, score")], "sink `s`: view `revenue` has no column `score`, which option `fields` names"),
        ("redis", &[url, ("key", "s:{id}"), ("ttl", "10ms")], "sink `s`: option `ttl` is `10ms`, expected at least `1s`"),
    ];
    for (connector, options, message) in cases {
        let error = build(&spec(connector, options)).err().unwrap();
        assert_eq!((error.to_string().as_str(), error.kind()), (*message, ErrorKind::Reject));
    }
}

#[test]
fn right_options_make_a_sink_without_touching_anything() {
    let sink = build(&spec("parquet", &[("path", "out"), ("flush_interval", "250ms")])).unwrap();
    assert_eq!((sink.name(), sink.limits().flush_interval.as_millis()), ("s", 250));
    assert!(build(&spec("redis", &[("url", "redis://localhost:1/0"), ("key", "s:{id}"), ("fields", "id,share"), ("ttl", "24h")])).is_ok());
    assert!(build(&spec("kafka", &[("brokers", "localhost:1"), ("topic", "t"), ("key", "{id}"), ("partitions", "8")])).is_ok());
    assert!(!std::path::Path::new("data").exists());
}
