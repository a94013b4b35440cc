//! One room: its position, its history, its state and who listens. Everything here runs under the lock of the
//! room's shard and must stay short: no encoding, no IO, no wait.

use crate::{
    config::HubLimits,
    outbox::Outbox,
    protocol::{INSUFFICIENT_STATE, unsubscribe_push},
    publication::Publication,
};
use schemas::RoomKind;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// The rows of a state room by key. Shared with snapshots, copied when a row changes while one is out.
pub(crate) type Rows = Arc<BTreeMap<Arc<str>, Arc<Publication>>>;

/// A room as a snapshot of a room task hands it over. History before it is not known: a client that is behind
/// `offset` gets the state anew.
#[derive(Clone, Debug)]
pub struct RoomSnapshot {
    pub room: String,
    pub tenant: String,
    pub kind: RoomKind,
    pub epoch: String,
    pub offset: u64,
    /// Rows of a state room; none for a stream room.
    pub entries: Vec<RoomEntry>,
}

#[derive(Clone, Debug)]
pub struct RoomEntry {
    pub key: String,
    /// One JSON value.
    pub data: String,
    /// Offset of the message that wrote the row.
    pub offset: u64,
    pub time_us: i64,
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
pub(crate) struct NotInHistory;

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
            let rows = Arc::make_mut(&mut self.rows);
            match publication.removed {
                true => rows.remove(&publication.key),
                false => rows.insert(publication.key.clone(), publication.clone()),
            };
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

    pub fn restore(&mut self, snapshot: &RoomSnapshot, rows: Rows) {
        self.reset(&snapshot.epoch);
        (self.kind, self.offset, self.rows) = (Some(snapshot.kind), snapshot.offset, rows);
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
        let known = (epoch.is_empty() || epoch == &*self.epoch) && (before_history..=self.offset).contains(&offset);
        known.then(|| self.history.range((offset - before_history) as usize..)).ok_or(NotInHistory)
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
