//! A client of the demo's own gateway, over a real socket: it subscribes like the page does and measures, from the append of the
//! event that caused a message to the frame in its hands.

use super::story::TENANT;
use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// Latencies in microseconds, up to a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

pub struct Measured {
    pub append_to_socket: Histogram<u64>,
    /// From the start of the program to the first alert at the client.
    pub first_alert_ms: Option<u64>,
}

pub struct Meter {
    shared: Arc<Mutex<Measured>>,
    reading: JoinHandle<()>,
}

impl Meter {
    pub async fn finish(self) -> anyhow::Result<Measured> {
        self.reading.await.context("the measuring client broke")?;
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Measured { append_to_socket: std::mem::replace(&mut shared.append_to_socket, histogram()?), first_alert_ms: shared.first_alert_ms })
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

/// Connects, subscribes, and measures messages whose events were appended after `live_from_us`, until `stop`.
pub async fn start(address: SocketAddr, token: &str, live_from_us: i64, started: Instant, stop: CancellationToken) -> anyhow::Result<Meter> {
    let url = format!("ws://{address}/connection/websocket");
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.with_context(|| format!("cannot connect to `{url}`"))?;
    let mut commands = vec![json!({"id": 1, "connect": {"token": token, "name": "meter"}})];
    let rooms = [format!("risk:{TENANT}"), format!("alerts:{TENANT}"), format!("admin:{TENANT}")];
    commands.extend(rooms.iter().enumerate().map(|(i, room)| json!({"id": i + 2, "subscribe": {"channel": room}})));
    let frame = commands.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    socket.send(Message::text(frame)).await?;
    let shared = Arc::new(Mutex::new(Measured { append_to_socket: histogram()?, first_alert_ms: None }));
    let measured = Arc::clone(&shared);
    let reading = tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                message = socket.next() => message,
            };
            let Some(Ok(Message::Text(text))) = message else {
                if !matches!(message, Some(Ok(_))) {
                    break;
                }
                continue;
            };
            let at_us = super::now_us();
            let pinged = {
                let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
                text.lines().filter(|l| !take(l, at_us, live_from_us, started, &mut measured).unwrap_or(true)).count() > 0
            };
            if pinged && socket.send(Message::text("{}")).await.is_err() {
                break;
            }
        }
    });
    Ok(Meter { shared, reading })
}

/// What the client looks at in a reply; the rest it does not read.
#[derive(Deserialize)]
struct Reply {
    error: Option<Value>,
    push: Option<Push>,
}

#[derive(Deserialize)]
struct Push {
    channel: String,
    #[serde(rename = "pub")]
    publication: Option<Publication>,
}

#[derive(Deserialize)]
struct Publication {
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// Takes one reply; false for a ping.
fn take(line: &str, at_us: i64, live_from_us: i64, started: Instant, measured: &mut Measured) -> anyhow::Result<bool> {
    if line == "{}" {
        return Ok(false);
    }
    let reply: Reply = serde_json::from_str(line)?;
    if let Some(error) = reply.error {
        bail!("the gateway answered {error}");
    }
    let Some(Push { channel, publication: Some(publication) }) = reply.push else { return Ok(true) };
    if channel.starts_with("alerts:") && measured.first_alert_ms.is_none() {
        measured.first_alert_ms = Some(started.elapsed().as_millis() as u64);
    }
    let appended = publication.tags.get("appended_us").and_then(|t| t.parse::<i64>().ok());
    if let Some(appended) = appended.filter(|a| *a >= live_from_us) {
        measured.append_to_socket.saturating_record((at_us - appended).max(1) as u64);
    }
    Ok(true)
}
