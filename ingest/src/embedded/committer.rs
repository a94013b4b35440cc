//! The one thread that writes: it gathers the appends that wait, commits them together, publishes the new ends, answers.
//!
//! The order matters: ends are published after the commit and before the answers, so that whoever was answered can read
//! what he wrote, and nobody reads what is not durable.

use super::{
    Shared, Topic,
    block::{BlockWriter, Place},
    store::{Changes, PartitionRow, TopicRow},
};
use crate::{
    log::{Appended, LogError, TopicSpec, payload_bytes},
    observations,
};
use schemas::NewRecord;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{mpsc, oneshot};

/// A commit takes no further append once it holds this much.
const COMMIT_BYTES_MAX: usize = 16 * 1024 * 1024;

type Reply<T> = oneshot::Sender<Result<T, LogError>>;

pub enum Command {
    Append(Append),
    CreateTopic { spec: TopicSpec, reply: Reply<bool> },
    DeleteBefore { topic: Arc<Topic>, partition: u32, offset: u64, reply: Reply<()> },
    Close(oneshot::Sender<()>),
}

/// Records for partitions of one topic; answered with the place of the first part.
pub struct Append {
    pub topic: Arc<Topic>,
    pub parts: Vec<(u32, Vec<NewRecord>)>,
    pub reply: Reply<Appended>,
}

pub struct Committer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    group_commit_max: Duration,
}

/// A partition on its way through one commit.
struct Growing {
    topic: Arc<Topic>,
    writer: BlockWriter,
    row: PartitionRow,
    records: u64,
    bytes: u64,
}

impl Committer {
    pub fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>, group_commit_max: Duration) -> Self {
        Self { shared, commands, group_commit_max }
    }

    pub fn run(mut self) {
        let mut closing = None;
        while let Some(command) = self.commands.blocking_recv() {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    Command::Append(first) => next = self.append_group(first),
                    Command::CreateTopic { spec, reply } => drop(reply.send(self.create_topic(spec))),
                    Command::DeleteBefore { topic, partition, offset, reply } => drop(reply.send(self.delete_before(&topic, partition, offset))),
                    // What was sent before stands before it in the channel, so it is committed; what comes later is refused.
                    Command::Close(done) => {
                        self.commands.close();
                        closing = Some(done);
                    }
                }
            }
        }
        self.shared.closed.store(true, Ordering::Release);
        self.shared.store.close();
        self.wake_all();
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    /// Commits `first` and what else waits; returns the command of another kind that ended the group.
    fn append_group(&mut self, first: Append) -> Option<Command> {
        let started = Instant::now();
        let mut bytes = first.bytes();
        let mut group = vec![first];
        let mut next = None;
        while bytes < COMMIT_BYTES_MAX && started.elapsed() < self.group_commit_max {
            match self.commands.try_recv() {
                Ok(Command::Append(append)) => {
                    bytes += append.bytes();
                    group.push(append);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.commit_group(group);
        next
    }

    fn commit_group(&self, group: Vec<Append>) {
        let now_us = now_us();
        let mut growing: BTreeMap<(u32, u32), Growing> = BTreeMap::new();
        let mut answers = Vec::with_capacity(group.len());
        for append in group {
            let mut placed = None;
            for (partition, records) in &append.parts {
                let part = growing.entry((append.topic.id, *partition)).or_insert_with(|| Growing::new(&append.topic, *partition));
                let appended = part.push(records, now_us);
                placed.get_or_insert(appended);
            }
            answers.push((append.reply, placed));
        }
        let mut changes = Changes::default();
        let mut published = Vec::with_capacity(growing.len());
        for ((id, partition), part) in growing {
            changes.partitions.push((id, partition, part.row));
            changes.blocks.extend(part.writer.finish());
            published.push((part.topic, partition, part.row, part.records, part.bytes));
        }
        let started = Instant::now();
        let result = self.commit(&changes);
        observations::committed(started.elapsed(), answers.len());
        if result.is_ok() {
            for (topic, partition, row, records, bytes) in published {
                topic.publish(partition, row);
                observations::appended(&topic.spec.name, records, bytes);
            }
        }
        for (reply, placed) in answers {
            let answer = result.clone().and_then(|()| placed.ok_or(LogError::Closed));
            // Whoever gave up waiting does not need the answer; the records stand all the same.
            let _ = reply.send(answer);
        }
    }

    /// After a failed commit the store is opened anew; what it holds is the truth, also where the commit got through after all.
    fn refused(&self, error: &LogError) {
        observations::commit_failed();
        tracing::error!(%error, "cannot commit to the log, what it held was refused");
        let rows = match self.shared.store.load() {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "cannot open the log anew yet"),
        };
        for row in rows {
            match self.shared.topic(&row.spec.name) {
                Ok(topic) => row.partitions.iter().enumerate().for_each(|(p, state)| topic.publish(p as u32, *state)),
                Err(_) => self.shared.add_topic(row),
            }
        }
    }

    fn commit(&self, changes: &Changes) -> Result<(), LogError> {
        self.shared.store.commit(changes).inspect_err(|error| self.refused(error))
    }

    fn create_topic(&self, spec: TopicSpec) -> Result<bool, LogError> {
        spec.check()?;
        if let Ok(topic) = self.shared.topic(&spec.name) {
            return spec.refuse(spec.partitions_misfit(topic.spec.partitions)).map(|()| false);
        }
        let id = self.shared.topics.read().unwrap_or_else(PoisonError::into_inner).len() as u32;
        let row = TopicRow { id, partitions: vec![PartitionRow::default(); spec.partitions as usize], spec };
        let partitions = row.partitions.iter().enumerate().map(|(p, state)| (id, p as u32, *state)).collect();
        self.commit(&Changes { topic: Some((id, row.spec.clone())), partitions, ..Changes::default() })?;
        self.shared.add_topic(row);
        Ok(true)
    }

    fn delete_before(&self, topic: &Topic, partition: u32, offset: u64) -> Result<(), LogError> {
        let mut row = topic.row(partition);
        if offset <= row.start {
            return Ok(());
        }
        if offset > row.end {
            let topic = topic.spec.name.clone();
            return Err(LogError::OffsetOutOfRange { topic, partition, offset, start: row.start, end: row.end });
        }
        row.start = offset;
        let to = Place { topic: topic.id, partition, base_offset: offset };
        self.commit(&Changes { partitions: vec![(topic.id, partition, row)], delete_before: Some(to), ..Changes::default() })?;
        topic.publish(partition, row);
        Ok(())
    }

    fn wake_all(&self) {
        for topic in self.shared.topics.read().unwrap_or_else(PoisonError::into_inner).values() {
            topic.partitions.iter().for_each(|p| p.end.send_modify(|_| ()));
        }
    }
}

impl Append {
    fn bytes(&self) -> usize {
        self.parts.iter().flat_map(|(_, records)| records).map(payload_bytes).sum()
    }
}

impl Growing {
    fn new(topic: &Arc<Topic>, partition: u32) -> Self {
        let row = topic.row(partition);
        let writer = BlockWriter::new(Place { topic: topic.id, partition, base_offset: row.end });
        Self { topic: topic.clone(), writer, row, records: 0, bytes: 0 }
    }

    /// Each append has a time of its own: now, or the next microsecond after the one before.
    fn push(&mut self, records: &[NewRecord], now_us: i64) -> Appended {
        let base_offset = self.writer.next_offset();
        if !records.is_empty() {
            self.row.last_append_us = now_us.max(self.row.last_append_us + 1);
        }
        for record in records {
            self.writer.push(record, self.row.last_append_us);
            self.bytes += payload_bytes(record) as u64;
        }
        self.records += records.len() as u64;
        self.row.end = self.writer.next_offset();
        Appended { base_offset, append_us: self.row.last_append_us }
    }
}

impl Topic {
    fn row(&self, partition: u32) -> PartitionRow {
        self.partitions.get(partition as usize).map_or_else(PartitionRow::default, |p| PartitionRow {
            start: p.start.load(Ordering::Acquire),
            end: *p.end.borrow(),
            last_append_us: p.last_append_us.load(Ordering::Acquire),
        })
    }

    fn publish(&self, partition: u32, row: PartitionRow) {
        let Some(p) = self.partitions.get(partition as usize) else { return };
        p.start.store(row.start, Ordering::Release);
        p.last_append_us.store(row.last_append_us, Ordering::Release);
        p.end.send_if_modified(|end| std::mem::replace(end, row.end) != row.end);
    }
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}
