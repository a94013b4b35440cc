//! The program in service: engine, gateway, door and metrics over one log. `run` and `demo` both start it.

use crate::{
    engine::{Engine, EngineConfig, EngineError, Totals},
    served_rooms::ServedRooms,
};
use anyhow::Context;
use ingest::{TopicSpec, door, log::Log};
use object_store::ObjectStore;
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::info;
use ws_gateway::{GatewayConfig, GatewayState, Hub, ROOMS_CHECK, Readiness};

/// How long clients are given to move on when the process stops.
const SHUTDOWN_PACE: Duration = Duration::from_millis(500);

pub struct Service {
    pub address: SocketAddr,
    pub totals: Arc<Totals>,
    pub hub: Hub,
    engine: JoinHandle<Result<(), EngineError>>,
    feed: JoinHandle<anyhow::Result<()>>,
    web: JoinHandle<std::io::Result<()>>,
    gateway: GatewayState,
    stop: CancellationToken,
    web_stop: CancellationToken,
}

impl Service {
    /// Starts everything, and comes back when the rooms are served; the address is taken first, so that a taken port leaves nothing
    /// behind.
    pub async fn start(
        engine: EngineConfig,
        log: Arc<dyn Log>,
        dir: &Path,
        listener: TcpListener,
        gateway: GatewayConfig,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("cannot read the listening address")?;
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let snapshots =
            Arc::new(object_store::local::LocalFileSystem::new_with_prefix(dir).with_context(|| format!("cannot use `{}` for snapshots", dir.display()))?);
        let snapshots: Arc<dyn ObjectStore> = snapshots;
        // Before the first task: what is counted without a recorder is lost.
        let metrics = ws_gateway::install_metrics();
        let (job, owner, interval) = (engine.job_name.clone(), engine.owner.clone(), engine.snapshot_interval);
        create_topics(log.as_ref(), engine.partitions).await?;
        let engine = Engine::start(engine, Arc::clone(&log), Arc::clone(&snapshots), stop.clone()).await?;
        let totals = Arc::clone(&engine.totals);
        let (planned, statuses) = (Arc::clone(&engine.job), engine.statuses.clone());
        let why = Arc::new(move |view: &str| serde_json::to_value(statuses.why(&planned, view)?).ok());
        let readiness = Readiness::default();
        readiness.set_not_ready(ROOMS_CHECK, "reading the rooms' history");
        let rooms = ServedRooms::open(&log, &snapshots, &job, &owner, interval).await?;
        let (hub, caught_up) = (rooms.hub.clone(), rooms.caught_up());
        let state = GatewayState::new(hub.clone(), gateway, readiness.clone(), metrics)?;
        state.answer_why(why);
        let feed = tokio::spawn(rooms.follow(readiness, stop.clone()));
        let web_stop = CancellationToken::new();
        let router = ws_gateway::router(state.clone()).merge(door::router(log, door::DoorLimits::default()));
        let web = tokio::spawn(ws_gateway::serve(listener, router, web_stop.clone()));
        let mut engine = tokio::spawn(engine.join());
        // Liveness is answered meanwhile. What ends before it is told by `run`.
        let engine = tokio::select! {
            () = caught_up.cancelled() => engine,
            () = stop.cancelled() => engine,
            ended = &mut engine => tokio::spawn(async move { ended.unwrap_or_else(|e| Err(EngineError::Panic(e.to_string()))) }),
        };
        info!(%address, "ready");
        Ok(Self { address, totals, hub, engine, feed, web, gateway: state, stop, web_stop })
    }

    /// The engine has ended, on purpose or not; [`Service::run`] tells which.
    pub fn has_stopped(&self) -> bool {
        self.engine.is_finished()
    }

    /// Runs until `stop` is cancelled or a part fails; then everything stops in order: door and clients, tasks, the rest.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let (mut engine, mut feed) = (None, None);
        tokio::select! {
            () = self.stop.cancelled() => {}
            ended = &mut self.engine => engine = Some(ended),
            ended = &mut self.feed => feed = Some(ended),
        }
        self.stop.cancel();
        self.gateway.shutdown(SHUTDOWN_PACE).await;
        self.web_stop.cancel();
        let served = self.web.await.context("the web server broke")?;
        // Both have ended or end now; when one failed the other may have ended first, and well.
        let engine = match engine {
            Some(ended) => ended,
            None => self.engine.await,
        };
        let feed = match feed {
            Some(ended) => ended,
            None => self.feed.await,
        };
        engine.context("the engine broke")??;
        feed.context("the rooms' reader broke")??;
        served?;
        Ok(())
    }
}

/// The topics of all events, whether a job reads them or not.
pub fn event_topics(partitions: u32) -> impl Iterator<Item = TopicSpec> {
    schemas::event::EVENT_TYPES.iter().map(move |e| TopicSpec { name: e.topic.to_owned(), partitions, compacted: e.compacted })
}

pub async fn create_topics(log: &dyn Log, partitions: u32) -> Result<(), ingest::LogError> {
    for topic in event_topics(partitions) {
        log.create_topic(&topic).await?;
    }
    Ok(())
}
