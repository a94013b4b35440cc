//! `headend import`: a file into the log, as events of one type.
//!
//! Every line ends in the log or in the error file with its reason. Lines go in the file's order, which each partition keeps. A
//! stop (Ctrl-C, a failure) names the last line that is surely in the log, and `--from-line` goes on behind it; since a
//! row's `event_id` is the hash of file and line, a line that is sent twice is recognised where the source says `dedup`.
//!
//! A thread reads and converts, a bounded channel ahead of the appends:
//! `rows::open → payload::Converter → feed → pace → destination`.

mod csv;
pub mod destination;
pub mod error_file;
mod feed;
mod mapped;
mod pace;
pub mod payload;
mod progress;
pub mod rows;

use anyhow::Context;
use destination::{AppendError, Destination};
use error_file::ErrorFile;
use feed::Feed;
use pace::Pace;
use payload::{Converted, ConvertedBatch, Converter};
use progress::Progress;
use schemas::event::EventType;
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Most rows of one append.
pub const APPEND_ROWS_MAX: usize = 1000;
/// An append ends at the row that reaches this.
pub const APPEND_BYTES_MAX: usize = 1 << 20;

/// What to import, and how.
pub struct Import {
    pub file: PathBuf,
    pub event: &'static EventType,
    /// The mapping's file and its text.
    pub mapping: Option<(PathBuf, String)>,
    pub tenant: String,
    pub speed: Option<f64>,
    pub close: bool,
    pub from_line: u64,
    pub errors: PathBuf,
    /// UTC microseconds, the time that bounds event times.
    pub now_us: i64,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub file: PathBuf,
    pub event: &'static str,
    /// Rows that were read; the next three add up to it.
    pub lines: u64,
    pub accepted: u64,
    pub filtered: u64,
    pub errors: u64,
    pub seconds: f64,
    pub last_line: u64,
    /// Ctrl-C came before the end.
    pub stopped: bool,
    pub error_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    // Not a source: its own text would say line, column and message a second time.
    #[error("`{file}`:{}:{}: {}", fault.line, fault.column, fault.message)]
    Mapping { file: PathBuf, fault: stream_jobs::sql::SqlError },
    #[error("{source}; line {last_line} of `{file}` is the last one that is in the log")]
    Append { file: PathBuf, last_line: u64, source: AppendError },
}

impl ImportError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mapping { fault, .. } => fault.hint.clone(),
            Self::Append { last_line, .. } => Some(format!("resume with --from-line {}", last_line + 1)),
        }
    }
}

/// Finds a file that is not there, a header that cannot be used and a wrong mapping before a log is opened or created for them.
pub fn check(what: &Import) -> anyhow::Result<()> {
    let kind = std::fs::metadata(&what.file).map_err(|source| rows::ReadError::Io { path: what.file.clone(), source })?;
    // A pipe can be read only once.
    if kind.is_file() {
        converter(what, &mut rows::open(&what.file)?)?;
    }
    Ok(())
}

/// Imports until the file ends or `stop` is cancelled; then the append in flight is finished first.
pub async fn import(what: Import, destination: &Destination, stop: &CancellationToken) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let mut reader = rows::open(&what.file)?;
    let progress = Progress::new(&what.file, reader.progress());
    let converter = converter(&what, &mut reader)?;
    let mut feed = Feed::start(reader, converter, what.from_line)?;
    let mut run = Run {
        summary: Summary { file: what.file.clone(), event: what.event.name, last_line: what.from_line.saturating_sub(1), ..Default::default() },
        errors: ErrorFile::new(&what.file, &what.errors, what.from_line > 1),
        pace: what.speed.map(Pace::new),
        destination,
        stop,
        progress,
    };
    while let Some(batch) = feed.next(stop).await? {
        if !run.deliver(batch).await? {
            break;
        }
    }
    run.summary.stopped = stop.is_cancelled() && !feed.ended();
    if what.close && !run.summary.stopped {
        destination.close().await.context("cannot close the source")?;
    }
    run.progress.clear();
    run.summary.error_file = run.errors.finish()?;
    run.summary.seconds = started.elapsed().as_secs_f64();
    Ok(run.summary)
}

fn converter(what: &Import, reader: &mut rows::RowReader) -> anyhow::Result<Converter> {
    let converter = Converter::for_event(reader, what.event, &what.tenant, what.now_us);
    match &what.mapping {
        Some((file, sql)) => converter.with_mapping(reader, sql).map_err(|e| in_file(e, file)),
        None => Ok(converter),
    }
}

/// A mapping's error with the file that the mapping stands in.
pub fn in_file(error: payload::MappingError, file: &Path) -> anyhow::Error {
    match error {
        payload::MappingError::Sql(fault) => ImportError::Mapping { file: file.to_owned(), fault }.into(),
        payload::MappingError::Read(e) => e.into(),
    }
}

struct Run<'a> {
    summary: Summary,
    errors: ErrorFile,
    pace: Option<Pace>,
    destination: &'a Destination,
    stop: &'a CancellationToken,
    progress: Progress,
}

impl Run<'_> {
    /// False when `stop` came before the batch was through.
    async fn deliver(&mut self, batch: ConvertedBatch) -> anyhow::Result<bool> {
        let mut errors = batch.errors.into_iter().peekable();
        let mut rows = batch.rows.into_iter().peekable();
        while rows.peek().is_some() {
            let due = self.due(&mut rows);
            if due.is_empty() {
                if !self.wait(rows.peek()).await {
                    return Ok(false);
                }
                continue;
            }
            if !self.append(due).await? {
                return Ok(false);
            }
            while let Some(error) = errors.next_if(|e| e.line <= self.summary.last_line) {
                self.refuse(error)?;
            }
            if self.stop.is_cancelled() {
                return Ok(false);
            }
        }
        errors.try_for_each(|e| self.refuse(e))?;
        self.summary.filtered += batch.filtered;
        self.summary.lines += batch.filtered;
        self.summary.last_line = self.summary.last_line.max(batch.last_line);
        Ok(true)
    }

    /// The next rows whose time has come.
    fn due(&mut self, rows: &mut std::iter::Peekable<std::vec::IntoIter<Converted>>) -> Vec<Converted> {
        let now = Instant::now();
        let Some(pace) = &mut self.pace else { return rows.collect() };
        std::iter::from_fn(|| rows.next_if(|row| pace.due(row.event_time_us) <= now)).collect()
    }

    /// False when `stop` came first.
    async fn wait(&mut self, next: Option<&Converted>) -> bool {
        let Some((pace, row)) = self.pace.as_mut().zip(next) else { return true };
        let due = pace.due(row.event_time_us).max(Instant::now() + pace::STEP);
        // The stop goes first: a pause of event time can last for hours.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(due.into()) => true,
        }
    }

    /// False when `stop` came while the destination was away: then these rows count as not appended.
    async fn append(&mut self, rows: Vec<Converted>) -> anyhow::Result<bool> {
        let (count, last_line) = (rows.len() as u64, rows.last().map_or(0, |r| r.line));
        match self.destination.append(rows, self.stop).await {
            Ok(()) => {
                self.summary.accepted += count;
                self.summary.lines += count;
                self.summary.last_line = last_line;
                self.progress.show(&self.summary);
                Ok(true)
            }
            Err(AppendError::Stopped) => Ok(false),
            Err(source) => {
                self.progress.clear();
                Err(ImportError::Append { file: self.summary.file.clone(), last_line: self.summary.last_line, source }.into())
            }
        }
    }

    fn refuse(&mut self, error: payload::RowError) -> anyhow::Result<()> {
        self.errors.write(&error)?;
        self.summary.errors += 1;
        self.summary.lines += 1;
        Ok(())
    }
}
