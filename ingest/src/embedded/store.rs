//! The database file under the embedded log: tables, transactions, and what to do when they fail.
//!
//! It promises that what is read is what was written or an error. redb verifies its pages only when it repairs, so each
//! row here carries a checksum of its own, and impossible bytes that make redb panic are reported as damage. A commit that
//! failed leaves redb unusable until it is opened anew; that happens here, on the next use.

use super::block::{BlockReader, Place};
use crate::log::{LogError, TopicSpec};
use bytes::{Buf, BufMut, Bytes};
use redb::{
    BackendError, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::{FileBackend, InMemoryBackend},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock},
};

const BLOCKS: TableDefinition<'_, (u32, u32, u64), &[u8]> = TableDefinition::new("blocks");
const PARTITIONS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("partitions");
const TOPICS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("topics");
const SUMMARY: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("summary");

const CACHE_BYTES: usize = 128 * 1024 * 1024;

/// After a kill redb walks the whole file, which verifies every page and takes about 2.5 s a GB, unless each commit also wrote
/// redb's allocator state, which costs a second sync (8 ms for 4 ms, measured). So small files are walked, and only a file
/// larger than this pays for a quick start with every commit.
const REPAIRED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What the log knows of a partition beside its blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionRow {
    pub start: u64,
    pub end: u64,
    pub last_append_us: i64,
}

/// Written with every commit: how many there were and how many topics there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    commits: u64,
    topics: u32,
}

/// A topic as the store has it.
#[derive(Clone, Debug)]
pub struct TopicRow {
    pub id: u32,
    pub spec: TopicSpec,
    pub partitions: Vec<PartitionRow>,
}

/// One commit.
#[derive(Default)]
pub struct Changes {
    pub topic: Option<(u32, TopicSpec)>,
    pub partitions: Vec<(u32, u32, PartitionRow)>,
    pub blocks: Vec<(Place, Bytes)>,
    /// Blocks before the one that holds this offset are dropped.
    pub delete_before: Option<Place>,
}

pub struct Store {
    place: Option<PathBuf>,
    file: String,
    sync: bool,
    db: RwLock<State>,
    tail: Mutex<Option<Tail>>,
}

enum State {
    Open(Database),
    /// A commit failed; the next use opens the file anew.
    Failed,
    Closed,
}

impl Store {
    /// Opens or creates `log.redb` in `dir`.
    pub fn open(dir: &Path, sync: bool) -> Result<Self, LogError> {
        let shown = dir.display().to_string();
        std::fs::create_dir_all(dir).map_err(|e| LogError::io(&shown, e))?;
        let path = dir.join("log.redb");
        let store = Self { file: path.display().to_string(), place: Some(path), sync, db: RwLock::new(State::Failed), tail: Mutex::new(None) };
        store.reopen()?;
        *store.tail.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tail::open(&dir.join("log.tail"))?);
        Ok(store)
    }

    pub fn in_memory() -> Result<Self, LogError> {
        let store = Self { place: None, file: "memory".into(), sync: false, db: RwLock::new(State::Failed), tail: Mutex::new(None) };
        let db = guarded(|| Database::builder().create_with_backend(InMemoryBackend::new()).map_err(redb::Error::from));
        *store.db.write().unwrap_or_else(PoisonError::into_inner) = State::Open(db.map_err(|f| store.fault(f))?);
        Ok(store)
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// All topics with their partitions, verified against the summary and against what was last acknowledged.
    pub fn load(&self) -> Result<Vec<TopicRow>, LogError> {
        let (summary, topics) = self.with_db(|db| {
            let txn = db.begin_read()?;
            let summary = match txn.open_table(SUMMARY) {
                Ok(table) => table.get(0)?.map(|v| Summary::parse(v.value())),
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, Vec::new())),
                Err(e) => return Err(e.into()),
            };
            let mut topics = Vec::new();
            let partitions = txn.open_table(PARTITIONS)?;
            for row in txn.open_table(TOPICS)?.iter()? {
                let (id, value) = row?;
                topics.push((id.value(), parse_topic(value.value()), Vec::new()));
            }
            for (id, spec, rows) in &mut topics {
                for p in 0..spec.as_ref().map_or(0, |s| s.partitions) {
                    let row = partitions.get((*id, p))?;
                    rows.push(row.and_then(|v| PartitionRow::parse(v.value(), *id, p)));
                }
            }
            Ok((summary, topics))
        })?;
        let damaged = |what: &str| self.damaged(what);
        let summary = match summary {
            Some(found) => found.ok_or_else(|| damaged("its summary does not verify"))?,
            None => Summary::default(),
        };
        let acknowledged = self.tail.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |t| t.commits);
        if summary.commits < acknowledged {
            return Err(damaged(&format!("it holds {} commits of {acknowledged} that were acknowledged", summary.commits)));
        }
        if topics.len() != summary.topics as usize {
            return Err(damaged(&format!("it names {} topics of {}", topics.len(), summary.topics)));
        }
        let verified =
            topics.into_iter().map(|(id, spec, partitions)| Some(TopicRow { id, spec: spec?, partitions: partitions.into_iter().collect::<Option<_>>()? }));
        verified.collect::<Option<_>>().ok_or_else(|| damaged("a topic's description does not verify"))
    }

    /// Durable when it returns. On an error the database is closed, to be opened anew by the next use.
    pub fn commit(&self, changes: &Changes) -> Result<(), LogError> {
        let quick_repair = self.place.as_deref().and_then(|p| p.metadata().ok()).is_some_and(|m| m.len() > REPAIRED_BYTES_MAX);
        match self.with_db(|db| write(db, changes, quick_repair)) {
            Ok(commits) => {
                let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(Err(error)) = tail.as_mut().map(|t| t.advance(commits)) {
                    // The records are durable; all that is weaker is the proof of it at the next start.
                    tracing::warn!(file = %self.file, %error, "cannot note the last commit beside the log");
                }
                Ok(())
            }
            Err(error) => {
                if self.place.is_some() {
                    self.leave(State::Failed);
                }
                Err(error)
            }
        }
    }

    /// Hands the blocks from the one that holds `from` on to `take`, until it says that it has enough.
    pub fn blocks(&self, from: Place, topic: &str, end: u64, mut take: impl FnMut(BlockReader) -> bool) -> Result<(), LogError> {
        let mut next = from.base_offset;
        let mut wrong: Option<String> = None;
        let result = self.with_db(|db| {
            let table = db.begin_read()?.open_table(BLOCKS)?;
            let key = |offset| (from.topic, from.partition, offset);
            let first = match table.range(key(0)..=key(next))?.next_back() {
                Some(row) => row?.0.value().2,
                None => next,
            };
            next = first;
            for row in table.range(key(first)..=key(u64::MAX))? {
                let (row_key, value) = row?;
                let place = Place { base_offset: next, ..from };
                if row_key.value().2 != next {
                    break;
                }
                match BlockReader::open(Bytes::copy_from_slice(value.value()), place) {
                    Ok(mut block) if block.end() > from.base_offset => {
                        next = block.end();
                        block.skip_to(from.base_offset);
                        if take(block) || next >= end {
                            return Ok(());
                        }
                    }
                    Ok(_) => break,
                    Err(what) => {
                        wrong = Some(what);
                        return Ok(());
                    }
                }
            }
            wrong = Some("its block is missing".to_owned());
            Ok(())
        });
        let damage =
            |what| LogError::Damaged { topic: topic.to_owned(), partition: from.partition, offset: next.max(from.base_offset), file: self.file.clone(), what };
        match (result, wrong) {
            (Err(LogError::DamagedFile { what, .. }), _) => Err(damage(what)),
            (Err(error), _) => Err(error),
            (Ok(()), Some(what)) => Err(damage(what)),
            (Ok(()), None) => Ok(()),
        }
    }

    pub fn close(&self) {
        self.leave(State::Closed);
    }

    fn leave(&self, state: State) {
        let db = std::mem::replace(&mut *self.db.write().unwrap_or_else(PoisonError::into_inner), state);
        // redb writes when it is dropped, which on a full or damaged file may panic.
        drop(catch_unwind(AssertUnwindSafe(|| drop(db))));
    }

    fn reopen(&self) -> Result<(), LogError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let path = match (&*db, &self.place) {
            (State::Open(_), _) => return Ok(()),
            (State::Failed, Some(path)) => path,
            (State::Failed, None) | (State::Closed, _) => return Err(LogError::Closed),
        };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(|e| LogError::io(&self.file, e))?;
        let opened = guarded(|| {
            let backend = LogFile { file: FileBackend::new(file)?, sync: self.sync };
            Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
        });
        *db = State::Open(opened.map_err(|f| self.fault(f))?);
        Ok(())
    }

    fn with_db<T>(&self, mut work: impl FnMut(&Database) -> Result<T, redb::Error>) -> Result<T, LogError> {
        loop {
            if let State::Open(db) = &*self.db.read().unwrap_or_else(PoisonError::into_inner) {
                return guarded(|| work(db)).map_err(|f| self.fault(f));
            }
            self.reopen()?;
        }
    }

    fn damaged(&self, what: &str) -> LogError {
        LogError::DamagedFile { file: self.file.clone(), what: what.to_owned() }
    }

    fn fault(&self, fault: Fault) -> LogError {
        match fault {
            Fault::Panicked(what) => self.damaged(&what),
            Fault::Failed(redb::Error::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => self.damaged("it is cut off"),
            Fault::Failed(redb::Error::Io(e)) => LogError::io(&self.file, e),
            Fault::Failed(redb::Error::PreviousIo) => LogError::io(&self.file, io::Error::other("an earlier write failed")),
            Fault::Failed(redb::Error::DatabaseAlreadyOpen) => {
                let dir = self.place.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).display().to_string();
                LogError::Locked { dir }
            }
            Fault::Failed(other) => self.damaged(&other.to_string()),
        }
    }
}

enum Fault {
    Failed(redb::Error),
    Panicked(String),
}

/// redb asserts what an intact file guarantees; on one that is not, the assertion is how it tells.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Fault::Failed),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(Fault::Panicked(format!("its pages contradict each other ({})", text.unwrap_or("no reason"))))
        }
    }
}

fn write(db: &Database, changes: &Changes, quick_repair: bool) -> Result<u64, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(quick_repair);
    let mut summary;
    {
        let mut table = txn.open_table(SUMMARY)?;
        summary = match table.get(0)? {
            Some(v) => Summary::parse(v.value()).ok_or_else(|| redb::Error::Corrupted("its summary does not verify".into()))?,
            None => Summary::default(),
        };
        summary.commits += 1;
        summary.topics += u32::from(changes.topic.is_some());
        table.insert(0, summary.frame().as_slice())?;
        let mut topics = txn.open_table(TOPICS)?;
        if let Some((id, spec)) = &changes.topic {
            topics.insert(id, frame_topic(spec).as_slice())?;
        }
        let mut partitions = txn.open_table(PARTITIONS)?;
        for (topic, partition, row) in &changes.partitions {
            partitions.insert((*topic, *partition), row.frame(*topic, *partition).as_slice())?;
        }
        let mut blocks = txn.open_table(BLOCKS)?;
        for (place, block) in &changes.blocks {
            blocks.insert((place.topic, place.partition, place.base_offset), &block[..])?;
        }
        if let Some(to) = changes.delete_before {
            delete_before(&mut blocks, to)?;
        }
    }
    txn.commit()?;
    Ok(summary.commits)
}

/// The block that holds `to` stays, and so does the last block of all.
fn delete_before(blocks: &mut redb::Table<'_, (u32, u32, u64), &'static [u8]>, to: Place) -> Result<(), redb::Error> {
    let key = |offset| (to.topic, to.partition, offset);
    let kept = blocks.range(key(0)..=key(to.base_offset))?.next_back().transpose()?.map(|(k, _)| k.value().2);
    if let Some(kept) = kept {
        blocks.retain_in(key(0)..key(kept), |_, _| false)?;
    }
    Ok(())
}

impl PartitionRow {
    fn frame(&self, topic: u32, partition: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(36);
        out.put_u32_le(topic);
        out.put_u32_le(partition);
        out.put_u64_le(self.start);
        out.put_u64_le(self.end);
        out.put_i64_le(self.last_append_us);
        seal(out)
    }

    fn parse(bytes: &[u8], topic: u32, partition: u32) -> Option<Self> {
        let mut b = unseal(bytes)?;
        let own = b.len() == 32 && b.get_u32_le() == topic && b.get_u32_le() == partition;
        own.then(|| Self { start: b.get_u64_le(), end: b.get_u64_le(), last_append_us: b.get_i64_le() })
    }
}

impl Summary {
    fn frame(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.put_u64_le(self.commits);
        out.put_u32_le(self.topics);
        seal(out)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut b = unseal(bytes)?;
        (b.len() == 12).then(|| Self { commits: b.get_u64_le(), topics: b.get_u32_le() })
    }
}

fn frame_topic(spec: &TopicSpec) -> Vec<u8> {
    let mut out = Vec::with_capacity(spec.name.len() + 9);
    out.put_u32_le(spec.partitions);
    out.put_u8(u8::from(spec.compacted));
    out.put_slice(spec.name.as_bytes());
    seal(out)
}

fn parse_topic(bytes: &[u8]) -> Option<TopicSpec> {
    let mut b = unseal(bytes).filter(|b| b.len() >= 5)?;
    let (partitions, compacted) = (b.get_u32_le(), b.get_u8() == 1);
    Some(TopicSpec { name: std::str::from_utf8(b).ok()?.to_owned(), partitions, compacted })
}

fn seal(mut row: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&row);
    row.put_u32_le(crc);
    row
}

fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (row, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    (crc32c::crc32c(row) == crc.get_u32_le()).then_some(row)
}

/// `log.tail`: the number of the last acknowledged commit, outside the database.
///
/// redb keeps two roots and may fall back to the older one when a bit of its header flips: a sound file, one commit short.
/// The number here is written after each commit and not synced, so it is never ahead of a database that was synced, and a
/// database behind it has lost something.
struct Tail {
    file: File,
    commits: u64,
}

impl Tail {
    fn open(path: &Path) -> Result<Self, LogError> {
        let shown = path.display().to_string();
        let open = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|e| LogError::io(&shown, e))?;
        let commits = match unseal(&bytes) {
            Some(mut row) if row.len() == 8 => row.get_u64_le(),
            None if bytes.iter().all(|b| *b == 0) => 0,
            _ => return Err(LogError::DamagedFile { file: shown, what: "its checksum does not match".into() }),
        };
        Ok(Self { file, commits })
    }

    fn advance(&mut self, commits: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&seal(commits.to_le_bytes().to_vec()))?;
        self.commits = commits;
        Ok(())
    }
}

/// redb's file with a switch: without `sync` what was committed survives the process and not the machine.
#[derive(Debug)]
struct LogFile {
    file: FileBackend,
    sync: bool,
}

impl StorageBackend for LogFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.sync { self.file.sync_data() } else { Ok(()) }
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
