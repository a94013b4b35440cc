//! `headend check`: the configuration, the model and the job as `run` would take them. Touches nothing.

use crate::{
    cli::CheckArgs,
    config::{Config, settings},
    engine::versions::JobHistory,
};
use anyhow::Context;
use object_store::local::LocalFileSystem;
use stream_jobs::change::Change;

pub async fn run(args: &CheckArgs) -> anyhow::Result<()> {
    if args.settings {
        return super::print(settings::markdown().trim_end());
    }
    let path = &args.config.config;
    let config = Config::load(path)?;
    let job = super::plan_file(&config.engine.job, &super::functions(config.models.churn.as_deref())?)?;
    if args.json {
        let mut value = config.to_json();
        value["job"] = stream_jobs::sql::explain_json(&job);
        return super::print(super::pretty(&value));
    }
    let visible = job.views.iter().filter(|v| v.visible).count();
    let counts = format!("{} sources, {visible} views, {} sinks, {} alerts", job.sources.len(), job.sinks.len(), job.alerts.len());
    super::print(format!("`{}` is right: job `{}` with {counts}", path.display(), job.name))?;
    changes(&config).await
}

/// What the job at hand changes of the one that ran last, and what refuses it.
async fn changes(config: &Config) -> anyhow::Result<()> {
    let dir = &config.engine.dir;
    if !dir.exists() {
        return Ok(());
    }
    let store = LocalFileSystem::new_with_prefix(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let engine = super::run::engine_config(config)?;
    let (job, _) = engine.plan()?;
    let change = JobHistory::known(&engine, &store).await?.change(&engine, &job)?;
    for told in change.iter().flat_map(Change::told) {
        super::print(format!("changed: {told}"))?;
    }
    Ok(())
}
