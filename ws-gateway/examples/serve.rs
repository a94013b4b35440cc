//! A gateway without an engine, to try clients against: rooms are fed by lines on standard input.
//!
//!     cargo run -p ws-gateway --example serve -- 127.0.0.1:8000
//!
//!     pub ROOM JSON        the next message of a stream room
//!     set ROOM KEY JSON    a row of a state room
//!     del ROOM KEY         removes it
//!     cut MS               closes every connection and listens again after MS milliseconds
//!     epoch NAME           later messages come under another epoch: their rooms start again
//!
//! The secret of tokens is `test-secret`. It prints `ready ADDR` when it listens, and `ok ROOM OFFSET`, `cut` or
//! `error …` for each line. It ends with its input.
#![allow(clippy::print_stdout)]

use schemas::{RoomKind, RoomMessage};
use std::{
    error::Error,
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use ws_gateway::{GatewayConfig, GatewayState, Hub, HubLimits, Readiness, install_metrics, router, serve};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address = if address.contains(':') { address } else { format!("127.0.0.1:{address}") };
    let hub = Hub::new("e1".to_owned(), HubLimits::default());
    let state = GatewayState::new(hub.clone(), GatewayConfig::new("test-secret"), Readiness::default(), install_metrics())?;
    let mut door = Door::open(&address, &state).await?;
    println!("ready {}", door.address);
    let mut epoch = "e1".to_owned();
    let (send, mut lines) = mpsc::channel(64);
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| send.blocking_send(line)));
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.trim().splitn(4, ' ').collect();
        let done = match words.as_slice() {
            ["pub", room, json @ ..] => feed(&hub, &epoch, room, RoomKind::Stream, "", Some(&json.join(" "))),
            ["set", room, key, json] => feed(&hub, &epoch, room, RoomKind::State, key, Some(json)),
            ["del", room, key] => feed(&hub, &epoch, room, RoomKind::State, key, None),
            ["epoch", name] => {
                epoch = (*name).to_owned();
                Ok(format!("ok {epoch}"))
            }
            ["cut", ms] => {
                let pause = Duration::from_millis(ms.parse()?);
                door.close().await;
                state.disconnect_all();
                tokio::time::sleep(pause).await;
                door = Door::open(&door.address.to_string(), &state).await?;
                Ok("cut".to_owned())
            }
            _ => Err("expected `pub`, `set`, `del`, `cut` or `epoch`".into()),
        };
        println!("{}", done.unwrap_or_else(|e| format!("error {e}")));
    }
    door.close().await;
    state.shutdown(Duration::ZERO).await;
    Ok(())
}

fn feed(hub: &Hub, epoch: &str, room: &str, kind: RoomKind, key: &str, data: Option<&str>) -> Result<String, Failure> {
    let position = hub.room_position(room);
    let offset = if *position.epoch == *epoch { position.offset + 1 } else { 1 };
    let time_us = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros())?;
    let message = RoomMessage {
        room: room.to_owned(),
        tenant: room.split(':').nth(1).unwrap_or_default().to_owned(),
        kind,
        offset,
        key: key.to_owned(),
        removed: data.is_none(),
        data: data.unwrap_or("null").to_owned(),
        time_us,
        appended_us: Some(time_us),
    };
    hub.apply(epoch, &[message])?;
    Ok(format!("ok {room} {offset}"))
}

/// A listening socket and the task that serves it.
struct Door {
    address: SocketAddr,
    token: CancellationToken,
    task: Option<JoinHandle<std::io::Result<()>>>,
}

impl Door {
    async fn open(address: &str, state: &GatewayState) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await?;
        let (address, token) = (listener.local_addr()?, CancellationToken::new());
        let task = tokio::spawn(serve(listener, router(state.clone()), token.clone()));
        Ok(Self { address, token, task: Some(task) })
    }

    async fn close(&mut self) {
        self.token.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}
