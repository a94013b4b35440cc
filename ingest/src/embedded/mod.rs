//! The embedded log: a directory that one process owns, on redb.
//!
//! Accepted means synced: an append returns after the commit that holds it reached the disk. Appends that wait at the same
//! time share a commit. A directory that another process uses is refused. Damage is named and nothing wrong is read.
//! It does not forget by age, and it keeps every record of a compacted topic.
//!
//! ```no_run
//! # async fn example() -> Result<(), ingest::LogError> {
//! use ingest::{EmbeddedConfig, EmbeddedLog, Log, TopicSpec};
//! let log = EmbeddedLog::open("data/log".as_ref(), EmbeddedConfig::default())?;
//! log.create_topic(&TopicSpec { name: "usage.v1".into(), partitions: 4, compacted: false }).await?;
//! log.append_keyed("usage.v1", vec![schemas::NewRecord::new("t|s1", "{}")]).await?;
//! log.close().await;
//! # Ok(()) }
//! ```

mod block;
mod committer;
mod reader;
mod store;

use crate::log::{Appended, Log, LogError, LogReader, Misfit, Ownership, TopicSpec, by_partition, check_sizes};
use async_trait::async_trait;
use committer::{Append, Command, Committer};
use schemas::NewRecord;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use store::{Store, TopicRow};
use tokio::sync::{mpsc, oneshot, watch};

/// Appends that wait for the committer; one more waits at the door of the queue.
const APPENDS_WAITING_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// How long a commit may collect appends that keep arriving. An idle log commits at once.
    pub group_commit_max: Duration,
    /// False: what was accepted survives the end of the process, not of the machine. For throw-away runs.
    pub sync: bool,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self { group_commit_max: Duration::from_millis(5), sync: true }
    }
}

pub struct EmbeddedLog {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

struct Shared {
    store: Store,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    closed: AtomicBool,
}

struct Topic {
    id: u32,
    spec: TopicSpec,
    partitions: Vec<Partition>,
}

/// The published state of a partition. The committer alone writes it, after the commit.
struct Partition {
    start: AtomicU64,
    end: watch::Sender<u64>,
    last_append_us: AtomicI64,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, which is created when it does not exist.
    pub fn open(dir: &Path, config: EmbeddedConfig) -> Result<Arc<Self>, LogError> {
        Self::with_store(Store::open(dir, config.sync)?, config.group_commit_max)
    }

    /// A log that ends with the process.
    pub fn in_memory() -> Result<Arc<Self>, LogError> {
        Self::with_store(Store::in_memory()?, Duration::from_millis(1))
    }

    fn with_store(store: Store, group_commit_max: Duration) -> Result<Arc<Self>, LogError> {
        let topics = store.load()?.into_iter().map(|row| (row.spec.name.clone(), Arc::new(Topic::new(row)))).collect();
        let shared = Arc::new(Shared { store, topics: RwLock::new(topics), closed: AtomicBool::new(false) });
        let (commands, received) = mpsc::channel(APPENDS_WAITING_MAX);
        let committer = Committer::new(shared.clone(), received, group_commit_max);
        let spawned = std::thread::Builder::new().name("log-commit".into()).spawn(move || committer.run());
        spawned.map_err(|e| LogError::io(shared.store.file(), e))?;
        Ok(Arc::new(Self { shared, commands }))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Command) -> Result<T, LogError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| LogError::Closed)?;
        answer.await.map_err(|_| LogError::Closed)?
    }
}

impl Shared {
    fn topic(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(name).cloned().ok_or_else(|| LogError::UnknownTopic { topic: name.to_owned() })
    }

    fn add_topic(&self, row: TopicRow) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(row.spec.name.clone(), Arc::new(Topic::new(row)));
    }
}

impl Topic {
    fn new(row: TopicRow) -> Self {
        let partitions = row.partitions.iter().map(|p| Partition {
            start: AtomicU64::new(p.start),
            end: watch::Sender::new(p.end),
            last_append_us: AtomicI64::new(p.last_append_us),
        });
        Self { id: row.id, partitions: partitions.collect(), spec: row.spec }
    }

    fn partition(&self, partition: u32) -> Result<&Partition, LogError> {
        self.partitions.get(partition as usize).ok_or_else(|| LogError::UnknownPartition {
            topic: self.spec.name.clone(),
            partition,
            partitions: self.spec.partitions,
        })
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn create_topic(&self, spec: &TopicSpec) -> Result<bool, LogError> {
        self.ask(|reply| Command::CreateTopic { spec: spec.clone(), reply }).await
    }

    async fn misfits(&self, spec: &TopicSpec) -> Result<Vec<Misfit>, LogError> {
        Ok(spec.partitions_misfit(self.shared.topic(&spec.name)?.spec.partitions).into_iter().collect())
    }

    async fn partition_count(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.shared.topic(topic)?.spec.partitions)
    }

    async fn topics(&self) -> Result<Vec<TopicSpec>, LogError> {
        let topics = self.shared.topics.read().unwrap_or_else(PoisonError::into_inner);
        Ok(topics.values().map(|t| t.spec.clone()).collect())
    }

    async fn append(&self, topic: &str, partition: u32, records: Vec<NewRecord>) -> Result<Appended, LogError> {
        let topic = self.shared.topic(topic)?;
        topic.partition(partition)?;
        check_sizes(&topic.spec.name, &records)?;
        self.ask(|reply| Command::Append(Append { topic, parts: vec![(partition, records)], reply })).await
    }

    async fn append_keyed(&self, topic: &str, records: Vec<NewRecord>) -> Result<(), LogError> {
        let topic = self.shared.topic(topic)?;
        check_sizes(&topic.spec.name, &records)?;
        let parts = by_partition(&topic.spec.name, topic.spec.partitions, records)?;
        if !parts.is_empty() {
            self.ask(|reply| Command::Append(Append { topic, parts: parts.into_iter().collect(), reply })).await?;
        }
        Ok(())
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        Ok(self.shared.topic(topic)?.partition(partition)?.start.load(Ordering::Acquire))
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, LogError> {
        Ok(*self.shared.topic(topic)?.partition(partition)?.end.borrow())
    }

    fn reader(&self, topic: &str, partition: u32, from: u64) -> Result<Box<dyn LogReader>, LogError> {
        let reader = reader::EmbeddedReader::new(self.shared.clone(), self.shared.topic(topic)?, partition, from)?;
        Ok(Box::new(reader))
    }

    async fn delete_before(&self, topic: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        let topic = self.shared.topic(topic)?;
        topic.partition(partition)?;
        self.ask(|reply| Command::DeleteBefore { topic, partition, offset, reply }).await
    }

    async fn ownership(&self, topic: &str) -> Result<Arc<dyn Ownership>, LogError> {
        let partitions = self.shared.topic(topic)?.spec.partitions;
        Ok(Arc::new(OwnsAll { owned: watch::Sender::new((0..partitions).collect()) }))
    }

    /// Commits what was accepted, releases the directory and ends every reader. Appends from here on fail.
    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            // The committer answers when the file is released; where it has ended already, the file is released too.
            let _ = closed.await;
        }
    }
}

/// One process, so it owns everything, from the start and until it leaves.
struct OwnsAll {
    owned: watch::Sender<Vec<u32>>,
}

#[async_trait]
impl Ownership for OwnsAll {
    fn owned(&self) -> watch::Receiver<Vec<u32>> {
        self.owned.subscribe()
    }

    async fn confirm(&self, partition: u32, _offset: u64) -> Result<bool, LogError> {
        Ok(self.owned.borrow().contains(&partition))
    }

    async fn leave(&self) {
        self.owned.send_replace(Vec::new());
    }
}
