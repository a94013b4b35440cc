//! The command line: every flag with its own documentation, every command with examples.
//!
//! It only parses. What a command does stands in `commands`, `import`, `engine`, `try_job` and `demo`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

mod examples;

/// Churn risk, anomalies and demand of a broadband operator, kept up to date as the events arrive.
#[derive(Debug, Parser)]
#[command(name = "headend", version, after_help = examples::TOP, max_term_width = 110)]
pub struct Cli {
    /// What is logged to standard error: `error`, `warn`, `info`, `debug`, or directives such as `info,ingest=debug`.
    #[arg(long, global = true, env = "HEADEND_LOG", value_name = "LEVEL", help_heading = "Logging")]
    pub log: Option<String>,
    /// How it is logged.
    #[arg(long, global = true, env = "HEADEND_LOG_STYLE", value_name = "STYLE", default_value = "text", help_heading = "Logging")]
    pub log_style: LogStyle,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogStyle {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the engine: log, jobs, rooms, gateway and sinks in one process.
    #[command(after_help = examples::RUN)]
    Run(RunArgs),
    /// Run a job file over files, through the very same chain, and print a view.
    #[command(name = "try", after_help = examples::TRY)]
    Try(TryArgs),
    /// An operator with 2,000 subscribers and a story, live in the browser.
    #[command(after_help = examples::DEMO)]
    Demo(DemoArgs),
    /// Bring a CSV or JSON Lines file (.gz too) into the log as events.
    #[command(after_help = examples::IMPORT)]
    Import(ImportArgs),
    /// Create or check the topics that the job and the events need.
    #[command(subcommand, after_help = examples::TOPICS)]
    Topics(TopicsCommand),
    /// Show who works on what: owner, lag, watermark, epoch, size of the state.
    #[command(after_help = examples::TASKS)]
    Tasks(TasksArgs),
    /// Give offsets of a topic up that the log has lost, so that the task which needs them can go on.
    #[command(after_help = examples::SKIP)]
    Skip(SkipArgs),
    /// Check the configuration and the job, and touch nothing.
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Print the plan of a job: sources, tasks, keys, windows, state, outputs.
    #[command(after_help = examples::EXPLAIN)]
    Explain(ExplainArgs),
    /// Print the fields of an event type, or the list of types.
    #[command(after_help = examples::SCHEMA)]
    Schema(SchemaArgs),
    /// Mint a token for the gateway.
    #[command(after_help = examples::TOKEN)]
    Token(TokenArgs),
}

#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "headend.toml")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Build a changed job out of the log from its beginning, beside the one that serves until it has caught up.
    #[arg(long)]
    pub from_beginning: bool,
}

#[derive(Debug, Args)]
pub struct TryArgs {
    /// The job file.
    #[arg(value_name = "JOB.sql")]
    pub job: PathBuf,
    /// Rows of a source: its name and one or more files, read one after another.
    #[arg(long, value_name = "NAME=FILE", num_args = 1.., required = true)]
    pub input: Vec<Named>,
    /// Maps the rows of a source: a `SELECT … FROM input`.
    #[arg(long, value_name = "NAME=FILE.sql", num_args = 1..)]
    pub mapping: Vec<Named>,
    /// The view to print.
    #[arg(long, value_name = "VIEW")]
    pub output: String,
    /// Partitions of every input, and so the number of tasks.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: u32,
    /// The most rows that one epoch takes.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub cut_rows: u32,
    /// Drop every task without warning each N epochs, and recover it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub crash_every: Option<u32>,
    /// Print only the rows that stand at the end.
    #[arg(long)]
    pub r#final: bool,
    /// The time at which the log appended the rows (RFC 3339); without it, the present.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub now: Option<i64>,
    /// Write the counts as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// The churn model that `churn_score` uses.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after this time; without it, at Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Port of the page on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Where the log and the snapshots are kept; without it, a folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The same seed makes the same operator, past and story.
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Live events a second.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Use a Kafka that holds no events yet as the log (`scripts/kafka start`).
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Write counts and latencies as JSON at the end.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// CSV with a header, or JSON Lines; gzip is recognised by its first bytes.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The event type that the rows become (`headend schema` lists them).
    #[arg(long, value_name = "EVENT")]
    pub event: String,
    /// Maps the rows to the event's fields: a `SELECT … FROM input`. Without it columns are taken by name.
    #[arg(long, value_name = "FILE.sql")]
    pub mapping: Option<PathBuf>,
    /// Tenant of rows that name none.
    #[arg(long, value_name = "TENANT", default_value = "default")]
    pub tenant: String,
    /// Replay in event time, this many times faster than it happened; without it, as fast as the log takes it.
    #[arg(long, value_name = "FACTOR", value_parser = parse_factor)]
    pub speed: Option<f64>,
    /// Mark the end of the source in every partition, so that every window that has a row closes.
    #[arg(long)]
    pub close: bool,
    /// Start at this line of the file (the header of a CSV file is line 1).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub from_line: u64,
    /// Where rows that cannot be taken are written; without it `<FILE>.errors.jsonl` in the current folder.
    #[arg(long, value_name = "FILE")]
    pub errors: Option<PathBuf>,
    /// Write straight into the log of this folder (`engine.dir`); no engine may be running on it.
    #[arg(long, value_name = "DIR", conflicts_with = "to", required_unless_present_any = ["to", "config"])]
    pub dir: Option<PathBuf>,
    /// Send to a running engine.
    #[arg(long, value_name = "http://HOST:PORT", value_parser = parse_address)]
    pub to: Option<String>,
    /// Bearer token for `--to`, where the engine asks for one.
    #[arg(long, env = "HEADEND_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Partitions of the topic, when the folder has none yet and no configuration is given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: Option<u32>,
    /// Takes the folder and the number of partitions from a configuration file.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Create what is missing; what exists is left as it is.
    #[command(after_help = examples::TOPICS)]
    Apply {
        #[command(flatten)]
        config: ConfigArg,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Compare what is there with what the job and the events need; 78 when something does not fit.
    #[command(after_help = examples::TOPICS)]
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct TasksArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Print the tasks as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SkipArgs {
    /// The partition whose offsets are gone, such as `usage.v1/2`.
    #[arg(value_name = "TOPIC/PARTITION")]
    pub input: String,
    #[command(flatten)]
    pub config: ConfigArg,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// Print the table of all settings instead.
    #[arg(long)]
    pub settings: bool,
    /// Print the values in force as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The job file.
    #[arg(value_name = "FILE", required_unless_present = "why")]
    pub file: Option<PathBuf>,
    /// Ask a running engine why nothing comes out of this view.
    #[arg(long, value_name = "VIEW", conflicts_with = "file")]
    pub why: Option<String>,
    /// The running engine; several, where several processes share the tasks.
    #[arg(long, value_name = "http://HOST:PORT", default_value = "http://127.0.0.1:8080", value_parser = parse_address, requires = "why")]
    pub at: Vec<String>,
    /// Print the plan as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The event type; without it, all are listed.
    #[arg(value_name = "EVENT")]
    pub event: Option<String>,
    /// JSON Schema of the payload.
    #[arg(long, group = "form", requires = "event")]
    pub json: bool,
    /// The `CREATE SOURCE` or `CREATE TABLE` statement of a job.
    #[arg(long, group = "form", requires = "event")]
    pub sql: bool,
    /// One event as JSON.
    #[arg(long, group = "form", requires = "event")]
    pub sample: bool,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    /// The tenant whose rooms the token opens.
    #[arg(long, value_name = "TENANT")]
    pub tenant: String,
    /// The role: which of the tenant's rooms.
    #[arg(long, value_name = "ROLE")]
    pub role: TokenRole,
    /// The subscriber, for the role `subscriber`.
    #[arg(long, value_name = "SUBSCRIBER", required_if_eq("role", "subscriber"))]
    pub subscriber: Option<String>,
    /// How long the token is good.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    pub ttl: Duration,
    /// Print token and expiry as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    /// The room of one subscriber.
    Subscriber,
    /// All rooms of the tenant's business.
    Admin,
    /// The rooms of the tenant's network.
    Noc,
}

/// `NAME=FILE` of `--input` and `--mapping`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub file: PathBuf,
}

impl FromStr for Named {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok(Self { name: name.to_owned(), file: file.into() }),
            _ => Err("expected NAME=FILE".to_owned()),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.file.display())
    }
}

fn parse_time(text: &str) -> Result<i64, String> {
    schemas::clock::parse_rfc3339(text).map_err(|_| "expected an RFC 3339 time such as 2026-01-31T12:00:00Z".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::config::units::duration(text)
}

fn parse_address(text: &str) -> Result<String, String> {
    let address = text.trim_end_matches('/');
    if address.starts_with("http://") { Ok(address.to_owned()) } else { Err("expected an address such as http://127.0.0.1:8080".to_owned()) }
}

fn parse_factor(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|f: &f64| f.is_finite() && *f > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_examples() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            let shown = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(shown.contains("headend "), "`{}` has no example", command.get_name());
        }
    }

    #[test]
    fn try_takes_several_files_for_one_source() {
        let line = "headend try j.sql --input payment=a.csv payment=b.csv --output v --cut-rows 97 --now 2026-01-31T12:00:00Z --final";
        let Ok(Cli { command: Command::Try(args), .. }) = Cli::try_parse_from(line.split(' ')) else { panic!("does not parse: {line}") };
        assert_eq!(args.input.iter().map(ToString::to_string).collect::<Vec<_>>(), ["payment=a.csv", "payment=b.csv"]);
        assert_eq!((args.cut_rows, args.now, args.r#final), (97, Some(1_769_860_800_000_000), true));
    }

    #[test]
    fn a_folder_and_an_address_exclude_each_other() {
        let both = "headend import f.csv --event payment --dir d --to http://127.0.0.1:1";
        assert!(Cli::try_parse_from(both.split(' ')).is_err());
    }
}
