//! The commands: one file each, from arguments to text on standard output.

pub mod check;
pub mod demo;
pub mod explain;
pub mod import;
mod rebuild;
pub mod run;
pub mod schema;
pub mod skip;
pub mod tasks;
pub mod token;
pub mod topics;
pub mod r#try;

use crate::engine::EngineConfig;
use anyhow::Context;
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use stream_jobs::{
    plan::Job,
    sql::{CHURN_MODEL, FunctionContext, SqlError, plan_job},
};

/// A job file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("cannot read job `{file}`: {source}")]
    Unreadable { file: PathBuf, source: std::io::Error },
    // Not a source: its own text would say line, column and message a second time.
    #[error("`{file}`:{}:{}: {}", fault.line, fault.column, fault.message)]
    Sql { file: PathBuf, fault: Box<SqlError> },
    #[error("model `{file}`: {source}")]
    Model { file: PathBuf, source: models::ModelError },
}

impl JobError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Sql { fault, .. } => fault.hint.clone(),
            Self::Unreadable { .. } | Self::Model { .. } => None,
        }
    }
}

/// Reads and plans a job; it is called what its file is called.
pub fn plan_file(file: &Path, functions: &FunctionContext) -> Result<Job, JobError> {
    let text = std::fs::read_to_string(file).map_err(|source| JobError::Unreadable { file: file.to_owned(), source })?;
    plan_job(&run::job_name(file), &text, functions).map_err(|fault| JobError::Sql { file: file.to_owned(), fault: Box::new(fault) })
}

/// What a job's functions need: the churn model, where there is one.
pub fn functions(churn_model: Option<&Path>) -> Result<FunctionContext, JobError> {
    let mut context = FunctionContext::default();
    if let Some(file) = churn_model {
        let model = models::ChurnModel::load(file).map_err(|source| JobError::Model { file: file.to_owned(), source })?;
        context.models.insert(CHURN_MODEL.to_owned(), Arc::new(model));
    }
    Ok(context)
}

/// An engine's configuration with the job and the model of these files, both checked.
pub fn engine_job(job: &Path, churn_model: Option<&Path>) -> Result<EngineConfig, JobError> {
    let functions = functions(churn_model)?;
    let name = plan_file(job, &functions)?.name;
    let sql = std::fs::read_to_string(job).map_err(|source| JobError::Unreadable { file: job.to_owned(), source })?;
    Ok(EngineConfig { models: functions.models, ..EngineConfig::new(name, sql) })
}

/// Writes `text` to standard output, with a line end.
pub fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}")
}
