//! The rooms as this process serves them: from their newest snapshot, then along the room task's epochs.
//!
//! Every process follows the same chain, so all of them serve the same offsets. Whoever owns the room task writes the snapshots, which
//! are what a gateway starts from when the first epochs are deleted.

use crate::engine::{
    chain::{ChainError, ChainFollower, EPOCHS_AT_ONCE, is_on_chain},
    upkeep::{rooms_snapshots, rooms_snapshots_group},
};
use anyhow::{Context, ensure};
use ingest::log::Log;
use object_store::ObjectStore;
use schemas::{AcceptedEpoch, ChainPosition, RoomMessage, RoomPosition, Versions};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use stream_jobs::{
    rooms::rooms_group,
    snapshot::{Manifest, SnapshotStore},
    state::{Pieces, StateError},
    task::epoch_topic,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use ws_gateway::{FrozenRoom, Hub, HubLimits, ROOMS_CHECK, Readiness, RoomSnapshot};

/// How long the rooms' first record is waited for. Rooms that open before it get their epoch id with their first message, and
/// whoever had subscribed is told to subscribe again.
const FIRST_EPOCH_WAIT: Duration = Duration::from_secs(5);
const END_WAIT: Duration = Duration::from_millis(500);
const SNAPSHOTS_KEPT: usize = 2;
/// Snapshots take at most one part in so many of the time, however many rooms there are.
const SNAPSHOT_SHARE: u32 = 20;
const MESSAGES_A_FILE: usize = 50_000;
const PART: &str = "rooms";

pub struct ServedRooms {
    pub hub: Hub,
    follower: ChainFollower,
    /// The epoch id that rooms of this chain have: the id of its first record.
    epoch_id: String,
    group: String,
    snapshots: SnapshotStore,
    /// The name by which this process owns tasks.
    owner: String,
    interval: Duration,
    caught_up: CancellationToken,
}

impl ServedRooms {
    pub async fn open(log: &Arc<dyn Log>, snapshots: &Arc<dyn ObjectStore>, job: &str, owner: &str, interval: Duration) -> anyhow::Result<Self> {
        let topic = epoch_topic(&rooms_group(job));
        let store = rooms_snapshots(snapshots, job);
        let (hub, epoch_id, position) = match newest(&store, log, &topic).await? {
            Some((manifest, epoch_id, rooms)) => {
                let hub = Hub::new(epoch_id.clone(), HubLimits::default());
                rooms.iter().try_for_each(|room| hub.restore(room))?;
                (hub, epoch_id, manifest.position)
            }
            None => {
                let start = log.start(&topic, 0).await?;
                ensure!(
                    start == 0,
                    "the epochs of the rooms before `{topic}/0@{start}` are deleted and no snapshot stands for them: bring the folder `snapshots` back"
                );
                let epoch_id = first_epoch(log, &topic).await;
                (Hub::new(epoch_id.clone(), HubLimits::default()), epoch_id, ChainPosition::default())
            }
        };
        let follower = ChainFollower::new(log, &topic, 0, position)?;
        Ok(Self {
            hub,
            follower,
            epoch_id,
            group: rooms_snapshots_group(job),
            snapshots: store,
            owner: owner.to_owned(),
            interval,
            caught_up: CancellationToken::new(),
        })
    }

    /// Cancelled when the end of the chain was reached for the first time.
    pub fn caught_up(&self) -> CancellationToken {
        self.caught_up.clone()
    }

    /// Until `stop`. The rooms are ready when the end of the chain was reached once.
    pub async fn follow(mut self, readiness: Readiness, stop: CancellationToken) -> anyhow::Result<()> {
        let mut writer = SnapshotWriter::new(self.snapshots.clone(), self.interval, self.follower.position());
        loop {
            let (epochs, caught_up) = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                epochs = self.follower.next_epochs(EPOCHS_AT_ONCE, END_WAIT) => match epochs {
                    Err(e) if e.may_pass() => {
                        warn!(error = %e, "the rooms' epochs cannot be read, trying again");
                        tokio::time::sleep(END_WAIT).await;
                        continue;
                    }
                    epochs => epochs?,
                },
            };
            epochs.iter().try_for_each(|epoch| self.apply(epoch))?;
            if caught_up {
                readiness.set_ready(ROOMS_CHECK);
                self.caught_up.cancel();
            }
            if epochs.last().is_some_and(|e| e.record.header.owner == self.owner) && writer.is_due() {
                let manifest = Manifest {
                    group: self.group.clone(),
                    task: 0,
                    position: self.follower.position(),
                    inputs: Vec::new(),
                    versions: Versions::default(),
                    parts: Vec::new(),
                };
                writer.write(manifest, self.epoch_id.clone(), self.hub.freeze());
            }
        }
    }

    fn apply(&mut self, epoch: &AcceptedEpoch) -> anyhow::Result<()> {
        if self.epoch_id.is_empty() {
            self.epoch_id = epoch.record.header.id.to_string();
        }
        for output in &epoch.record.outputs {
            self.hub.apply(&self.epoch_id, &RoomMessage::from_batch(&output.batch)?)?;
        }
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

/// The newest snapshot that verifies and stands on the chain, with the rooms' epoch id.
async fn newest(store: &SnapshotStore, log: &Arc<dyn Log>, topic: &str) -> anyhow::Result<Option<(Manifest, String, Vec<RoomSnapshot>)>> {
    for path in store.list().await? {
        match store.read(&path).await {
            Ok((manifest, mut parts)) if is_on_chain(log, topic, 0, &manifest.position).await? => {
                let pieces = parts.remove(PART).with_context(|| format!("`{path}` holds no rooms"))?;
                let epoch_id = pieces.meta["epoch"].as_str().unwrap_or_default().to_owned();
                return Ok(Some((manifest, epoch_id, rooms_of(pieces)?)));
            }
            Ok((manifest, _)) => warn!(epoch = manifest.position.epoch, "snapshot of the rooms is not on the accepted chain, passed over"),
            Err(error) => warn!(%path, %error, "snapshot of the rooms is not read, passed over"),
        }
    }
    Ok(None)
}

fn rooms_of(mut pieces: Pieces) -> anyhow::Result<Vec<RoomSnapshot>> {
    let mut rooms = Vec::new();
    for batch in pieces.take_all("positions") {
        rooms.extend(RoomPosition::from_batch(&batch)?.into_iter().map(|position| RoomSnapshot { position, messages: Vec::new() }));
    }
    let places: HashMap<String, usize> = rooms.iter().enumerate().map(|(place, r)| (r.position.room.clone(), place)).collect();
    for batch in pieces.take_all("messages") {
        for message in RoomMessage::from_batch(&batch)? {
            let place = *places.get(&message.room).with_context(|| format!("room `{}` has messages and no position", message.room))?;
            rooms[place].messages.push(message);
        }
    }
    Ok(rooms)
}

fn pieces_of(epoch_id: &str, rooms: &[FrozenRoom]) -> Result<Pieces, StateError> {
    let (mut positions, mut messages, mut batches) = (Vec::with_capacity(rooms.len()), Vec::new(), Vec::new());
    for room in rooms {
        let RoomSnapshot { position, messages: of_room } = room.snapshot().map_err(StateError::Meta)?;
        positions.push(position);
        messages.extend(of_room);
        if messages.len() >= MESSAGES_A_FILE {
            batches.push(("messages".to_owned(), RoomMessage::to_batch(&std::mem::take(&mut messages))?));
        }
    }
    batches.push(("messages".to_owned(), RoomMessage::to_batch(&messages)?));
    batches.push(("positions".to_owned(), RoomPosition::to_batch(&positions)?));
    Ok(Pieces { meta: json!({"epoch": epoch_id}), batches })
}

/// Writes snapshots in the background, one at a time.
struct SnapshotWriter {
    store: SnapshotStore,
    interval: Duration,
    last_epoch: u64,
    /// `None` while one is being written.
    due_at: Arc<Mutex<Option<Instant>>>,
}

impl SnapshotWriter {
    fn new(store: SnapshotStore, interval: Duration, last: ChainPosition) -> Self {
        let due_at = Instant::now().checked_add(interval);
        Self { store, interval, last_epoch: last.epoch, due_at: Arc::new(Mutex::new(due_at)) }
    }

    fn is_due(&self) -> bool {
        self.due_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| Instant::now() >= at)
    }

    fn write(&mut self, manifest: Manifest, epoch_id: String, rooms: Vec<FrozenRoom>) {
        let epoch = manifest.position.epoch;
        if std::mem::replace(&mut self.last_epoch, epoch) == epoch {
            return;
        }
        *self.due_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (store, runtime, interval, due_at) = (self.store.clone(), tokio::runtime::Handle::current(), self.interval, Arc::clone(&self.due_at));
        // Whoever stops does not wait for it: a snapshot without its manifest does not exist.
        tokio::task::spawn_blocking(move || {
            let (started, count) = (Instant::now(), rooms.len());
            let frozen = Box::new(move || pieces_of(&epoch_id, &rooms));
            let written = runtime.block_on(async {
                store.write(manifest, vec![(PART.to_owned(), frozen)]).await?;
                store.prune(SNAPSHOTS_KEPT).await
            });
            let took = started.elapsed();
            match written {
                Ok(()) => debug!(epoch, rooms = count, seconds = took.as_secs_f64(), "rooms snapshotted"),
                Err(error) => warn!(epoch, %error, "snapshot of the rooms was not written, their epochs are kept"),
            }
            *due_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + interval.max(took * SNAPSHOT_SHARE));
        });
    }
}
