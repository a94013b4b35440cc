//! A gateway on a port of its own, and a client that speaks the protocol in lines.

use futures_util::{SinkExt, StreamExt};
use schemas::{RoomKind, RoomMessage};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;
use ws_gateway::{Claims, GatewayConfig, GatewayState, Hub, HubLimits, Readiness, Role, install_metrics, mint, router, serve};

pub const SECRET: &str = "test-secret";
pub const EPOCH: &str = "e1";
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Gateway {
    pub hub: Hub,
    pub state: GatewayState,
    pub readiness: Readiness,
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Gateway {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut config = GatewayConfig::new(SECRET);
        change(&mut config);
        let (hub, readiness) = (Hub::new(EPOCH.to_owned(), HubLimits::default()), Readiness::default());
        let state = GatewayState::new(hub.clone(), config, readiness.clone(), install_metrics()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(serve(listener, router(state.clone()), stop.clone()));
        Self { hub, state, readiness, address, stop }
    }

    pub async fn client(&self) -> Client {
        let (socket, _) = connect_async(format!("ws://{}/connection/websocket", self.address)).await.unwrap();
        Client { socket, received: VecDeque::new(), answer_pings: true }
    }

    /// The status with which a handshake is refused.
    pub async fn refused_upgrade(&self) -> u16 {
        match connect_async(format!("ws://{}/connection/websocket", self.address)).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
            other => panic!("it was not refused: {other:?}"),
        }
    }

    /// A client that has connected with `token`.
    pub async fn connected(&self, token: &str) -> Client {
        let mut client = self.client().await;
        client.send(&json!({"id": 1, "connect": {"token": token}})).await;
        assert_eq!(client.next().await["id"], 1);
        client
    }

    pub async fn admin(&self) -> Client {
        self.connected(&token(Role::Admin)).await
    }

    /// Waits until this many connections are open.
    pub async fn connections(&self, count: usize) {
        let reached = async {
            while self.state.connections() != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }

    /// The next messages of a stream room: data is their offset, padded to `bytes`.
    pub fn publish(&self, room: &str, count: u64, bytes: usize) {
        let from = self.hub.room_position(room).offset;
        let messages: Vec<_> =
            (from + 1..=from + count).map(|n| message(room, RoomKind::Stream, n, "", Some(&json!({"n": n, "pad": "x".repeat(bytes)})))).collect();
        assert_eq!(self.hub.apply(EPOCH, &messages).unwrap().accepted, count);
    }

    pub fn set(&self, room: &str, key: &str, data: Option<&Value>) -> u64 {
        let offset = self.hub.room_position(room).offset + 1;
        self.hub.apply(EPOCH, &[message(room, RoomKind::State, offset, key, data)]).unwrap();
        offset
    }

    /// Status and body of `GET path`.
    pub async fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let authorization = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        let (head, body) = self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Connection: close\r\n\r\n", self.address)).await;
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    pub async fn get_json(&self, path: &str, token: Option<&str>) -> (u16, Value) {
        let (status, body) = self.get(path, token).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Head and body of the answer to a request that asks to close.
    pub async fn request(&self, request: &str) -> (String, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

pub fn message(room: &str, kind: RoomKind, offset: u64, key: &str, data: Option<&Value>) -> RoomMessage {
    let tenant = room.split(':').nth(1).unwrap().to_owned();
    let data_text = data.map_or("null".to_owned(), Value::to_string);
    RoomMessage {
        room: room.to_owned(),
        tenant,
        kind,
        offset,
        key: key.to_owned(),
        removed: data.is_none(),
        data: data_text,
        time_us: 1_700_000_000_000_000,
        appended_us: None,
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

pub fn claims(role: Role, ttl: i64) -> Claims {
    Claims { sub: "u1".into(), exp: now().saturating_add_signed(ttl), iat: now(), tenant: "acme".into(), role: Some(role), caps: vec![], subscriber: None }
}

pub fn token(role: Role) -> String {
    mint(SECRET, &claims(role, 600)).unwrap()
}

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    received: VecDeque<Value>,
    pub answer_pings: bool,
}

/// What came from the server.
#[derive(Debug, PartialEq)]
pub enum Event {
    Frame(Vec<Value>),
    Closed(u16, String),
}

impl Client {
    pub async fn send(&mut self, command: &Value) {
        self.send_text(&command.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next frame as it came, or the close.
    pub async fn frame(&mut self) -> Event {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("the server says nothing") {
                Some(Ok(Message::Text(text))) => return Event::Frame(text.as_str().split('\n').map(|l| serde_json::from_str(l).expect(l)).collect()),
                Some(Ok(Message::Close(Some(close)))) => return Event::Closed(close.code.into(), close.reason.as_str().to_owned()),
                Some(Ok(_)) => {}
                other => panic!("the connection ended without a close frame: {other:?}"),
            }
        }
    }

    /// The next object that is not a ping, or the close.
    pub async fn event(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match self.received.pop_front() {
                Some(Value::Object(o)) if o.is_empty() => {
                    if self.answer_pings {
                        self.send_text("{}").await;
                    }
                }
                Some(object) => return Ok(object),
                None => match self.frame().await {
                    Event::Frame(objects) => self.received.extend(objects),
                    Event::Closed(code, reason) => return Err((code, reason)),
                },
            }
        }
    }

    pub async fn next(&mut self) -> Value {
        self.event().await.unwrap()
    }

    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Err(close) = self.event().await {
                return close;
            }
        }
    }

    /// Sends a command and gives its reply; pushes on the way are dropped.
    pub async fn call(&mut self, command: Value) -> Value {
        self.send(&command).await;
        loop {
            let object = self.next().await;
            if object["id"] == command["id"] {
                return object;
            }
        }
    }

    pub async fn subscribe(&mut self, id: u32, room: &str) -> Value {
        self.call(json!({"id": id, "subscribe": {"channel": room}})).await["subscribe"].clone()
    }

    /// The publication of the next object.
    pub async fn publication(&mut self) -> Value {
        let object = self.next().await;
        assert!(object["push"]["pub"].is_object(), "{object}");
        object["push"]["pub"].clone()
    }
}
