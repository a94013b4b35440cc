//! The newest row of every key as a Redis hash: a cache of what a view says, that can be rebuilt.
//!
//! The cursor stands in Redis beside the rows, so what Redis lost it also knows to be lost: an empty Redis has no
//! cursor, and the sink starts again from the beginning of what the epoch log has. Between two transactions of one
//! batch a reader may see rows that are newer than the cursor; after a crash they are written again. It does not
//! promise more than a cache: Redis may evict or forget, and a hash expires `ttl` after its last change.

mod rows;

use crate::{Limits, Sink, SinkError, keys::KeyPattern, metrics, output};
use ::redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, Value, aio::MultiplexedConnection};
use async_trait::async_trait;
use rows::{Change, Changes, RowShape};
use schemas::{AcceptedEpoch, ChainPosition};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The most commands in one transaction: Redis does nothing else while it runs one.
const TRANSACTION_COMMANDS_MAX: usize = 1000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct RedisSinkConfig {
    pub name: String,
    /// The output to take.
    pub view: String,
    /// `redis://[user:password@]host[:port][/db]`
    pub url: String,
    /// Key of a row's hash, with columns in braces: `subscriber:{tenant}:{subscriber_id}`.
    pub key: String,
    pub ttl: Duration,
    /// The columns to write; `None`: all.
    pub fields: Option<Vec<String>>,
    /// The cursor of task t is the hash `<cursor_key>:<t>`.
    pub cursor_key: String,
    pub flush_interval: Duration,
}

impl RedisSinkConfig {
    pub fn new(name: impl Into<String>, view: impl Into<String>, url: impl Into<String>, key: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            cursor_key: format!("headend:cursor:{name}"),
            name,
            view: view.into(),
            url: url.into(),
            key: key.into(),
            ttl: Duration::from_secs(24 * 3600),
            fields: None,
            flush_interval: Duration::from_millis(50),
        }
    }
}

pub struct RedisSink {
    config: RedisSinkConfig,
    key: KeyPattern,
    client: Client,
    /// Without user and password: it is written into messages.
    address: String,
    connection: Option<MultiplexedConnection>,
    cursors: BTreeMap<u32, Cursor>,
}

/// The cursor of one task as it stands in Redis. `writes` counts transactions: it tells two sinks apart that work on
/// the same task from the same position, so that neither writes older rows between the transactions of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    position: ChainPosition,
    writes: u64,
}

/// The cursor's fields as Redis gives them.
type CursorFields = (Option<String>, Option<String>, Option<String>, Option<String>);

impl RedisSink {
    /// Checks the options; connects when it is first used.
    pub fn new(config: RedisSinkConfig) -> Result<Self, SinkError> {
        let bad = |option, value: &str, expected: &str| SinkError::BadOption {
            sink: config.name.clone(),
            option,
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        if !config.url.starts_with("redis://") {
            return Err(bad("url", &without_password(&config.url), "`redis://host:port/db`"));
        }
        let client = Client::open(config.url.as_str()).map_err(|e| bad("url", &without_password(&config.url), &format!("`redis://host:port/db`: {e}")))?;
        let key =
            KeyPattern::parse(&config.key).ok_or_else(|| bad("key", &config.key, "a pattern with columns in braces, such as `subscriber:{subscriber_id}`"))?;
        if config.ttl < Duration::from_secs(1) {
            return Err(bad("ttl", &format!("{:?}", config.ttl), "at least `1s`"));
        }
        let address = client.get_connection_info().addr().to_string();
        Ok(Self { config, key, client, address, connection: None, cursors: BTreeMap::new() })
    }

    /// The columns that the options name, each with its option.
    pub(crate) fn named_columns(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let fields = self.config.fields.iter().flatten().map(|f| (f.as_str(), "fields"));
        self.key.columns().map(|c| (c, "key")).chain(fields)
    }

    fn cursor_key(&self, task: u32) -> String {
        format!("{}:{task}", self.config.cursor_key)
    }

    fn error(&self, source: RedisError) -> SinkError {
        SinkError::Redis { address: self.address.clone(), source }
    }

    /// Taken out while it is used: a connection that failed, or was left in the middle of a transaction, is not used again.
    async fn connect(&mut self) -> Result<MultiplexedConnection, SinkError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let timeouts = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client.get_multiplexed_async_connection_with_config(&timeouts).await.map_err(|e| self.error(e))
    }

    /// Reads the cursor and watches it: a transaction that follows fails when anybody touches it in between, which also
    /// notices a Redis that was flushed.
    async fn watch_cursor(&self, connection: &mut MultiplexedConnection, task: u32) -> Result<Cursor, SinkError> {
        let key = self.cursor_key(task);
        let mut pipe = ::redis::pipe();
        pipe.cmd("WATCH").arg(&key).ignore();
        pipe.cmd("HMGET").arg(&key).arg(&["epoch", "id", "next_offset", "writes"]);
        let (fields,): (CursorFields,) = pipe.query_async(connection).await.map_err(|e| self.error(e))?;
        parse_cursor(fields).map_err(|reason| SinkError::BadCursor { address: self.address.clone(), key, reason })
    }

    /// Writes `changes` in transactions, and moves the cursor in a last one of its own: Redis goes on after a command of
    /// a transaction that failed, so a cursor beside the rows would move although a row was refused.
    async fn write_changes(
        &self,
        connection: &mut MultiplexedConnection,
        task: u32,
        mut cursor: Cursor,
        to: ChainPosition,
        changes: &Changes,
    ) -> Result<Cursor, SinkError> {
        let mut changes = changes.by_key.iter().peekable();
        while cursor.position != to {
            let found = self.watch_cursor(connection, task).await?;
            if found != cursor {
                return Err(self.moved(task, found, cursor));
            }
            let mut pipe = ::redis::pipe();
            pipe.atomic();
            if changes.peek().is_none() {
                cursor.position = to;
            }
            cursor.writes += 1;
            self.add_cursor(&mut pipe, task, &cursor);
            while pipe.len() + 3 <= TRANSACTION_COMMANDS_MAX
                && let Some((key, change)) = changes.next()
            {
                self.add_change(&mut pipe, key, change);
            }
            let done: Value = pipe.query_async(connection).await.map_err(|e| self.error(e))?;
            if done == Value::Nil {
                let found = self.watch_cursor(connection, task).await?;
                return Err(self.moved(task, found, cursor));
            }
        }
        Ok(cursor)
    }

    fn add_change(&self, pipe: &mut Pipeline, key: &str, change: &Change) {
        match change {
            Change::Delete => {
                pipe.cmd("DEL").arg(key);
            }
            Change::Set { values, nulls } => {
                if !nulls.is_empty() {
                    pipe.cmd("HDEL").arg(key).arg(nulls);
                }
                if !values.is_empty() {
                    pipe.cmd("HSET").arg(key).arg(values);
                }
                pipe.cmd("EXPIRE").arg(key).arg(self.config.ttl.as_secs());
            }
        }
    }

    fn add_cursor(&self, pipe: &mut Pipeline, task: u32, cursor: &Cursor) {
        let ChainPosition { next_offset, epoch, id } = cursor.position;
        let command = pipe.cmd("HSET").arg(self.cursor_key(task));
        command.arg("epoch").arg(epoch).arg("id").arg(id.to_string()).arg("next_offset").arg(next_offset).arg("writes").arg(cursor.writes);
    }

    fn moved(&self, task: u32, found: Cursor, expected: Cursor) -> SinkError {
        SinkError::CursorMoved { sink: self.config.name.clone(), task, found: found.position.epoch, expected: expected.position.epoch }
    }

    fn collect(&self, position: &mut ChainPosition, epochs: &[Arc<AcceptedEpoch>]) -> Result<Changes, SinkError> {
        let shape = RowShape { sink: &self.config.name, view: &self.config.view, key: &self.key, fields: self.config.fields.as_deref() };
        let mut changes = Changes::default();
        for epoch in epochs {
            if !output::is_next(&self.config.name, position, epoch)? {
                continue;
            }
            *position = output::after(epoch);
            let rows = output::rows_of(&epoch.record, &self.config.view);
            let rows = rows.map_err(|e| SinkError::Encode { sink: self.config.name.clone(), view: self.config.view.clone(), reason: e.to_string() })?;
            if let Some((_, batch)) = rows {
                shape.collect(&batch, &mut changes)?;
            }
        }
        Ok(changes)
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn limits(&self) -> Limits {
        Limits { flush_interval: self.config.flush_interval, ..Limits::default() }
    }

    async fn cursor(&mut self, task: u32) -> Result<ChainPosition, SinkError> {
        self.cursors.remove(&task);
        let mut connection = self.connect().await?;
        let cursor = self.watch_cursor(&mut connection, task).await?;
        self.connection = Some(connection);
        self.cursors.insert(task, cursor);
        Ok(cursor.position)
    }

    async fn write(&mut self, task: u32, epochs: &[Arc<AcceptedEpoch>]) -> Result<(), SinkError> {
        if !self.cursors.contains_key(&task) {
            self.cursor(task).await?;
        }
        let cursor = self.cursors.get(&task).copied().unwrap_or_default();
        let mut to = cursor.position;
        let changes = self.collect(&mut to, epochs)?;
        if to == cursor.position {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        self.cursors.remove(&task);
        let cursor = self.write_changes(&mut connection, task, cursor, to, &changes).await?;
        self.connection = Some(connection);
        self.cursors.insert(task, cursor);
        metrics::rows_written(&self.config.name, changes.rows - changes.keyless);
        if changes.keyless > 0 {
            metrics::rows_rejected(&self.config.name, changes.keyless);
            tracing::warn!(sink = self.config.name, task, rows = changes.keyless, "rows without a value for a column of `{}` are left out", self.config.key);
        }
        Ok(())
    }

    /// A Redis that was flushed or restarted empty while nothing arrived is filled again at once.
    async fn check(&mut self, task: u32) -> Result<(), SinkError> {
        let Some(&expected) = self.cursors.get(&task) else { return Ok(()) };
        let mut connection = self.connect().await?;
        let found = self.watch_cursor(&mut connection, task).await?;
        self.connection = Some(connection);
        if found == expected { Ok(()) } else { Err(self.moved(task, found, expected)) }
    }
}

/// No field at all is the start; anything half there is not a cursor.
fn parse_cursor(fields: CursorFields) -> Result<Cursor, String> {
    let (epoch, id, next_offset, writes) = match fields {
        (None, None, None, None) => return Ok(Cursor::default()),
        (Some(epoch), Some(id), Some(next_offset), Some(writes)) => (epoch, id, next_offset, writes),
        _ => return Err("it lacks one of `epoch`, `id`, `next_offset`, `writes`".to_owned()),
    };
    let number = |name: &str, text: &str| text.parse::<u64>().map_err(|_| format!("`{name}` is `{text}`"));
    let position = ChainPosition {
        next_offset: number("next_offset", &next_offset)?,
        epoch: number("epoch", &epoch)?,
        id: id.parse().map_err(|_| format!("`id` is `{id}`"))?,
    };
    Ok(Cursor { position, writes: number("writes", &writes)? })
}

fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => url.to_owned(),
    }
}
