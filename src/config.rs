//! `headend.toml`: parsed once, into values that cannot be wrong.
//!
//! Every setting stands once in [`settings::SETTINGS`], with its default and a sentence. Its value is the environment's
//! (`HEADEND_<SECTION>_<KEY>`), else the file's, else the default; all three are read by the same parser. A key that nobody knows
//! is an error with file, line and the nearest name. Paths of the file are relative to the file's folder.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub mod settings;
pub mod units;
mod values;

pub use values::Place;
use values::{Kind, Values};

#[derive(Clone, Debug)]
pub struct Config {
    pub engine: Engine,
    pub log: Log,
    pub gateway: Gateway,
    pub models: Models,
}

#[derive(Clone, Debug)]
pub struct Engine {
    pub dir: PathBuf,
    /// The job file.
    pub job: PathBuf,
    pub partitions: u32,
    pub owner: String,
    /// A snapshot is taken after this many epochs or this much time, whichever comes first.
    pub snapshot_every: u64,
    pub snapshot_interval: Duration,
    /// How often epoch records that nobody needs any more are deleted.
    pub upkeep_interval: Duration,
    pub cut_rows_max: usize,
    pub cut_min: Duration,
    pub inflight: usize,
    pub threads: usize,
}

impl Engine {
    /// Folder of the embedded log.
    pub fn log_dir(&self) -> PathBuf {
        log_dir(&self.dir)
    }
}

/// Where the embedded log stands in the engine's folder.
pub fn log_dir(engine_dir: &Path) -> PathBuf {
    engine_dir.join("log")
}

#[derive(Clone, Debug)]
pub struct Log {
    pub kind: LogKind,
    pub group_commit: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogKind {
    Embedded,
    Kafka(Kafka),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kafka {
    pub brokers: String,
    /// `None`: three copies where there are three brokers, else one.
    pub replication: Option<u16>,
    /// librdkafka's own settings.
    pub properties: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Gateway {
    pub listen: SocketAddr,
    pub secret: Secret,
    /// Origins beside the page's own host.
    pub allowed_origins: Vec<String>,
    pub ping: Duration,
}

#[derive(Clone, Debug)]
pub struct Models {
    pub churn: Option<PathBuf>,
}

/// The key that tokens are signed with. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A shorter key can be guessed from one token.
pub const SECRET_BYTES_MIN: usize = 16;

impl Secret {
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        match text.len() {
            0 => Err("it is empty".to_owned()),
            n if n < SECRET_BYTES_MIN => Err(format!("it has {n} bytes, expected at least {SECRET_BYTES_MIN}")),
            _ => Ok(Self(text)),
        }
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{path}`: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{place}: {message}")]
    Toml { place: Place, message: String },
    #[error("{place}: unknown key `{key}`{}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey { place: Place, key: String, nearest: Option<String> },
    #[error("{place}: `{key}` is `{value}`, expected {expected}")]
    Value { place: Place, key: String, value: String, expected: String },
    #[error("{place}: `{key}` is missing: {about}")]
    Missing { place: Place, key: &'static str, about: &'static str },
    #[error("{place}: `gateway.secret`: {reason}")]
    Secret { place: Place, reason: String },
}

impl ConfigError {
    /// What a user can do about it, where that is one thing.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some("a commented example is deploy/headend.toml".to_owned()),
            Self::Missing { key, .. } => Some(format!("or set {}", settings::env_name(key))),
            Self::Secret { .. } => Some("make one with: openssl rand -hex 32".to_owned()),
            Self::UnknownKey { .. } => Some("all settings: headend check --settings".to_owned()),
            Self::Toml { .. } | Self::Value { .. } => None,
        }
    }
}

impl Config {
    /// Reads a file, with the environment of this process over it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text, |name| std::env::var(name).ok())
    }

    /// Parses a file's text; `env` answers for the environment.
    pub fn parse(path: &Path, text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::build(&Values::of_file(path, text, env)?)
    }

    /// A configuration made by the program itself: `("engine.dir", "…")` over the defaults, nothing from outside.
    pub fn with(pairs: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::build(&Values::of_pairs(pairs)?)
    }

    fn build(v: &Values) -> Result<Self, ConfigError> {
        Ok(Self {
            engine: Engine {
                dir: v.path("engine.dir")?,
                job: v.path("engine.job")?,
                partitions: v.number("engine.partitions", 1, 1024)?,
                owner: v.text("engine.owner")?.to_owned(),
                snapshot_every: v.number("engine.snapshot_every", 1, u64::MAX)?,
                snapshot_interval: v.duration("engine.snapshot_interval")?,
                upkeep_interval: v.duration("engine.upkeep_interval")?,
                cut_rows_max: v.number("engine.cut_rows_max", 1, 65_536)?,
                cut_min: Duration::from_millis(v.number("engine.cut_min_ms", 0, 60_000)?),
                inflight: v.number("engine.inflight", 1, 64)?,
                threads: threads(v)?,
            },
            log: Log { kind: log_kind(v)?, group_commit: Duration::from_millis(v.number("log.group_commit_ms", 0, 1000)?) },
            gateway: Gateway {
                listen: v.parsed("gateway.listen", Kind::Address)?,
                secret: secret(v)?,
                allowed_origins: v.list("gateway.allowed_origins"),
                ping: v.duration("gateway.ping")?,
            },
            models: Models { churn: v.optional_path("models.churn") },
        })
    }

    /// The values in force, for `headend check --json`; the secret is not among them.
    pub fn to_json(&self) -> serde_json::Value {
        let (e, g) = (&self.engine, &self.gateway);
        let (kind, brokers) = match &self.log.kind {
            LogKind::Embedded => ("embedded", None),
            LogKind::Kafka(kafka) => ("kafka", Some(&kafka.brokers)),
        };
        serde_json::json!({
            "engine": {"dir": e.dir, "job": e.job, "partitions": e.partitions, "owner": e.owner, "snapshot_every": e.snapshot_every, "snapshot_interval_ms": e.snapshot_interval.as_millis() as u64, "upkeep_interval_ms": e.upkeep_interval.as_millis() as u64,
                "cut_rows_max": e.cut_rows_max, "cut_min_ms": e.cut_min.as_millis() as u64, "inflight": e.inflight, "threads": e.threads},
            "log": {"kind": kind, "brokers": brokers, "group_commit_ms": self.log.group_commit.as_millis() as u64},
            "gateway": {"listen": g.listen, "allowed_origins": g.allowed_origins, "ping_ms": g.ping.as_millis() as u64},
            "models": {"churn": self.models.churn},
        })
    }
}

/// The key by which `headend token` signs: from a configuration that may lack a job.
pub fn load_secret(path: &Path) -> Result<Secret, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    secret(&Values::of_file(path, &text, |name| std::env::var(name).ok())?)
}

fn threads(v: &Values) -> Result<usize, ConfigError> {
    match v.text("engine.threads")? {
        "auto" => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        _ => v.number("engine.threads", 1, 1024),
    }
}

fn log_kind(v: &Values) -> Result<LogKind, ConfigError> {
    match v.text("log.kind")? {
        "embedded" => Ok(LogKind::Embedded),
        "kafka" => Ok(LogKind::Kafka(kafka(v)?)),
        _ => Err(v.refused("log.kind", "`embedded` or `kafka`")),
    }
}

fn kafka(v: &Values) -> Result<Kafka, ConfigError> {
    let properties = match v.optional_path("log.properties") {
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
            ingest::kafka::parse_properties(&text)
                .map_err(|line| ConfigError::Toml { place: Place::File { path, line }, message: "expected `name=value`".to_owned() })?
        }
        None => Vec::new(),
    };
    let replication = match v.text("log.replication")? {
        "auto" => None,
        _ => Some(v.number("log.replication", 1, 9)?),
    };
    Ok(Kafka { brokers: v.text("log.brokers")?.to_owned(), replication, properties })
}

fn secret(v: &Values) -> Result<Secret, ConfigError> {
    let place = v.place("gateway.secret");
    let reason = |reason: String| ConfigError::Secret { place: place.clone(), reason };
    match (v.given("gateway.secret"), v.optional_path("gateway.secret_file")) {
        (Some(_), Some(_)) => Err(reason("both `secret` and `secret_file` are given".to_owned())),
        (Some(text), None) => Secret::new(text).map_err(reason),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
            Secret::new(text.trim()).map_err(|r| reason(format!("`{}`: {r}", path.display())))
        }
        (None, None) => Err(reason("neither `secret` nor `secret_file` is given".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("etc/headend.toml"), text, |_| None)
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn defaults_stand_and_paths_are_relative_to_the_file() {
        let c = parse(&format!("[engine]\njob = \"jobs/a.sql\"\n[gateway]\nsecret = \"{SECRET}\"")).unwrap();
        assert_eq!(c.engine.job, Path::new("etc/jobs/a.sql"));
        assert_eq!((c.engine.cut_rows_max, c.engine.cut_min, c.engine.inflight), (65_536, Duration::from_millis(2), 4));
        assert_eq!(c.gateway.listen, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(format!("{:?}", c.gateway.secret), "Secret(…)");
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest_name() {
        let message = refused("[engine]\njob = \"a.sql\"\ncut_row_max = 5\n");
        assert_eq!(message, "etc/headend.toml:3: unknown key `engine.cut_row_max`, did you mean `engine.cut_rows_max`?");
        assert_eq!(refused("[engin]\n"), "etc/headend.toml:1: unknown key `engin`, did you mean `engine`?");
        assert_eq!(refused("\nzzzzzzzz = 1"), "etc/headend.toml:2: unknown key `zzzzzzzz`");
    }

    #[test]
    fn a_wrong_value_is_refused_with_line_and_what_was_expected() {
        assert_eq!(refused("[engine]\njob = \"a\"\npartitions = 0"), "etc/headend.toml:3: `engine.partitions` is `0`, expected a whole number from 1 to 1024");
        assert_eq!(
            refused("[engine]\njob = \"a\"\nsnapshot_interval = \"soon\""),
            "etc/headend.toml:3: `engine.snapshot_interval` is `soon`, expected a time such as `500ms`, `10s` or `5m`"
        );
        assert!(refused("[engine\n").starts_with("etc/headend.toml:1: "));
        assert!(refused("[gateway]\nsecret = \"0123456789abcdef\"").contains("`engine.job` is missing"));
    }

    #[test]
    fn the_environment_stands_above_the_file() {
        let text = format!("[engine]\njob = \"a.sql\"\npartitions = 2\n[gateway]\nsecret = \"{SECRET}\"");
        let env = |name: &str| match name {
            "HEADEND_ENGINE_PARTITIONS" => Some("8".to_owned()),
            "HEADEND_GATEWAY_ALLOWED_ORIGINS" => Some("https://a.example, https://b.example".to_owned()),
            _ => None,
        };
        let c = Config::parse(Path::new("headend.toml"), &text, env).unwrap();
        assert_eq!(c.engine.partitions, 8);
        assert_eq!(c.gateway.allowed_origins, ["https://a.example", "https://b.example"]);
        let wrong = Config::parse(Path::new("headend.toml"), &text, |n| (n == "HEADEND_ENGINE_INFLIGHT").then(|| "many".to_owned()));
        assert_eq!(wrong.unwrap_err().to_string(), "HEADEND_ENGINE_INFLIGHT: `engine.inflight` is `many`, expected a whole number from 1 to 64");
    }

    #[test]
    fn an_empty_or_short_secret_is_refused() {
        for (line, reason) in [("secret = \"\"", "it is empty"), ("secret = \"short\"", "it has 5 bytes"), ("ping = \"25s\"", "neither `secret` nor")] {
            let message = refused(&format!("[engine]\njob = \"a.sql\"\n[gateway]\n{line}"));
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn the_example_that_is_shipped_is_valid_and_names_every_setting() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/headend.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        Config::parse(&path, &text, |n| (n == "HEADEND_GATEWAY_SECRET").then(|| SECRET.to_owned())).unwrap();
        for s in settings::SETTINGS {
            assert!(text.contains(&format!("{} =", s.key)), "`{}.{}` is not in the example", s.section, s.key);
        }
    }
}
