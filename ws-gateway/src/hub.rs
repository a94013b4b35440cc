//! All rooms, fed by the engine and read by connections.
//!
//! A [`Hub`] is a cheap handle. Rooms lie in shards, each under a lock that is held for one message or one join and
//! never across a wait. Lock order: shard, then outbox.

use crate::{
    config::HubLimits,
    map_join::{Joined, MAP, join_map},
    protocol::{
        ALREADY_SUBSCRIBED, ErrorCode, FLAG_REJECT_UNRECOVERED, HistoryRequest, NOT_AVAILABLE, NOT_YET, SubscribeRequest, SubscribeResult, UNRECOVERABLE,
    },
    publication::Publication,
    rooms::{FrozenRoom, Member, NotInHistory, Room, RoomSnapshot, Rows, page, tenant_of},
};
use schemas::{RoomKind, RoomMessage};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

const SHARDS: usize = 64;
/// `history` with limit -1, and its most.
const HISTORY_DEFAULT: usize = 300;
const HISTORY_MAX: usize = 1_000;

#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    epoch: Arc<str>,
    limits: HubLimits,
    shards: Vec<Mutex<HashMap<Arc<str>, Room>>>,
    hasher: RandomState,
    next_room: AtomicU64,
    /// Time of the newest message of any room: the clock by which histories age.
    newest_us: AtomicI64,
}

/// What [`Hub::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub accepted: u64,
    /// Messages whose offset the room already had; they were ignored.
    pub repeated: u64,
}

/// A message that the room cannot take. The messages before it are applied, those after it are not.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("room `{room}` has a gap: expected offset {expected}, found {found}")]
    Gap { room: String, expected: u64, found: u64 },
    #[error("message `{room}@{offset}` belongs to tenant `{tenant}`, and its room to another")]
    Tenant { room: String, offset: u64, tenant: String },
    #[error("message `{room}@{offset}` is not JSON: {error}")]
    Data { room: String, offset: u64, error: serde_json::Error },
}

/// Where a room stands: the offset of its newest message (0 before the first) under its epoch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    pub epoch: Arc<str>,
    pub offset: u64,
}

impl Hub {
    /// `epoch` is what rooms without a message answer; a room with messages has the epoch they came with.
    pub fn new(epoch: String, limits: HubLimits) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let inner =
            Inner { epoch: epoch.into(), limits, shards, hasher: RandomState::new(), next_room: AtomicU64::new(1), newest_us: AtomicI64::new(i64::MIN) };
        Self { inner: Arc::new(inner) }
    }

    /// Takes messages in room order and sends each to everyone who listens. A repeat is ignored and counted. A
    /// message under another epoch starts its room again: the first offset under it is 1.
    pub fn apply(&self, epoch: &str, messages: &[RoomMessage]) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        for message in messages {
            if self.apply_one(epoch, message)? {
                applied.accepted += 1;
            } else {
                applied.repeated += 1;
            }
        }
        metrics::counter!("headend_gateway_room_messages_total").increment(applied.accepted);
        metrics::counter!("headend_gateway_room_repeats_total").increment(applied.repeated);
        Ok(applied)
    }

    fn apply_one(&self, epoch: &str, message: &RoomMessage) -> Result<bool, ApplyError> {
        check_tenant(&message.room, &message.tenant, message.offset)?;
        // Encoded before the lock is taken: it is the slow part.
        let publication = encode(message, epoch)?;
        let now_us = self.inner.newest_us.fetch_max(message.time_us, Ordering::Relaxed).max(message.time_us);
        self.with_room(&message.room, |room| {
            if &*room.epoch != epoch {
                room.reset(epoch);
            }
            match message.offset {
                found if found <= room.offset => return Ok(false),
                found if found != room.offset + 1 => return Err(ApplyError::Gap { room: message.room.clone(), expected: room.offset + 1, found }),
                _ => room.append(Arc::new(publication), message.kind, &message.tenant, &self.inner.limits, now_us),
            }
            Ok(true)
        })
    }

    /// Puts a room where a snapshot left it; [`Hub::apply`] goes on from there.
    pub fn restore(&self, snapshot: &RoomSnapshot) -> Result<(), ApplyError> {
        let position = &snapshot.position;
        check_tenant(&position.room, &position.tenant, position.offset)?;
        let publications = snapshot.messages.iter().map(|m| Ok(Arc::new(encode(m, &position.epoch)?))).collect::<Result<_, ApplyError>>()?;
        let newest_us = snapshot.messages.last().map_or(i64::MIN, |m| m.time_us);
        self.inner.newest_us.fetch_max(newest_us, Ordering::Relaxed);
        self.with_room(&position.room, |room| room.restore(position, publications));
        Ok(())
    }

    /// All rooms as they are now, by name. Between two calls of [`Hub::apply`] that is one moment of all of them.
    pub fn freeze(&self) -> Vec<FrozenRoom> {
        let mut rooms: Vec<FrozenRoom> = Vec::new();
        for shard in &self.inner.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            rooms.extend(shard.values().filter_map(Room::freeze));
        }
        rooms.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        rooms
    }

    pub fn room_position(&self, room: &str) -> Position {
        self.read_room(room, |room| Position { epoch: room.epoch.clone(), offset: room.offset })
    }

    /// Answers a subscribe command and, unless it is a page on the way, registers `member`. The place of the reply in
    /// the member's outbox is taken inside: whatever the room says next comes after it.
    pub(crate) fn join(&self, member: &Member, request: &SubscribeRequest) -> Result<(u64, Joined), ErrorCode> {
        let joined = self.with_room(&request.channel, |room| {
            room.prune(&self.inner.limits, self.inner.newest_us.load(Ordering::Relaxed));
            if room.has_member(member.connection) {
                return Err(ALREADY_SUBSCRIBED);
            }
            let joined = match request.kind {
                0 => join_stream(room, member, request, &self.inner.limits)?,
                MAP => join_map(room, member, request, &self.inner.limits)?,
                _ => return Err(NOT_AVAILABLE),
            };
            Ok((member.outbox.reserve(), joined))
        });
        if joined.is_err() {
            self.forget_if_blank(&request.channel);
        }
        joined
    }

    pub(crate) fn leave(&self, room: &str, connection: u64) {
        if let Some(room) = self.shard(room).get_mut(room) {
            room.leave(connection);
        }
        self.forget_if_blank(room);
    }

    /// Rooms are made by asking for them; without this, asking for many would fill the memory.
    fn forget_if_blank(&self, room: &str) {
        let mut shard = self.shard(room);
        if shard.get(room).is_some_and(Room::is_blank) {
            shard.remove(room);
        }
    }

    pub(crate) fn history(&self, request: &HistoryRequest) -> Result<(Position, Vec<Arc<Publication>>), ErrorCode> {
        let limit = usize::try_from(request.limit).unwrap_or(HISTORY_DEFAULT).min(HISTORY_MAX);
        self.read_room(&request.channel, |room| {
            let since = request.since.as_ref();
            if since.is_some_and(|s| !s.epoch.is_empty() && *s.epoch != *room.epoch) {
                return Err(UNRECOVERABLE);
            }
            let position = Position { epoch: room.epoch.clone(), offset: room.offset };
            let bytes = self.inner.limits.reply_bytes_max;
            let (found, _) = match (request.reverse, since) {
                _ if limit == 0 => Default::default(),
                (false, since) => page(room.history().filter(|p| p.offset > since.map_or(0, |s| s.offset)), limit, bytes),
                (true, since) => page(room.history().rev().filter(|p| p.offset < since.map_or(u64::MAX, |s| s.offset)), limit, bytes),
            };
            Ok((position, found))
        })
    }

    /// The rows of a state room, as one consistent view. `None`: the room is a stream.
    pub(crate) fn state(&self, room: &str) -> Option<(Position, Rows)> {
        self.read_room(room, |room| {
            let position = Position { epoch: room.epoch.clone(), offset: room.offset };
            (room.kind != Some(RoomKind::Stream)).then(|| (position, room.rows.clone()))
        })
    }

    fn shard(&self, room: &str) -> MutexGuard<'_, HashMap<Arc<str>, Room>> {
        let at = self.inner.hasher.hash_one(room) as usize % SHARDS;
        self.inner.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_room<R>(&self, name: &str, f: impl FnOnce(&mut Room) -> R) -> R {
        let mut shard = self.shard(name);
        if let Some(room) = shard.get_mut(name) {
            return f(room);
        }
        let name: Arc<str> = name.into();
        f(shard.entry(name.clone()).or_insert_with(|| self.blank(name)))
    }

    fn read_room<R>(&self, name: &str, f: impl FnOnce(&mut Room) -> R) -> R {
        let mut shard = self.shard(name);
        match shard.get_mut(name) {
            Some(room) => {
                room.prune(&self.inner.limits, self.inner.newest_us.load(Ordering::Relaxed));
                f(room)
            }
            None => f(&mut self.blank(name.into())),
        }
    }

    fn blank(&self, name: Arc<str>) -> Room {
        Room::new(self.inner.next_room.fetch_add(1, Ordering::Relaxed), name, self.inner.epoch.clone())
    }
}

/// Joins by offset. A recovery is whole or not at all; when it succeeds, the reply carries the offset that was asked
/// for and the client moves on by the publications. A client that is ahead is asked to come again: an answer from here would
/// take it back to what it has seen.
fn join_stream(room: &mut Room, member: &Member, request: &SubscribeRequest, limits: &HubLimits) -> Result<Joined, ErrorCode> {
    let since = room.since(&request.epoch, request.offset);
    if request.recover && since.as_ref().is_err_and(|e| *e == NotInHistory::Ahead) {
        metrics::counter!("headend_gateway_recoveries_total", "outcome" => "ahead").increment(1);
        return Err(NOT_YET);
    }
    let recovered = since.ok().filter(|_| request.recover).and_then(|missed| {
        let bytes: usize = missed.clone().map(|p| p.body().len()).sum();
        (bytes <= limits.reply_bytes_max).then(|| missed.cloned().collect::<Vec<_>>())
    });
    if request.recover {
        let outcome = if recovered.is_some() { "recovered" } else { "unrecovered" };
        metrics::counter!("headend_gateway_recoveries_total", "outcome" => outcome).increment(1);
    }
    if request.recover && recovered.is_none() && request.flag & FLAG_REJECT_UNRECOVERED != 0 {
        return Err(UNRECOVERABLE);
    }
    room.join(member);
    let offset = if recovered.is_some() { request.offset } else { room.offset };
    let result = SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: room.epoch.clone(),
        offset,
        recovered: recovered.is_some(),
        was_recovering: request.recover,
        ..SubscribeResult::default()
    };
    Ok(Joined { result, publications: recovered.unwrap_or_default(), live: true, ..Joined::default() })
}

/// Nothing enters a room that is not of its tenant: `kind:<tenant>[:…]`.
fn check_tenant(room: &str, tenant: &str, offset: u64) -> Result<(), ApplyError> {
    match tenant_of(room) {
        Some(t) if t == tenant => Ok(()),
        _ => Err(ApplyError::Tenant { room: room.to_owned(), offset, tenant: tenant.to_owned() }),
    }
}

fn encode(message: &RoomMessage, epoch: &str) -> Result<Publication, ApplyError> {
    Publication::encode(message, epoch).map_err(|error| ApplyError::Data { room: message.room.clone(), offset: message.offset, error })
}
