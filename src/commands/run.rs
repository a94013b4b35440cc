//! `headend run`: the engine in service, until Ctrl-C.

use super::rebuild::Built;
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
    // The folder goes first: who starts a second engine on it by mistake has its port taken too, and is to hear of the folder.
    let log = super::topics::open_log(&config).await?;
    let ran = serve(&config, engine, Arc::clone(&log), args.from_beginning, stop).await;
    log.close().await;
    ran
}

async fn serve(config: &Config, engine: EngineConfig, log: Arc<dyn ingest::Log>, from_beginning: bool, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.gateway.listen).await.with_context(|| format!("cannot listen on `{}`", config.gateway.listen))?;
    let built =
        if from_beginning { super::rebuild::build(config, engine, &log, listener, &stop).await? } else { Some(Built { engine, listener, is_told: false }) };
    let Some(Built { engine, listener, is_told }) = built else { return Ok(()) };
    let service = Service::start(engine, log, &config.engine.dir, listener, gateway_config(config), stop).await?;
    if !is_told {
        super::print(format!("headend runs on http://{}", service.address))?;
    }
    service.run().await
}

pub fn gateway_config(config: &Config) -> GatewayConfig {
    GatewayConfig { allowed_origins: config.gateway.allowed_origins.clone(), ping: config.gateway.ping, ..GatewayConfig::new(config.gateway.secret.expose()) }
}

/// A job is called what its file is called.
pub fn job_name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The engine's part of the configuration, with its job and models read.
pub fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
    let e = &config.engine;
    let job = job_name(&e.job);
    let build = super::rebuild::serving(&e.dir, &job).with_context(|| format!("cannot read which build of `{job}` serves in `{}`", e.dir.display()))?;
    Ok(EngineConfig {
        job_name: super::rebuild::name_of(&job, build),
        build,
        partitions: e.partitions,
        owner: e.owner.clone(),
        rows_max: e.cut_rows_max,
        cut_min: e.cut_min,
        inflight: e.inflight,
        snapshot_every: e.snapshot_every,
        snapshot_interval: e.snapshot_interval,
        upkeep_interval: Some(e.upkeep_interval),
        rooms: true,
        sink_dir: Some(e.dir.clone()),
        ..super::engine_job(&e.job, config.models.churn.as_deref())?
    })
}

/// Sinks are put together once before anything is opened: a wrong option is an error of the job.
fn check_sinks(engine: &EngineConfig, dir: &Path) -> anyhow::Result<()> {
    let (job, _) = engine.plan()?;
    for sink in job.sinks.iter().filter(|s| s.connector != "room") {
        sinks::build(&runner::sink_options(engine, sink, &job, dir)).with_context(|| format!("sink `{}`", sink.name))?;
    }
    Ok(())
}
