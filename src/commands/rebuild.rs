//! `headend run --from-beginning`: the changed job is built out of the log beside the one that serves, and then takes its place.
//!
//! A build is a job of its own: its epoch topics, snapshots and cursors of sinks have its number in their names, so nothing of the build before
//! is touched, and it can be gone back to. Which one serves is what the newest file under `builds/<job>` in the folder of the engine says.

use crate::{
    config::Config,
    engine::{Engine, EngineConfig, versions::JobHistory},
    service::Service,
};
use anyhow::Context;
use object_store::{ObjectStore, local::LocalFileSystem};
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How often a build is asked whether it has caught up.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// The name under which a build of a job runs; the first has the job's own.
pub fn name_of(job: &str, build: u64) -> String {
    if build == 1 { job.to_owned() } else { format!("{job}.build{build}") }
}

/// The build of a job that serves.
pub fn serving(dir: &Path, job: &str) -> io::Result<u64> {
    let entries = match std::fs::read_dir(dir.join("builds").join(job)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(1),
        Err(e) => return Err(e),
    };
    let mut newest = 1;
    for entry in entries {
        newest = newest.max(entry?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(1));
    }
    Ok(newest)
}

fn serve_from_now_on(dir: &Path, job: &str, build: u64) -> io::Result<()> {
    let folder = dir.join("builds").join(job);
    std::fs::create_dir_all(&folder)?;
    std::fs::File::create_new(folder.join(build.to_string()))?.sync_all()?;
    std::fs::File::open(&folder)?.sync_all()
}

/// A build that is ready to serve.
pub struct Built {
    pub engine: EngineConfig,
    pub listener: TcpListener,
    /// The address was printed when the build before served there.
    pub is_told: bool,
}

/// Builds the job anew while the one before serves, until both have read the same; nothing when `stop` came first.
pub async fn build(
    config: &Config,
    engine: EngineConfig,
    log: &Arc<dyn ingest::Log>,
    listener: TcpListener,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Built>> {
    let dir = &config.engine.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(dir).with_context(|| format!("cannot use `{}` for snapshots", dir.display()))?);
    let job = super::run::job_name(&config.engine.job);
    let history = JobHistory::known(&engine, store.as_ref()).await?;
    let Some(before) = history.current() else {
        info!(job, "nothing has run of this job yet: it begins with the log");
        return Ok(Some(Built { engine, listener, is_told: false }));
    };
    let next = next_build(&engine, &job, store.as_ref()).await?;
    info!(job, build = next.build, "building it from the beginning of the log, beside the one that serves");
    let old_stop = stop.child_token();
    let old = Service::start(before.config.clone(), Arc::clone(log), dir, listener, super::run::gateway_config(config), old_stop.clone()).await?;
    super::print(format!("headend runs on http://{}", old.address))?;
    let address = old.address;
    let new_stop = stop.child_token();
    // Sinks and upkeep begin when it serves.
    let beside = EngineConfig { sink_dir: None, upkeep_interval: None, ..next.clone() };
    let new = Engine::start(beside, Arc::clone(log), store, new_stop.clone()).await?;
    let (statuses, planned, expected) = (new.statuses.clone(), Arc::clone(&new.job), next.partitions);
    let (mut old, mut new) = (tokio::spawn(old.run()), tokio::spawn(new.join()));
    let caught_up = loop {
        tokio::select! {
            () = stop.cancelled() => break false,
            // Whoever ends before its time has failed: its error is the one that is told.
            ended = &mut old => {
                new_stop.cancel();
                let other = new.await;
                ended.context("the engine broke")??;
                other.context("the engine broke")??;
                anyhow::bail!("the job that served has ended while the new one was built");
            }
            ended = &mut new => {
                old_stop.cancel();
                let other = old.await;
                ended.context("the engine broke")??;
                other.context("the engine broke")??;
                anyhow::bail!("the build has ended before its time");
            }
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        if statuses.caught_up(&planned, expected) {
            break true;
        }
    };
    new_stop.cancel();
    new.await.context("the engine broke")??;
    old_stop.cancel();
    old.await.context("the engine broke")??;
    if !caught_up {
        info!(job, build = next.build, "stopped while it was built; `headend run --from-beginning` goes on with it");
        return Ok(None);
    }
    serve_from_now_on(dir, &job, next.build).with_context(|| format!("cannot write which build of `{job}` serves"))?;
    info!(job, build = next.build, "it has read what the one before has read, and takes its place");
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on `{address}`"))?;
    Ok(Some(Built { engine: next, listener, is_told: true }))
}

/// The next number that is free, or that of a build of the same job that was stopped on its way.
async fn next_build(engine: &EngineConfig, job: &str, store: &dyn ObjectStore) -> anyhow::Result<EngineConfig> {
    for build in engine.build + 1.. {
        let next = EngineConfig { job_name: name_of(job, build), build, ..engine.clone() };
        let known = JobHistory::known(&next, store).await?;
        let (planned, _) = next.plan()?;
        if known.current().is_none() || known.is_current(&next, &planned) {
            return Ok(next);
        }
    }
    anyhow::bail!("there is no number left for a build of `{job}`")
}
