//! The commands of one connection, in the order in which they came. Nothing here waits: replies go to the outbox.

use crate::{
    hub::Hub,
    map_join::Joined,
    protocol::{
        BAD_COMMAND, BAD_REQUEST, CONNECTION_LIMIT, Command, ConnectRequest, ConnectResult, ErrorCode, HistoryRequest, HistoryResult, INVALID_TOKEN,
        LIMIT_EXCEEDED, Method, NOT_AVAILABLE, PERMISSION_DENIED, RefreshRequest, SubscribeRequest, TOKEN_EXPIRED, TOO_MANY_COMMANDS, UNSUBSCRIBED_BY_SERVER,
        UnsubscribeRequest, error_reply, reply, reply_with, unsubscribe_push,
    },
    rights::{Allow, Rights, TokenError},
    rooms::Member,
    state::{Admission, GatewayState, UserAdmission, random_id},
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

const ROOM_NAME_BYTES_MAX: usize = 255;

pub(crate) struct Session {
    state: GatewayState,
    admission: Admission,
    client: String,
    phase: Phase,
    /// Rooms that were joined; left again when the session is dropped.
    rooms: HashSet<Arc<str>>,
    bucket: Bucket,
    pub pong_due: Option<Instant>,
}

enum Phase {
    /// Waits for the connect command.
    New,
    Connected {
        rights: Rights,
        expires: Instant,
        _user: UserAdmission,
    },
    /// The connect command was answered with an error. Whatever comes next is a bad request.
    Refused,
}

/// Whether the rest of a frame still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Counts,
    Dropped,
}

impl Session {
    pub fn new(state: GatewayState, admission: Admission) -> Self {
        let bucket = Bucket::new(state.inner.config.commands_per_second, state.inner.config.commands_burst);
        Self { state, admission, client: random_id(), phase: Phase::New, rooms: HashSet::new(), bucket, pong_due: None }
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected { .. })
    }

    /// When the token's grace is over.
    pub fn expires(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connected { expires, .. } => Some(*expires),
            _ => None,
        }
    }

    /// Handles one line of a frame.
    pub fn handle(&mut self, line: &str) -> Rest {
        let outbox = self.admission.outbox.clone();
        match (Command::parse(line), &self.phase) {
            (None, _) | (_, Phase::Refused) => outbox.close(BAD_REQUEST),
            (Some(Command::Method(id, Method::Connect(request))), Phase::New) => return self.connect(id, &request),
            (Some(_), Phase::New) => outbox.close(BAD_REQUEST),
            (Some(Command::Pong), _) if self.pong_due.take().is_none() => outbox.close(BAD_REQUEST),
            (Some(Command::Pong), _) => {}
            (Some(_), _) if !self.bucket.take(Instant::now()) => outbox.close(TOO_MANY_COMMANDS),
            (Some(Command::Send), _) => {}
            (Some(Command::Method(id, method)), Phase::Connected { rights, .. }) => {
                let rights = rights.clone();
                self.method(id, method, &rights);
            }
        }
        Rest::Counts
    }

    fn method(&mut self, id: u32, method: Method, rights: &Rights) {
        metrics::counter!("headend_gateway_commands_total").increment(1);
        let outbox = &self.admission.outbox;
        match method {
            Method::Connect(_) => outbox.close(BAD_REQUEST),
            Method::Subscribe(request) => {
                if let Err(error) = self.subscribe(id, &request, rights) {
                    outbox_error(&self.admission, id, error);
                }
            }
            Method::Unsubscribe(request) => self.unsubscribe(id, &request),
            Method::History(request) => match self.history(id, &request, rights) {
                Ok(reply) => outbox.push(reply),
                Err(error) => outbox_error(&self.admission, id, error),
            },
            Method::Refresh(request) => self.refresh(id, &request, rights),
            Method::Ping => outbox.push(format!("{{\"id\":{id},\"ping\":{{}}}}")),
            Method::Unsupported => outbox_error(&self.admission, id, NOT_AVAILABLE),
            Method::Malformed => outbox_error(&self.admission, id, BAD_COMMAND),
        }
    }

    fn connect(&mut self, id: u32, request: &ConnectRequest) -> Rest {
        let outbox = &self.admission.outbox;
        if request.token.is_empty() {
            outbox.close(BAD_REQUEST);
            return Rest::Dropped;
        }
        let rights = match self.state.inner.verifier.verify(&request.token) {
            Ok(rights) => rights,
            Err(TokenError::Expired) => {
                // Clients send their subscriptions along with the connect command. Those must not close the
                // connection with a terminal code before the client has read that it only needs a new token.
                outbox_error(&self.admission, id, TOKEN_EXPIRED);
                self.phase = Phase::Refused;
                return Rest::Dropped;
            }
            Err(TokenError::Invalid(why)) => {
                tracing::info!(client = self.client, why, "token refused");
                outbox.close(INVALID_TOKEN);
                return Rest::Dropped;
            }
        };
        let Some(user) = self.state.admit_user(&rights) else {
            outbox.close(CONNECTION_LIMIT);
            return Rest::Dropped;
        };
        outbox.push(self.connect_result(id, "connect", &rights));
        self.phase = Phase::Connected { expires: self.expiry(&rights), rights, _user: user };
        Rest::Counts
    }

    /// A new token for the same user. Rooms that it no longer covers are left.
    fn refresh(&mut self, id: u32, request: &RefreshRequest, old: &Rights) {
        let outbox = self.admission.outbox.clone();
        let rights = match self.state.inner.verifier.verify(&request.token) {
            Ok(rights) if rights.tenant == old.tenant && rights.user == old.user => rights,
            Err(TokenError::Expired) => return outbox_error(&self.admission, id, TOKEN_EXPIRED),
            Ok(_) | Err(TokenError::Invalid(_)) => return outbox.close(INVALID_TOKEN),
        };
        outbox.push(self.connect_result(id, "refresh", &rights));
        for room in self.rooms.extract_if(|room| !rights.allows(room, Allow::Subscribe)) {
            self.state.inner.hub.leave(&room, self.admission.id);
            outbox.push(unsubscribe_push(&room, UNSUBSCRIBED_BY_SERVER));
        }
        let expires_at = self.expiry(&rights);
        if let Phase::Connected { rights: current, expires, .. } = &mut self.phase {
            (*current, *expires) = (rights, expires_at);
        }
    }

    fn connect_result(&self, id: u32, method: &str, rights: &Rights) -> String {
        let (config, connecting) = (&self.state.inner.config, method == "connect");
        let result = ConnectResult {
            client: &self.client,
            version: env!("CARGO_PKG_VERSION"),
            expires: true,
            ttl: rights.expires_at.saturating_sub(unix_now().as_secs()).max(1),
            // Whole seconds on the wire; never 0, which would mean that no pings come.
            ping: if connecting { config.ping.as_secs().max(1) } else { 0 },
            pong: connecting,
            session: if connecting { &self.client } else { "" },
            node: if connecting { &self.state.inner.node } else { "" },
        };
        reply(id, method, &result)
    }

    fn expiry(&self, rights: &Rights) -> Instant {
        let left = Duration::from_secs(rights.expires_at).saturating_sub(unix_now());
        // A token that is good for ever must not overflow the clock.
        Instant::now() + left.min(Duration::from_secs(100 * 365 * 86_400)) + self.state.inner.config.refresh_grace
    }

    fn subscribe(&mut self, id: u32, request: &SubscribeRequest, rights: &Rights) -> Result<(), ErrorCode> {
        if request.channel.is_empty() || request.channel.len() > ROOM_NAME_BYTES_MAX {
            return Err(BAD_COMMAND);
        }
        if !rights.allows(&request.channel, Allow::Subscribe) {
            return Err(PERMISSION_DENIED);
        }
        if request.tf.is_some() {
            return Err(NOT_AVAILABLE);
        }
        if self.rooms.len() >= self.state.inner.config.rooms_per_connection_max && !self.rooms.contains(&*request.channel) {
            return Err(LIMIT_EXCEEDED);
        }
        let member = Member { connection: self.admission.id, tenant: rights.tenant.clone(), outbox: self.admission.outbox.clone() };
        let (place, Joined { result, state, publications, live }) = self.state.inner.hub.join(&member, request)?;
        self.admission.outbox.fill(place, reply_with(id, "subscribe", &result, &[("state", &state), ("publications", &publications)]));
        if live {
            self.rooms.insert(request.channel.as_str().into());
        }
        Ok(())
    }

    /// Always succeeds: a client reconnects when it is told otherwise.
    fn unsubscribe(&mut self, id: u32, request: &UnsubscribeRequest) {
        if self.rooms.remove(&*request.channel) {
            self.state.inner.hub.leave(&request.channel, self.admission.id);
        }
        self.admission.outbox.push(format!("{{\"id\":{id},\"unsubscribe\":{{}}}}"));
    }

    fn history(&self, id: u32, request: &HistoryRequest, rights: &Rights) -> Result<String, ErrorCode> {
        if !rights.allows(&request.channel, Allow::History) {
            return Err(PERMISSION_DENIED);
        }
        let (position, publications) = self.state.inner.hub.history(request)?;
        let result = HistoryResult { epoch: position.epoch, offset: position.offset };
        Ok(reply_with(id, "history", &result, &[("publications", &publications)]))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let hub: &Hub = &self.state.inner.hub;
        self.rooms.iter().for_each(|room| hub.leave(room, self.admission.id));
    }
}

fn outbox_error(admission: &Admission, id: u32, error: ErrorCode) {
    metrics::counter!("headend_gateway_command_errors_total", "code" => error.code.to_string()).increment(1);
    admission.outbox.push(error_reply(id, error));
}

pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A token bucket: `burst` at once, `per_second` in the long run.
struct Bucket {
    tokens: f64,
    filled: Instant,
    per_second: f64,
    burst: f64,
}

impl Bucket {
    fn new(per_second: u32, burst: u32) -> Self {
        Self { tokens: burst.into(), filled: Instant::now(), per_second: per_second.into(), burst: burst.into() }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * self.per_second).min(self.burst);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        self.tokens -= if allowed { 1.0 } else { 0.0 };
        allowed
    }
}
