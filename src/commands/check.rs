//! `headend check`: the configuration, the model and the job as `run` would take them. Touches nothing.

use crate::{
    cli::CheckArgs,
    config::{Config, settings},
};

pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
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
    super::print(format!("`{}` is right: job `{}` with {counts}", path.display(), job.name))
}
