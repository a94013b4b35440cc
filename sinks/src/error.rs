//! What can go wrong with a sink, with its facts, and what the caller is to do about it.

use schemas::EpochId;

/// What to do about a [`SinkError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Weather: wait, read the cursor, try again.
    Retry,
    /// The options are wrong: refuse the sink before anything is touched.
    Reject,
    /// A person must act; this sink stops and its cursor stays.
    Stop,
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("sink `{sink}`: unknown connector `{connector}`, expected `parquet`, `redis` or `kafka`")]
    UnknownConnector { sink: String, connector: String },
    #[error("sink `{sink}`: unknown option `{option}`, connector `{connector}` takes {allowed}")]
    UnknownOption { sink: String, connector: String, option: String, allowed: String },
    #[error("sink `{sink}`: option `{option}` is missing, expected {expected}")]
    MissingOption { sink: String, option: &'static str, expected: &'static str },
    #[error("sink `{sink}`: option `{option}` is `{value}`, expected {expected}")]
    BadOption { sink: String, option: &'static str, value: String, expected: String },
    #[error("sink `{sink}`: view `{view}` has no column `{column}`, which option `{option}` names")]
    NoColumn { sink: String, view: String, column: String, option: &'static str },

    #[error("cannot {action} `{path}`: {source}")]
    Store { action: &'static str, path: String, source: object_store::Error },
    #[error("cannot {action} `{path}`: {source}")]
    File { action: &'static str, path: String, source: std::io::Error },
    #[error("file `{path}` is not a whole file of this sink: {reason}; move it away and its epochs are written again")]
    Damaged { path: String, reason: String },
    #[error("files `{first}` and `{second}` both hold epoch {epoch} of task {task}")]
    Overlap { first: String, second: String, task: u32, epoch: u64 },
    #[error("file `{path}` holds epoch {epoch} as {found}, the epoch log has {expected}: it belongs to another log")]
    OtherChain { path: String, epoch: u64, found: EpochId, expected: EpochId },
    #[error("sink `{sink}` cannot encode rows of view `{view}`: {reason}")]
    Encode { sink: String, view: String, reason: String },

    #[error("cannot use redis at `{address}`: {source}")]
    Redis { address: String, source: ::redis::RedisError },
    #[error("key `{key}` in redis at `{address}` is not a cursor of a sink: {reason}")]
    BadCursor { address: String, key: String, reason: String },

    #[error("cannot {action} Kafka at `{brokers}`: {reason}")]
    Kafka { action: String, brokers: String, reason: String },
    #[error("topic `{topic}` of sink `{sink}` does not take a row: {reason}")]
    KafkaRow { sink: String, topic: String, reason: String },

    #[error("cursor of sink `{sink}` for task {task} is at epoch {found}, expected {expected}")]
    CursorMoved { sink: String, task: u32, found: u64, expected: u64 },
    #[error("sink `{sink}` was given epoch {found} of task {task} after epoch {after}, which is not its parent")]
    BrokenChain { sink: String, task: u32, found: u64, after: u64 },
    #[error("sink `{sink}` lost its worker: {reason}")]
    Worker { sink: String, reason: String },
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Why the epochs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The log does not answer; it may again.
    #[error("cannot read the epoch log: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The log does not have what the cursor asks for, or is damaged.
    #[error("cannot follow the epoch log: {0}")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SinkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownConnector { .. } | Self::UnknownOption { .. } | Self::MissingOption { .. } | Self::BadOption { .. } => ErrorKind::Reject,
            Self::NoColumn { .. } => ErrorKind::Reject,
            Self::Store { source, .. } => of_io(find_io(source)),
            Self::File { source, .. } => of_io(Some(source)),
            Self::Redis { source, .. } => of_redis(source),
            Self::CursorMoved { .. } | Self::Kafka { .. } | Self::Source(SourceError::Unavailable(_)) => ErrorKind::Retry,
            Self::Damaged { .. } | Self::Overlap { .. } | Self::OtherChain { .. } | Self::Encode { .. } | Self::BadCursor { .. } => ErrorKind::Stop,
            Self::KafkaRow { .. } => ErrorKind::Stop,
            Self::BrokenChain { .. } | Self::Worker { .. } | Self::Source(SourceError::Lost(_)) => ErrorKind::Stop,
        }
    }
}

/// A full disk or a lost network may pass; a directory that may not be written, or is none, stays so.
fn of_io(error: Option<&std::io::Error>) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.map(std::io::Error::kind) {
        Some(Io::PermissionDenied | Io::NotADirectory | Io::IsADirectory | Io::ReadOnlyFilesystem | Io::InvalidFilename | Io::Unsupported) => ErrorKind::Stop,
        _ => ErrorKind::Retry,
    }
}

fn find_io<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = e.source();
    }
    None
}

/// A transaction fails with the errors of its commands, another request with its own.
fn of_redis(error: &::redis::RedisError) -> ErrorKind {
    use ::redis::ErrorKind as Kind;
    let is_lasting = |code: &str| matches!(code, "WRONGTYPE" | "NOAUTH" | "WRONGPASS" | "NOPERM");
    let of_commands = error.clone().into_server_errors().is_some_and(|all| all.iter().any(|(_, e)| is_lasting(e.code())));
    match error.kind() {
        Kind::AuthenticationFailed | Kind::InvalidClientConfig => ErrorKind::Stop,
        _ if of_commands || error.code().is_some_and(is_lasting) => ErrorKind::Stop,
        _ => ErrorKind::Retry,
    }
}
