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
    // The folder goes first: who starts a second engine on it by mistake has its port taken too, and is to hear of the folder.
    let log = super::topics::open_log(&config).await?;
    let gateway = GatewayConfig {
        allowed_origins: config.gateway.allowed_origins.clone(),
        ping: config.gateway.ping,
        ..GatewayConfig::new(config.gateway.secret.expose())
    };
    let ran = serve(&config, engine, Arc::clone(&log), gateway, stop).await;
    log.close().await;
    ran
}

async fn serve(config: &Config, engine: EngineConfig, log: Arc<dyn ingest::Log>, gateway: GatewayConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.gateway.listen).await.with_context(|| format!("cannot listen on `{}`", config.gateway.listen))?;
    let service = Service::start(engine, log, &config.engine.dir, listener, gateway, stop).await?;
    super::print(format!("headend runs on http://{}", service.address))?;
    service.run().await
}

/// The engine's part of the configuration, with its job and models read.
pub fn engine_config(config: &Config) -> anyhow::Result<EngineConfig> {
    let e = &config.engine;
    Ok(EngineConfig {
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
        sinks::build(&runner::sink_options(sink, &job, dir)).with_context(|| format!("sink `{}`", sink.name))?;
    }
    Ok(())
}
