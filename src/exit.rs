//! Errors become exit codes here and nowhere else; the text on standard error too.

use crate::{
    commands::JobError,
    config::ConfigError,
    engine::{TaskError, versions::ChangeError},
    import::ImportError,
};
use ingest::log::LogError;
use std::io;

/// Failed at work.
pub const FAILED: u8 = 1;
/// The command line; clap's own.
pub const USAGE: u8 = 2;
/// Try again later: a folder in use, a port taken (`EX_TEMPFAIL`).
pub const TEMPORARY: u8 = 75;
/// Configuration or SQL (`EX_CONFIG`).
pub const CONFIGURATION: u8 = 78;
/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// What the command line asked for cannot be: a name that does not exist, flags that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Ctrl-C came and the work was left in order; the text says where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Interrupted(pub String);

/// The exit code of a command's error.
pub fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(FAILED)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if cause.is::<Interrupted>() {
        return Some(INTERRUPTED);
    }
    if cause.is::<Usage>() {
        return Some(USAGE);
    }
    let configuration = cause.is::<ConfigError>()
        || cause.is::<crate::commands::topics::Misfits>()
        || cause.is::<JobError>()
        || cause.is::<stream_jobs::sql::SqlError>()
        || cause.is::<ChangeError>()
        || matches!(cause.downcast_ref(), Some(ImportError::Mapping { .. }))
        || matches!(cause.downcast_ref(), Some(LogError::PartitionsDiffer { .. } | LogError::TopicDiffers { .. } | LogError::Setting { .. }));
    if configuration {
        return Some(CONFIGURATION);
    }
    let busy = matches!(cause.downcast_ref(), Some(LogError::Locked { .. } | LogError::Unavailable { .. }))
        || cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::AddrInUse);
    busy.then_some(TEMPORARY)
}

/// `error: …` with its causes, and a second line where there is something to do about it.
pub fn text(error: &anyhow::Error) -> String {
    if error.is::<Interrupted>() {
        return error.to_string();
    }
    let mut text = String::from("error: ");
    let mut said = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        // A cause that its effect already quoted is not said twice.
        if !said.contains(&words) {
            text.push_str(if said.is_empty() { "" } else { ": " });
            text.push_str(&words);
            said.push_str(&words);
        }
    }
    if let Some(hint) = error.chain().find_map(hint) {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::AddrInUse) {
        return Some("another program listens there; choose an address with `gateway.listen`, for the demo with --port".to_owned());
    }
    if let Some(e) = cause.downcast_ref::<ConfigError>() {
        return e.hint();
    }
    if let Some(e) = cause.downcast_ref::<JobError>() {
        return e.hint();
    }
    if cause.is::<ChangeError>() {
        return Some("nothing was touched; `headend run --from-beginning` builds the job anew out of the log, while the one before goes on serving".to_owned());
    }
    if let Some(e) = cause.downcast_ref::<ImportError>() {
        return e.hint();
    }
    if let Some(TaskError::InputGone { topic, partition, .. }) = cause.downcast_ref() {
        return Some(skip_hint(topic, *partition));
    }
    match cause.downcast_ref::<LogError>()? {
        LogError::Locked { .. } => Some("is a `headend run` working on it? `headend import --to` sends to a running engine".to_owned()),
        LogError::Unavailable { .. } => Some("does Kafka run there, and may this machine reach it? `scripts/kafka start` starts one for a trial".to_owned()),
        LogError::TopicDiffers { topic, setting, wanted, .. } => Some(format!("set it: kafka-configs --alter --topic {topic} --add-config {setting}={wanted}")),
        LogError::PartitionsDiffer { topic, wanted, .. } => Some(format!(
            "keys would stand in two partitions, so a topic keeps its number: make `{topic}` anew with {wanted}, or let the job read another topic that has them"
        )),
        LogError::OffsetOutOfRange { topic, .. } if topic.starts_with("epochs.") => {
            Some("Headend deletes only what a snapshot stands for: bring the folder `snapshots` of `engine.dir` back".to_owned())
        }
        LogError::OffsetOutOfRange { topic, partition, .. } => Some(skip_hint(topic, *partition)),
        LogError::MembershipEnded { .. } => Some("another process runs under the same name: give each an `engine.owner` of its own".to_owned()),
        LogError::UnknownTopic { .. } => Some("`headend topics apply` creates what is missing".to_owned()),
        LogError::DiskFull { .. } => Some("make room, then go on: nothing that was accepted is lost".to_owned()),
        _ => None,
    }
}

/// The log has lost what a task needs: nobody but a person can decide to go on without it.
fn skip_hint(topic: &str, partition: u32) -> String {
    format!(
        "Kafka has deleted them. To go on without them, stop every `headend run` of this job and give them up: headend skip {topic}/{partition} -c headend.toml"
    )
}

/// The reader of standard output went away (`headend try … | head`): no failure of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn each_kind_of_error_has_its_exit_code_wherever_it_stands_in_the_chain() {
        let locked = anyhow::Error::from(LogError::Locked { dir: "d".to_owned() }).context("cannot open the log");
        let port = Err::<(), _>(io::Error::from(io::ErrorKind::AddrInUse)).context("cannot listen").err();
        let config = anyhow::Error::from(ConfigError::Missing { place: crate::config::Place::Built, key: "engine.job", about: "The job." });
        assert_eq!(code(&locked), TEMPORARY);
        assert_eq!(port.as_ref().map(code), Some(TEMPORARY));
        assert_eq!(code(&config), CONFIGURATION);
        assert_eq!(code(&Interrupted("stopped".to_owned()).into()), INTERRUPTED);
        assert_eq!(code(&Usage("no event type".to_owned()).into()), USAGE);
        assert_eq!(code(&anyhow::anyhow!("something")), FAILED);
    }

    #[test]
    fn the_text_names_each_cause_once_and_ends_with_the_hint() {
        let locked = anyhow::Error::from(LogError::Locked { dir: "d".to_owned() }).context("cannot open the log");
        let text = text(&locked);
        assert!(text.starts_with("error: cannot open the log: log `d` is in use by another process\nhint: "), "{text}");
    }
}
