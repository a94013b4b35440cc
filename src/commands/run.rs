//! `headend run`: the engine in service, until Ctrl-C.

use crate::{
    cli::RunArgs,
    config::Config,
    engine::{EngineConfig, runner},
    service::Service,
};
use anyhow::Context;
use std::{path::Path, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use ws_gateway::GatewayConfig;

pub async fn run(args: RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let config = Config::load(&args.config.config)?;
    let engine = engine_config(&config)?;
    check_sinks(&engine, &config.engine.dir)?;
    let listener = TcpListener::bind(config.gateway.listen).await.with_context(|| format!("cannot listen on `{}`", config.gateway.listen))?;
    let log = super::topics::open_log(&config)?;
    let gateway = GatewayConfig { allowed_origins: config.gateway.allowed_origins.clone(), ping: config.gateway.ping, ..GatewayConfig::new(config.gateway.secret.expose()) };
    let started = Service::start(engine, Arc::clone(&log) as Arc<dyn ingest::Log>, &config.engine.dir, listener, gateway, stop).await;
    let ran = match started {
        Ok(service) => {
            super::print(format!("headend runs on http://{}", service.address))?;
            service.run().await
        }
        Err(e) => Err(e),
    };
    log.close().await;
    ran
}

/// The engine's part of the configuration, with its job and models read.
pub fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
    let e = &config.engine;
    let functions = super::functions(config.models.churn.as_deref())?;
    super::plan_file(&e.job, &functions)?;
    let sql = std::fs::read_to_string(&e.job).with_context(|| format!("cannot read job `{}`", e.job.display()))?;
    let name = e.job.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(EngineConfig {
        models: functions.models,
        partitions: e.partitions,
        owner: e.owner.clone(),
        rows_max: e.cut_rows_max,
        cut_min: e.cut_min,
        inflight: e.inflight,
        snapshot_every: e.snapshot_every,
        snapshot_interval: e.snapshot_interval,
        rooms: true,
        sink_dir: Some(e.dir.clone()),
        ..EngineConfig::new(name, sql)
    })
}

/// Sinks are put together once before anything is opened: a wrong option is an error of the job.
fn check_sinks(engine: &EngineConfig, dir: &Path) -> anyhow::Result<()> {
    let (job, _) = engine.plan()?;
    for sink in job.sinks.iter().filter(|s| s.connector != "room") {
        sinks::build(&runner::sink_options(sink, &job, dir)).with_context(|| format!("sink `{}`", sink.name))?;
    }
    Ok(())
}
