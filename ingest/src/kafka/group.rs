//! Membership in the group that shares the partitions of an epoch topic: Kafka's consumer group, static members, cooperative-sticky.
//!
//! Nothing is read through it. Its partitions stand still from the moment they are assigned; what it is for is who owns which
//! of them, and a commit that the coordinator refuses when the member's generation is over.

use super::fault;
use crate::log::{LogError, Ownership};
use async_trait::async_trait;
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

const POLL: Duration = Duration::from_millis(100);
/// How long the coordinator is given to take back what is owned.
const LEAVE_MAX: Duration = Duration::from_secs(2);

struct Context {
    topic: String,
    owned: watch::Sender<Vec<u32>>,
    /// Why Kafka will have no more of this member.
    ended: Arc<OnceLock<String>>,
}

impl Context {
    fn tell(&self, consumer: &BaseConsumer<Self>) {
        let mut owned: Vec<u32> = match consumer.assignment() {
            Ok(list) => list.elements_for_topic(&self.topic).iter().map(|e| e.partition() as u32).collect(),
            Err(_) => Vec::new(),
        };
        owned.sort_unstable();
        tracing::info!(topic = self.topic, ?owned, "tasks of this process");
        self.owned.send_replace(owned);
    }
}

impl Context {
    /// Kafka will have no more of this member: another process has joined under its name, and has the tasks now.
    fn end(&self, reason: &str) {
        let _ = self.ended.set(reason.to_owned());
        self.owned.send_replace(Vec::new());
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::note(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        metrics::counter!("headend_kafka_errors_total", "client" => "member").increment(1);
        tracing::debug!(topic = self.topic, %error, reason, "Kafka member");
    }
}

impl ConsumerContext for Context {
    /// What is to be given back is no longer owned before it is given.
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let revoked: Vec<u32> = list.elements().iter().map(|e| e.partition() as u32).collect();
            self.owned.send_modify(|owned| owned.retain(|p| !revoked.contains(p)));
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance
            && let Err(error) = consumer.pause(list)
        {
            tracing::warn!(topic = self.topic, %error, "cannot pause the membership's partitions");
        }
        self.tell(consumer);
    }
}

pub(super) struct Member {
    topic: String,
    instance: String,
    ended: Arc<OnceLock<String>>,
    consumer: Arc<BaseConsumer<Context>>,
    owned: watch::Receiver<Vec<u32>>,
    stop: Arc<AtomicBool>,
}

impl Member {
    pub fn join(config: &ClientConfig, topic: &str) -> Result<Self, LogError> {
        let (told, owned) = watch::channel(Vec::new());
        let ended = Arc::new(OnceLock::new());
        let context = Context { topic: topic.to_owned(), owned: told, ended: Arc::clone(&ended) };
        let consumer: BaseConsumer<Context> = config.create_with_context(context).map_err(|e| fault("member", e))?;
        consumer.subscribe(&[topic]).map_err(|e| fault("member", e))?;
        let (consumer, stop) = (Arc::new(consumer), Arc::new(AtomicBool::new(false)));
        let (polled, stopped) = (Arc::clone(&consumer), Arc::clone(&stop));
        let run = move || {
            // Rebalances, commits and errors are handled inside the poll. No message comes: everything is paused.
            while !stopped.load(Ordering::Acquire) {
                let _ = polled.poll(POLL);
                if let Some((_, reason)) = polled.client().fatal_error() {
                    return polled.context().end(&reason);
                }
            }
        };
        std::thread::Builder::new().name("kafka-member".into()).spawn(run).map_err(|e| LogError::io("thread", e))?;
        let instance = config.get("group.instance.id").unwrap_or_default().to_owned();
        Ok(Self { topic: topic.to_owned(), instance, ended, consumer, owned, stop })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Ownership for Member {
    fn owned(&self) -> watch::Receiver<Vec<u32>> {
        self.owned.clone()
    }

    fn ended(&self) -> Option<LogError> {
        let reason = self.ended.get()?.clone();
        Some(LogError::MembershipEnded { instance: self.instance.clone(), topic: self.topic.clone(), reason })
    }

    async fn confirm(&self, partition: u32, offset: u64) -> Result<bool, LogError> {
        if !self.owned.borrow().contains(&partition) {
            return Ok(false);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(offset as i64)).map_err(|e| fault("member", e))?;
        let consumer = Arc::clone(&self.consumer);
        let committed = tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync)).await.map_err(|_| LogError::Closed)?;
        match committed.map_err(|e| (e.rdkafka_error_code(), e)) {
            Ok(()) => Ok(true),
            Err((Some(code), _)) if is_over(code) => Ok(false),
            Err((_, e)) => Err(LogError::Unavailable { what: format!("confirm the ownership of `{}/{partition}`", self.topic), reason: e.to_string() }),
        }
    }

    async fn leave(&self) {
        self.consumer.unsubscribe();
        let mut owned = self.owned.clone();
        let _ = tokio::time::timeout(LEAVE_MAX, owned.wait_for(Vec::is_empty)).await;
        self.stop.store(true, Ordering::Release);
    }
}

/// The coordinator's words for: this member's time is over.
fn is_over(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{AssignmentLost, Fatal, FencedInstanceId, IllegalGeneration, RebalanceInProgress, UnknownMemberId};
    matches!(code, IllegalGeneration | UnknownMemberId | FencedInstanceId | RebalanceInProgress | AssignmentLost | Fatal)
}
