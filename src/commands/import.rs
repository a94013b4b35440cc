//! `headend import`: from arguments to [`crate::import`], and the summary.

use crate::{
    cli::ImportArgs,
    config::{self, Config},
    exit::Interrupted,
    import::{
        self, Import, Summary,
        destination::{Destination, Door, LogTopic},
        error_file,
    },
};
use anyhow::{Context, bail};
use ingest::{EmbeddedConfig, EmbeddedLog, Log};
use schemas::event::EventType;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Partitions of a topic that `--dir` has to create, when nothing else says.
const PARTITIONS_DEFAULT: u32 = 4;

pub async fn run(args: ImportArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let event = super::schema::known(&args.event)?;
    let mapping = match &args.mapping {
        Some(file) => Some((file.clone(), std::fs::read_to_string(file).with_context(|| format!("cannot read mapping `{}`", file.display()))?)),
        None => None,
    };
    let what = Import {
        errors: args.errors.clone().unwrap_or_else(|| error_file::default_path(&args.file)),
        file: args.file.clone(),
        event,
        mapping,
        tenant: args.tenant.clone(),
        speed: args.speed,
        close: args.close,
        from_line: args.from_line,
        now_us: chrono::Utc::now().timestamp_micros(),
    };
    import::check(&what)?;
    let (destination, log) = destination(&args, event).await?;
    let done = import::import(what, &destination, &stop).await;
    if let Some(log) = log {
        log.close().await;
    }
    report(&done?, args.json)
}

/// Where the events go; the log too where it is opened here and has to be closed.
async fn destination(args: &ImportArgs, event: &EventType) -> anyhow::Result<(Destination, Option<Arc<dyn Log>>)> {
    if let Some(address) = &args.to {
        return Ok((Destination::Http(Door::new(address, event, args.token.as_deref())), None));
    }
    let config = args.config.as_deref().map(Config::load).transpose()?;
    let log: Arc<dyn Log> = match (&args.dir, &config) {
        (Some(dir), _) => {
            let dir = config::log_dir(dir);
            EmbeddedLog::open(&dir, EmbeddedConfig::default()).with_context(|| format!("cannot open the log in `{}`", dir.display()))?
        }
        (None, Some(config)) => super::topics::open_log(config).await?,
        (None, None) => bail!("no destination is given: --dir, --to or --config"),
    };
    let partitions = args.partitions.or(config.as_ref().map(|c| c.engine.partitions));
    let topic = LogTopic::open(log.clone(), event, partitions, PARTITIONS_DEFAULT).await;
    match topic {
        Ok(topic) => Ok((Destination::Log(topic), Some(log))),
        Err(e) => {
            log.close().await;
            Err(e.into())
        }
    }
}

fn report(summary: &Summary, json: bool) -> anyhow::Result<()> {
    if json {
        super::print(serde_json::to_string(summary)?)?;
    } else {
        super::print(sentence(summary))?;
    }
    if summary.stopped {
        let next = summary.last_line + 1;
        return Err(Interrupted(format!("stopped after line {}; resume with --from-line {next}", summary.last_line)).into());
    }
    if summary.accepted == 0 && summary.errors > 0 {
        bail!("no line of `{}` could be taken", summary.file.display());
    }
    Ok(())
}

fn sentence(s: &Summary) -> String {
    let filtered = if s.filtered > 0 { format!(", {} left out by the mapping", s.filtered) } else { String::new() };
    let errors = match &s.error_file {
        Some(file) => format!("{} errors (see `{}`)", s.errors, file.display()),
        None => "0 errors".to_owned(),
    };
    let rate = s.lines as f64 / s.seconds.max(1e-9);
    format!(
        "{}: {} lines, {} accepted as {}{filtered}, {errors}, {:.1} s ({rate:.0} lines/s), last line {}",
        s.file.display(),
        s.lines,
        s.accepted,
        s.event,
        s.seconds,
        s.last_line
    )
}
