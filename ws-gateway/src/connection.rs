//! One connection: a single task that reads commands, writes what the outbox holds, and keeps the time limits.
//!
//! One task and not a reader and a writer: while a client does not read, its commands are not read either, and a
//! reply can be finished after its place in the order was taken without anyone overtaking it.

use crate::{
    commands::{Rest, Session},
    outbox::{Next, Outbox},
    protocol::{BAD_REQUEST, Close, EXPIRED, NO_PONG, PING, SLOW, STALE, TOO_LARGE, WRONG_PROTOCOL},
    state::{Admission, GatewayState, random},
};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

/// Frames written before the connection looks at what it has received.
const FRAMES_PER_TURN: usize = 16;
/// Replies gather up to this much while a frame of many commands is handled.
const REPLY_BYTES_SOFT: usize = 256 * 1024;
/// Above the queue's limit: room for one reply that is larger than the rest of the queue.
const WRITE_BUFFER_SPARE: usize = 2 * 1024 * 1024;

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

pub(crate) struct Connection {
    socket: Socket,
    session: Session,
    outbox: Arc<Outbox>,
    limits: Limits,
    connect_by: Instant,
    next_ping: Instant,
}

struct Limits {
    ping: Duration,
    pong_wait: Duration,
    write_wait: Duration,
    close_wait: Duration,
}

impl Connection {
    pub async fn open(state: GatewayState, admission: Admission, upgraded: hyper::upgrade::Upgraded) -> Self {
        let config = &state.inner.config;
        // The library's defaults are for a client: 128 KiB read buffer a connection, and writes without limit.
        let mut websocket = WebSocketConfig::default();
        websocket.read_buffer_size = 4 * 1024;
        websocket.write_buffer_size = 0;
        websocket.max_write_buffer_size = config.queue_bytes_max + WRITE_BUFFER_SPARE;
        websocket.max_message_size = Some(config.message_bytes_max);
        websocket.max_frame_size = Some(config.message_bytes_max);
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(websocket)).await;
        let limits = Limits { ping: config.ping, pong_wait: config.pong_wait, write_wait: config.write_wait, close_wait: config.close_wait };
        let now = Instant::now();
        // The first ping comes after half to one interval, so that connections that came together do not stay so.
        let first_ping = limits.ping.mul_f64(0.5 + (random() % 1_000) as f64 / 2_000.0);
        let (connect_by, outbox) = (now + config.connect_wait, admission.outbox.clone());
        Self { socket, session: Session::new(state, admission), outbox, limits, connect_by, next_ping: now + first_ping }
    }

    pub async fn run(mut self) {
        loop {
            match self.write_some().await {
                Written::All => {}
                // Gave way to reading; the outbox has more.
                Written::Some => self.outbox.wake(),
                Written::Gone => return,
                Written::MustClose(close) => return self.close(close).await,
            }
            let deadline = self.next_deadline();
            // No arm goes first: a busy room must not keep commands waiting, nor commands the room.
            tokio::select! {
                () = self.outbox.notified() => {}
                message = self.socket.next() => match message {
                    Some(Ok(message)) => if self.receive(message).await == Open::No { return },
                    Some(Err(Error::Capacity(_))) => self.outbox.close(TOO_LARGE),
                    Some(Err(_)) | None => return,
                },
                () = sleep_until(deadline) => self.check_deadlines(Instant::now()),
            }
        }
    }

    async fn receive(&mut self, message: Message) -> Open {
        match message {
            Message::Text(text) => {
                if text.as_str().trim().is_empty() {
                    self.outbox.close(BAD_REQUEST);
                }
                for line in text.as_str().trim().split('\n') {
                    if self.outbox.is_closing() || self.session.handle(line) == Rest::Dropped {
                        break;
                    }
                    // A client that recovers many rooms at once must not overflow its own queue with the replies.
                    if self.outbox.bytes() > REPLY_BYTES_SOFT && matches!(self.write_some().await, Written::Gone) {
                        return Open::No;
                    }
                }
            }
            Message::Binary(_) => self.outbox.close(WRONG_PROTOCOL),
            Message::Close(_) => {
                // The answer is queued by the library; it leaves with the flush.
                let _ = timeout(self.limits.close_wait, self.socket.flush()).await;
                return Open::No;
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
        Open::Yes
    }

    async fn write_some(&mut self) -> Written {
        for _ in 0..FRAMES_PER_TURN {
            match self.outbox.next() {
                Next::Nothing => return Written::All,
                Next::Close(close) => return Written::MustClose(close),
                Next::Frame(frame) => match timeout(self.limits.write_wait, self.socket.send(Message::Text(frame))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Written::Gone,
                    Err(_) => return Written::MustClose(SLOW),
                },
            }
        }
        Written::Some
    }

    fn next_deadline(&self) -> Instant {
        if !self.session.is_connected() {
            return self.connect_by;
        }
        let others = [self.session.pong_due, self.session.expires()];
        others.into_iter().flatten().fold(self.next_ping, Instant::min)
    }

    fn check_deadlines(&mut self, now: Instant) {
        if !self.session.is_connected() {
            if now >= self.connect_by {
                self.outbox.close(STALE);
            }
            return;
        }
        if self.session.pong_due.is_some_and(|due| now >= due) {
            self.outbox.close(NO_PONG);
        }
        if self.session.expires().is_some_and(|at| now >= at) {
            self.outbox.close(EXPIRED);
        }
        if now >= self.next_ping {
            self.outbox.push(PING.to_owned());
            self.session.pong_due.get_or_insert(now + self.limits.pong_wait);
            self.next_ping = now + self.limits.ping;
        }
    }

    /// Says why and waits for the client to have read it: to drop the socket at once could reset the connection and
    /// lose the reason on the way.
    async fn close(mut self, close: Close) {
        metrics::counter!("headend_gateway_closes_total", "code" => close.code.to_string()).increment(1);
        let frame = CloseFrame { code: close.code.into(), reason: close.reason.into() };
        let say = async {
            self.socket.send(Message::Close(Some(frame))).await?;
            while let Some(Ok(_)) = self.socket.next().await {}
            Ok::<(), Error>(())
        };
        let _ = timeout(self.limits.close_wait, say).await;
    }
}

#[derive(PartialEq)]
enum Open {
    Yes,
    No,
}

enum Written {
    All,
    Some,
    /// The socket failed; nobody is there to be told.
    Gone,
    MustClose(Close),
}
