//! One room: its position, its history, its state and who listens. Everything here runs under the lock of the
//! room's shard and must stay short: no encoding, no IO, no wait.

use crate::{
    config::HubLimits,
    outbox::Outbox,
    protocol::{INSUFFICIENT_STATE, unsubscribe_push},
    publication::Publication,
};
use schemas::{RoomKind, RoomMessage, RoomPosition};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// The rows of a state room by key. Shared with snapshots, copied when a row changes while one is out.
pub(crate) type Rows = Arc<BTreeMap<Arc<str>, Arc<Publication>>>;

/// A room as it stood at some moment: what another gateway needs to serve it under the same offsets.
#[derive(Clone, Debug)]
pub struct RoomSnapshot {
    pub position: RoomPosition,
    /// In offset order: the rows that are older than the history, then the history. What ends at the position without a gap is the
    /// history; a client that is behind it gets the state anew.
    pub messages: Vec<RoomMessage>,
}

/// A room held as it is while it goes on; nothing is copied but what points to its messages.
pub struct FrozenRoom {
    name: Arc<str>,
    kind: RoomKind,
    epoch: Arc<str>,
    offset: u64,
    history: Vec<Arc<Publication>>,
    rows: Rows,
}

impl FrozenRoom {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads the messages back out of what clients are sent: work for a thread that nobody waits for.
    pub fn snapshot(&self) -> Result<RoomSnapshot, serde_json::Error> {
        let room = self.name.to_string();
        let tenant = tenant_of(&room).unwrap_or_default().to_owned();
        let before_history = self.offset - self.history.len() as u64;
        let mut messages: Vec<&Arc<Publication>> = self.rows.values().filter(|p| p.offset <= before_history).collect();
        messages.sort_unstable_by_key(|p| p.offset);
        messages.extend(&self.history);
        let messages = messages.into_iter().map(|p| p.decode(&room, &tenant, self.kind)).collect::<Result<_, _>>()?;
        Ok(RoomSnapshot { position: RoomPosition { room, tenant, kind: self.kind, epoch: self.epoch.to_string(), offset: self.offset }, messages })
    }
}

/// The tenant of a room: `kind:<tenant>[:…]`.
pub(crate) fn tenant_of(room: &str) -> Option<&str> {
    room.split(':').nth(1)
}

/// One connection, as a room knows it.
#[derive(Clone)]
pub(crate) struct Member {
    pub connection: u64,
    pub tenant: Arc<str>,
    pub outbox: Arc<Outbox>,
}

pub(crate) struct Room {
    /// Unique in the process; connections conflate by (room id, key).
    id: u64,
    pub name: Arc<str>,
    /// Known from the first message on.
    pub kind: Option<RoomKind>,
    pub epoch: Arc<str>,
    /// Offset of the newest message; 0 before the first.
    pub offset: u64,
    history: VecDeque<Arc<Publication>>,
    pub rows: Rows,
    members: HashMap<u64, Member>,
}

/// Why a position cannot be served from the history.
#[derive(Debug, PartialEq)]
pub(crate) enum NotInHistory {
    /// It is older than the history, or of another epoch.
    Gone,
    /// The client has seen more on another gateway than has come here: it need only wait.
    Ahead,
}

impl Room {
    pub fn new(id: u64, name: Arc<str>, epoch: Arc<str>) -> Self {
        Self { id, name, kind: None, epoch, offset: 0, history: VecDeque::new(), rows: Rows::default(), members: HashMap::new() }
    }

    /// Starts the room again under another epoch: what clients know of it is worth nothing, and they are told so.
    pub fn reset(&mut self, epoch: &str) {
        if self.offset > 0 || !self.members.is_empty() {
            let push = unsubscribe_push(&self.name, INSUFFICIENT_STATE);
            self.members.drain().for_each(|(_, member)| member.outbox.push(push.clone()));
        }
        *self = Self { members: std::mem::take(&mut self.members), ..Self::new(self.id, self.name.clone(), epoch.into()) };
    }

    /// Takes the next message and queues it for everyone who listens and may see `tenant`.
    pub fn append(&mut self, publication: Arc<Publication>, kind: RoomKind, tenant: &str, limits: &HubLimits, now_us: i64) {
        debug_assert_eq!(publication.offset, self.offset + 1, "offsets of a room are dense");
        self.offset = publication.offset;
        self.kind = Some(kind);
        if kind == RoomKind::State {
            set_row(Arc::make_mut(&mut self.rows), &publication);
        }
        for member in self.members.values().filter(|m| &*m.tenant == tenant) {
            match kind {
                RoomKind::State => member.outbox.publish_keyed(self.id, &publication),
                RoomKind::Stream => member.outbox.publish(&publication),
            }
        }
        self.history.push_back(publication);
        self.prune(limits, now_us);
    }

    /// Puts the room where `position` says. `publications` are those of a [`RoomSnapshot`], in its order.
    pub fn restore(&mut self, position: &RoomPosition, publications: Vec<Arc<Publication>>) {
        self.reset(&position.epoch);
        (self.kind, self.offset) = (Some(position.kind), position.offset);
        let mut rows = BTreeMap::new();
        for publication in publications {
            if position.kind == RoomKind::State {
                set_row(&mut rows, &publication);
            }
            if self.history.back().is_some_and(|last| last.offset + 1 != publication.offset) {
                self.history.clear();
            }
            self.history.push_back(publication);
        }
        if self.history.back().is_some_and(|last| last.offset != self.offset) {
            self.history.clear();
        }
        self.rows = Arc::new(rows);
    }

    /// `None` where nothing was ever said.
    pub fn freeze(&self) -> Option<FrozenRoom> {
        let kind = self.kind?;
        let history = self.history.iter().cloned().collect();
        Some(FrozenRoom { name: self.name.clone(), kind, epoch: self.epoch.clone(), offset: self.offset, history, rows: self.rows.clone() })
    }

    /// Drops what is past the limits, so that what is offered for recovery does not depend on when one looks.
    pub fn prune(&mut self, limits: &HubLimits, now_us: i64) {
        let oldest_us = now_us.saturating_sub(i64::try_from(limits.history_age_max.as_micros()).unwrap_or(i64::MAX));
        while self.history.len() > limits.history_messages_max || self.history.front().is_some_and(|p| p.time_us < oldest_us) {
            self.history.pop_front();
        }
    }

    /// The messages after `offset`, all of them or an error.
    pub fn since(&self, epoch: &str, offset: u64) -> Result<impl Iterator<Item = &Arc<Publication>> + Clone, NotInHistory> {
        // What the history holds is dense and ends at `self.offset`.
        let before_history = self.offset - self.history.len() as u64;
        if !epoch.is_empty() && epoch != &*self.epoch {
            return Err(NotInHistory::Gone);
        }
        if offset > self.offset {
            return Err(NotInHistory::Ahead);
        }
        let from = offset.checked_sub(before_history).ok_or(NotInHistory::Gone)?;
        Ok(self.history.range(from as usize..))
    }

    /// Newest last, whatever the epoch.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Arc<Publication>> {
        self.history.iter()
    }

    pub fn join(&mut self, member: &Member) {
        self.members.insert(member.connection, member.clone());
    }

    pub fn has_member(&self, connection: u64) -> bool {
        self.members.contains_key(&connection)
    }

    pub fn leave(&mut self, connection: u64) {
        self.members.remove(&connection);
    }

    /// Nothing was ever said here and nobody listens: the room need not be kept to exist.
    pub fn is_blank(&self) -> bool {
        self.offset == 0 && self.members.is_empty()
    }
}

fn set_row(rows: &mut BTreeMap<Arc<str>, Arc<Publication>>, publication: &Arc<Publication>) {
    match publication.removed {
        true => rows.remove(&publication.key),
        false => rows.insert(publication.key.clone(), publication.clone()),
    };
}

/// As many of `publications` as fit `count` and `bytes`, but one at least; and whether that was all.
pub(crate) fn page<'a>(publications: impl Iterator<Item = &'a Arc<Publication>>, count: usize, bytes: usize) -> (Vec<Arc<Publication>>, bool) {
    let (mut taken, mut sum) = (Vec::new(), 0);
    for publication in publications {
        sum += publication.body().len();
        if taken.len() >= count || (sum > bytes && !taken.is_empty()) {
            return (taken, false);
        }
        taken.push(publication.clone());
    }
    (taken, true)
}
