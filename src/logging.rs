//! Structured logs on standard error; standard output belongs to results.

use crate::{
    cli::{Cli, Command, LogStyle},
    exit::Usage,
};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. Long-running commands log what happens in their life, the others only what is wrong.
pub fn start(cli: &Cli) -> Result<(), Usage> {
    let default = if matches!(cli.command, Command::Run(_)) { "info" } else { "warn" };
    let directives = cli.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(directives).map_err(|e| Usage(format!("log level `{directives}`: {e}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let started = match cli.log_style {
        LogStyle::Text => builder.try_init(),
        LogStyle::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Usage(format!("logging cannot start: {e}")))
}
