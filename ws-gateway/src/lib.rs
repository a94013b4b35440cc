//! The gateway: rooms with dense offsets, served to browsers and services over WebSocket and HTTP.
//!
//! It promises that a subscriber of a room gets every message once and in room order, that a client which was cut
//! off recovers by offset or is told plainly that it cannot, and that a slow client costs a bounded queue and
//! disturbs nobody else. It is compatible with clients of the Centrifuge protocol v2, JSON over WebSocket.
//!
//! It keeps nothing: rooms are fed through [`Hub::apply`] by whoever reads the room tasks' epochs, and are rebuilt
//! by feeding them again, from a snapshot of the rooms ([`Hub::freeze`], [`Hub::restore`]) or from the start. It knows no log and no query engine.
//!
//! ```no_run
//! # async fn example(messages: Vec<schemas::RoomMessage>) -> Result<(), Box<dyn std::error::Error>> {
//! use ws_gateway::{GatewayConfig, GatewayState, Hub, HubLimits, Readiness, install_metrics, router, serve};
//! let hub = Hub::new("e1".to_owned(), HubLimits::default());
//! let state = GatewayState::new(hub.clone(), GatewayConfig::new("secret"), Readiness::default(), install_metrics())?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let token = tokio_util::sync::CancellationToken::new();
//! hub.apply("e1", &messages)?;
//! serve(listener, router(state), token).await?;
//! # Ok(()) }
//! ```

mod assets;
mod commands;
mod config;
mod connection;
mod health;
mod http;
mod hub;
mod map_join;
mod outbox;
mod protocol;
mod publication;
mod rights;
mod rooms;
mod serve;
mod state;
mod upgrade;

pub use config::{DemoSession, GatewayConfig, HubLimits};
pub use health::{ROOMS_CHECK, Readiness, install_metrics};
pub use http::router;
pub use hub::{Applied, ApplyError, Hub, Position};
pub use rights::{Allow, Capability, Claims, Match, MintError, Role, mint};
pub use rooms::{FrozenRoom, RoomSnapshot};
pub use serve::serve;
pub use state::{ConfigError, GatewayState};
