//! What waits to be written to one connection: bounded by bytes, filled by anyone, drained by its one writer.
//!
//! Order is the order of [`Outbox::push`], [`Outbox::publish`] and [`Outbox::reserve`]. Publications of a state room
//! conflate by key while they wait: the older one goes, the newer one takes its place at the *end*, so that the
//! offsets which a client sees only ever rise.

use crate::{
    protocol::{Close, SLOW},
    publication::Publication,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Objects are joined into one frame up to this size; a larger one travels alone.
const FRAME_BYTES: usize = 32 * 1024;

pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    wake: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct Queue {
    items: BTreeMap<u64, Item>,
    /// Where the waiting publication of a (room, key) stands. Only state rooms have entries.
    by_key: HashMap<(u64, Arc<str>), u64>,
    bytes: usize,
    next: u64,
    close: Option<Close>,
}

enum Item {
    Reply(String),
    Publication(Arc<Publication>),
    Keyed(u64, Arc<Publication>),
}

impl Item {
    fn text(&self) -> &str {
        match self {
            Item::Reply(text) => text,
            Item::Publication(p) | Item::Keyed(_, p) => p.frame().as_str(),
        }
    }

    fn into_frame(self) -> Utf8Bytes {
        match self {
            Item::Reply(text) => text.into(),
            Item::Publication(p) | Item::Keyed(_, p) => p.frame().clone(),
        }
    }
}

/// What the writer does next.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    Frame(Utf8Bytes),
    Close(Close),
    Nothing,
}

impl Outbox {
    pub fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), wake: Notify::new(), bytes_max }
    }

    /// Queues a reply or a push of the connection's own. It is short and answers a command, so it never overflows.
    pub fn push(&self, text: String) {
        let mut queue = self.lock();
        let at = queue.reserve();
        queue.insert(at, Item::Reply(text));
        drop(queue);
        self.wake.notify_one();
    }

    /// Takes a place in the order, for a reply that is written after the lock of a room is given back. Only the
    /// connection's own task may call this: it is also the writer, so nothing overtakes the reply meanwhile.
    pub fn reserve(&self) -> u64 {
        self.lock().reserve()
    }

    pub fn fill(&self, at: u64, text: String) {
        self.lock().insert(at, Item::Reply(text));
        self.wake.notify_one();
    }

    /// Queues a publication of a stream room. A client that has let too much gather is closed: it recovers by offset.
    pub fn publish(&self, publication: &Arc<Publication>) {
        self.add(Item::Publication(publication.clone()));
    }

    /// Queues a publication of a state room; it replaces one that waits under the same key.
    pub fn publish_keyed(&self, room: u64, publication: &Arc<Publication>) {
        self.add(Item::Keyed(room, publication.clone()));
    }

    fn add(&self, item: Item) {
        let mut queue = self.lock();
        if queue.close.is_some() {
            return;
        }
        if let Item::Keyed(room, publication) = &item {
            queue.conflate(*room, publication);
        }
        if queue.bytes + item.text().len() > self.bytes_max {
            // Nobody will read what waits: give the memory back now, not when the writer comes by.
            *queue = Queue { close: Some(SLOW), ..Queue::default() };
            metrics::counter!("headend_gateway_slow_clients_total").increment(1);
        } else {
            let at = queue.reserve();
            queue.insert(at, item);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// What is queued goes out first, then the connection is closed. The first reason given stays.
    pub fn close(&self, close: Close) {
        self.lock().close.get_or_insert(close);
        self.wake.notify_one();
    }

    /// The next frame: a single shared publication as it is, or several objects joined by line breaks.
    pub fn next(&self) -> Next {
        let mut queue = self.lock();
        let Some(first) = queue.pop() else {
            return queue.close.map_or(Next::Nothing, Next::Close);
        };
        match queue.items.first_key_value() {
            Some((_, second)) if first.text().len() + second.text().len() < FRAME_BYTES => {}
            _ => return Next::Frame(first.into_frame()),
        }
        let mut frame = String::with_capacity(queue.bytes.min(FRAME_BYTES) + first.text().len());
        frame.push_str(first.text());
        while let Some((_, item)) = queue.items.first_key_value() {
            if frame.len() + item.text().len() >= FRAME_BYTES {
                break;
            }
            frame.push('\n');
            frame.push_str(item.text());
            queue.pop();
        }
        Next::Frame(frame.into())
    }

    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    pub fn is_closing(&self) -> bool {
        self.lock().close.is_some()
    }

    /// Wakes the writer again, when it gave way with work left.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub async fn notified(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn reserve(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn insert(&mut self, at: u64, item: Item) {
        self.bytes += item.text().len();
        if let Item::Keyed(room, publication) = &item {
            self.by_key.insert((*room, publication.key.clone()), at);
        }
        self.items.insert(at, item);
    }

    fn conflate(&mut self, room: u64, publication: &Publication) {
        if let Some(older) = self.by_key.remove(&(room, publication.key.clone())).and_then(|at| self.items.remove(&at)) {
            self.bytes -= older.text().len();
            metrics::counter!("headend_gateway_conflated_total").increment(1);
        }
    }

    fn pop(&mut self) -> Option<Item> {
        let (_, item) = self.items.pop_first()?;
        self.bytes -= item.text().len();
        if let Item::Keyed(room, publication) = &item {
            self.by_key.remove(&(*room, publication.key.clone()));
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use schemas::{RoomKind, RoomMessage};

    fn publication(key: &str, offset: u64) -> Arc<Publication> {
        let message = RoomMessage {
            room: "r:a".into(),
            tenant: "a".into(),
            kind: RoomKind::State,
            offset,
            key: key.into(),
            removed: false,
            data: "0".into(),
            time_us: 0,
            appended_us: None,
        };
        Arc::new(Publication::encode(&message, "e").unwrap())
    }

    fn offsets(outbox: &Outbox) -> Vec<u64> {
        let Next::Frame(frame) = outbox.next() else { return Vec::new() };
        let values = frame.as_str().lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        values.map(|v| v["push"]["pub"]["offset"].as_u64().unwrap_or(0)).collect()
    }

    #[test]
    fn waiting_rows_of_a_key_conflate_to_the_newest_and_offsets_rise() {
        let outbox = Outbox::new(10_000);
        for (key, offset) in [("a", 2), ("b", 3), ("a", 4), ("c", 5), ("a", 6)] {
            outbox.publish_keyed(1, &publication(key, offset));
        }
        outbox.publish_keyed(2, &publication("a", 9));
        assert_eq!(offsets(&outbox), [3, 5, 6, 9], "another room's key `a` is another row");
        outbox.publish_keyed(1, &publication("a", 7));
        assert_eq!(offsets(&outbox), [7], "a row that was written no longer conflates");
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn overflow_closes_with_slow_and_frees_the_queue() {
        let outbox = Outbox::new(300);
        for offset in 2..20 {
            outbox.publish(&publication("", offset));
        }
        assert_eq!(outbox.bytes(), 0);
        assert_eq!(outbox.next(), Next::Close(SLOW));
    }

    #[test]
    fn reply_keeps_the_place_that_was_reserved_for_it() {
        let outbox = Outbox::new(10_000);
        let at = outbox.reserve();
        outbox.publish(&publication("", 5));
        outbox.fill(at, "{}".into());
        assert_eq!(offsets(&outbox), [0, 5]);
    }

    #[test]
    fn what_is_queued_is_written_before_the_close() {
        let outbox = Outbox::new(10_000);
        outbox.push("{}".into());
        outbox.close(SLOW);
        assert_eq!(outbox.next(), Next::Frame("{}".into()));
        assert_eq!(outbox.next(), Next::Close(SLOW));
    }
}
