//! The program in service: engine, gateway, door and metrics over one log. `run` and `demo` both start it.

use crate::engine::{
    Engine, EngineConfig, EngineError, Totals,
    chain::{ChainError, ChainFollower},
};
use anyhow::Context;
use ingest::{TopicSpec, door, log::Log};
use schemas::{ChainPosition, RoomMessage};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use stream_jobs::{rooms::rooms_group, task::epoch_topic};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::info;
use ws_gateway::{GatewayConfig, GatewayState, Hub, HubLimits, Readiness};

/// How long clients are given to move on when the process stops.
const SHUTDOWN_PACE: Duration = Duration::from_millis(500);
/// How long the rooms' first record is waited for. Rooms that open before it get their epoch id with their first message, and
/// whoever had subscribed is told to subscribe again.
const FIRST_EPOCH_WAIT: Duration = Duration::from_secs(5);

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
    /// Starts everything; the address is taken first, so that a taken port leaves nothing behind.
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
        let rooms_topic = epoch_topic(&rooms_group(&engine.job_name));
        create_topics(log.as_ref(), engine.partitions).await?;
        let engine = Engine::start(engine, Arc::clone(&log), snapshots, stop.clone()).await?;
        let totals = Arc::clone(&engine.totals);
        let readiness = Readiness::default();
        readiness.set_not_ready("rooms", "reading the rooms' history");
        let hub = Hub::new(first_epoch(&log, &rooms_topic).await, HubLimits::default());
        let state = GatewayState::new(hub.clone(), gateway, readiness.clone(), ws_gateway::install_metrics())?;
        let feed = tokio::spawn(feed_rooms(Arc::clone(&log), rooms_topic, hub.clone(), readiness, stop.clone()));
        let web_stop = CancellationToken::new();
        let router = ws_gateway::router(state.clone()).merge(door::router(log, door::DoorLimits::default()));
        let web = tokio::spawn(ws_gateway::serve(listener, router, web_stop.clone()));
        info!(%address, "ready");
        Ok(Self { address, totals, hub, engine: tokio::spawn(engine.join()), feed, web, gateway: state, stop, web_stop })
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

/// The rooms' epoch id: that of the first record of their chain, the claim of the room task that was just started.
async fn first_epoch(log: &Arc<dyn Log>, topic: &str) -> String {
    let first = async {
        let mut follower = ChainFollower::new(log, topic, 0, ChainPosition::default())?;
        loop {
            let (epochs, _) = follower.next_epochs(1, Duration::from_millis(100)).await?;
            if let Some(epoch) = epochs.first() {
                return Ok::<_, ChainError>(epoch.record.header.id.to_string());
            }
        }
    };
    tokio::time::timeout(FIRST_EPOCH_WAIT, first).await.ok().and_then(Result::ok).unwrap_or_default()
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

/// Follows the room tasks' epochs into the hub.
async fn feed_rooms(log: Arc<dyn Log>, topic: String, hub: Hub, readiness: Readiness, stop: CancellationToken) -> anyhow::Result<()> {
    let mut follower = ChainFollower::new(&log, &topic, 0, ChainPosition::default())?;
    let mut epoch_id = String::new();
    loop {
        let (epochs, caught_up) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            epochs = follower.next_epochs(256, Duration::from_millis(500)) => epochs?,
        };
        for epoch in epochs {
            if epoch_id.is_empty() {
                // The rooms' epoch id: that of the first record, for as long as the log holds them.
                epoch_id = epoch.record.header.id.to_string();
            }
            for output in &epoch.record.outputs {
                hub.apply(&epoch_id, &RoomMessage::from_batch(&output.batch)?)?;
            }
        }
        if caught_up {
            readiness.set_ready("rooms");
        }
    }
}
