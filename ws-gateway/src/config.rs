//! What can be set, with the defaults of the protocol document.

use crate::rights::{Capability, Role};
use std::time::Duration;

/// Limits of rooms: how far back a client can recover, and how much one reply carries.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// A room's history holds at most this many messages ...
    pub history_messages_max: usize,
    /// ... and none older than this, by message time against the newest message of any room.
    pub history_age_max: Duration,
    /// Publications in one reply. A recovery that needs more is answered `recovered: false`.
    pub reply_bytes_max: usize,
    /// Entries of a snapshot page when the client names no limit, and the most it may ask for.
    pub page_default: usize,
    pub page_max: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self { history_messages_max: 1_000, history_age_max: Duration::from_secs(24 * 3600), reply_bytes_max: 256 * 1024, page_default: 100, page_max: 1_000 }
    }
}

/// A session that `GET /v1/session` gives to anyone who can open the page: for demonstrations, on one's own machine.
#[derive(Clone, Debug)]
pub struct DemoSession {
    pub tenant: String,
    pub sub: String,
    pub role: Role,
    pub caps: Vec<Capability>,
    /// How long a token lasts; the page asks for the next one.
    pub ttl: Duration,
    /// The page says that what it shows is generated.
    pub generated: bool,
}

impl DemoSession {
    pub fn new(tenant: impl Into<String>, sub: impl Into<String>, role: Role) -> Self {
        Self { tenant: tenant.into(), sub: sub.into(), role, caps: Vec::new(), ttl: Duration::from_secs(600), generated: true }
    }
}

/// Settings of the gateway. Only the secret has no default.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// HMAC secret of the tokens (HS256).
    pub secret: String,
    /// Still accepted, while tokens that were signed with it live on.
    pub previous_secret: Option<String>,
    /// Origins of other hosts whose pages may connect, as `https://host[:port]`. Pages of the gateway's own host
    /// always may; an empty list never means "any".
    pub allowed_origins: Vec<String>,
    pub ping: Duration,
    /// A client that has not answered a ping after this is closed with 3012.
    pub pong_wait: Duration,
    /// A connection without a connect command after this is closed with 3502.
    pub connect_wait: Duration,
    /// How long a connection outlives its token before it is closed with 3005.
    pub refresh_grace: Duration,
    /// A single write that takes longer than this makes the client a slow one.
    pub write_wait: Duration,
    /// How long a close frame may take to reach the client before the socket is dropped.
    pub close_wait: Duration,
    /// What may be queued for one connection; past it the client is closed with 3008.
    pub queue_bytes_max: usize,
    /// The largest message that a client may send.
    pub message_bytes_max: usize,
    pub rooms_per_connection_max: usize,
    pub connections_max: usize,
    pub connections_per_ip_max: usize,
    pub connections_per_user_max: usize,
    /// Token bucket of each connection; past it the client is closed with 3013.
    pub commands_per_second: u32,
    pub commands_burst: u32,
    pub demo_session: Option<DemoSession>,
}

impl GatewayConfig {
    pub fn new(secret: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            previous_secret: None,
            allowed_origins: Vec::new(),
            ping: Duration::from_secs(25),
            pong_wait: Duration::from_secs(8),
            connect_wait: Duration::from_secs(10),
            refresh_grace: Duration::from_secs(25),
            write_wait: Duration::from_secs(10),
            close_wait: Duration::from_secs(5),
            queue_bytes_max: 1024 * 1024,
            message_bytes_max: 64 * 1024,
            rooms_per_connection_max: 512,
            connections_max: 50_000,
            connections_per_ip_max: 1_000,
            connections_per_user_max: 100,
            commands_per_second: 200,
            commands_burst: 2_048,
            demo_session: None,
        }
    }
}
