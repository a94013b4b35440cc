//! What librdkafka is told: its defaults where they are right, and here where they are not.

use crate::log::RECORD_BYTES_MAX;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use std::time::Duration;

/// No longer than the embedded log waits for others to share a sync.
const EVENTS_LINGER_MS: &str = "5";
/// Above a record's own bytes: what the batch around it takes.
pub(super) const OVERHEAD_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// The name under which this process is a member of groups: another for each process, the same when it starts again.
    pub instance: String,
    /// Copies of each partition; `None`: three where there are three brokers, else one.
    pub replication: Option<u16>,
    /// librdkafka's own settings (security, addresses), over everything else.
    pub properties: Vec<(String, String)>,
    /// How long a broker that does not answer is waited for.
    pub timeout: Duration,
}

impl KafkaConfig {
    pub fn new(brokers: impl Into<String>, instance: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), instance: instance.into(), replication: None, properties: Vec::new(), timeout: Duration::from_secs(10) }
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("headend-{}", self.instance))
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            // A broker that has just come back may name fewer partitions than there are; that is believed until the next look.
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }

    /// For events: librdkafka sends a request for each partition, and brokers are kept busy by their number. What comes within a few
    /// milliseconds goes together.
    pub(super) fn events_producer(&self) -> ClientConfig {
        let mut config = self.producer();
        config.set("linger.ms", EVENTS_LINGER_MS).set("client.id", format!("headend-{}-events", self.instance));
        self.with_properties(config)
    }

    /// In order and without repeats, durable on all replicas in sync.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.base();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "4")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .set("batch.size", "1000000")
            .set("message.max.bytes", (RECORD_BYTES_MAX + OVERHEAD_BYTES).to_string())
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("delivery.timeout.ms", "30000")
            .set("statistics.interval.ms", "5000");
        self.with_properties(config)
    }

    /// One partition at a position of our own; the group is a name that is never committed to.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.base();
        config
            // Taking batches would print what it has to say on standard error. Errors come with the batches.
            .set_log_level(RDKafkaLogLevel::Emerg)
            .set("group.id", format!("headend-reader-{}", self.instance))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.min.bytes", "1")
            .set("fetch.error.backoff.ms", "100")
            // At its default of a second a queue that was full stops fetching for a second.
            .set("fetch.queue.backoff.ms", "5")
            // What waits between librdkafka and the decoder: more of it is no faster, and pushes everything else out of the caches. A larger record
            // comes all the same.
            .set("fetch.message.max.bytes", "524288")
            .set("queued.max.messages.kbytes", "2048");
        self.with_properties(config)
    }

    /// A static member of the group that shares `topic`'s partitions.
    pub(super) fn member(&self, topic: &str) -> ClientConfig {
        let mut config = self.base();
        config
            .set("group.id", format!("headend-{topic}"))
            .set("group.instance.id", &self.instance)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "500")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Nothing is read through the membership.
            .set("auto.offset.reset", "latest")
            .set("queued.min.messages", "1")
            .set("queued.max.messages.kbytes", "1024");
        self.with_properties(config)
    }
}

/// `name=value` lines, as Kafka's own tools take them; `#` begins a comment. The error is the number of the wrong line.
pub fn parse_properties(text: &str) -> Result<Vec<(String, String)>, usize> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(n, line)| {
            let (name, value) = line.split_once('=').ok_or(n)?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}
