//! The HTTP API: rooms for those without a socket, health, metrics, the dashboard.

use crate::{
    assets::asset,
    commands::unix_now,
    health::ROOMS_CHECK,
    protocol::{HistoryRequest, Since, push_array, push_object},
    publication::Publication,
    rights::{Allow, Claims, Rights, TokenError, mint},
    state::GatewayState,
    upgrade::upgrade,
};
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::json;
use std::{ops::Bound, sync::Arc};

/// Everything that the gateway answers. Serve it with the peer's address as `ConnectInfo<SocketAddr>`, as
/// [`crate::serve`] does: without it connections are not limited by address.
pub fn router(state: GatewayState) -> Router {
    Router::new()
        .route("/connection/websocket", get(upgrade))
        .route("/v1/rooms/{room}/state", get(room_state))
        .route("/v1/rooms/{room}/history", get(room_history))
        .route("/v1/session", get(session))
        .route("/metrics", get(metrics_text))
        .route("/v1/why/{view}", get(why))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .fallback(get(asset))
        .with_state(state)
}

/// An answer other than success, as `{"error":{"code","message"}}` with the codes of the protocol.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: u32,
    message: String,
}

pub(crate) fn failure(status: StatusCode, code: u32, message: impl Into<String>) -> Failure {
    Failure { status, code, message: message.into() }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"error": {"code": self.code, "message": self.message}}))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// As open as the metrics: names of views and numbers.
async fn why(State(state): State<GatewayState>, Path(view): Path<String>) -> Result<Response, Failure> {
    let answer = state.inner.why.get().and_then(|why| why(&view));
    answer.map(|answer| Json(answer).into_response()).ok_or_else(|| failure(StatusCode::NOT_FOUND, 102, format!("there is no view `{view}`")))
}

/// Rooms are served when all that was said in them is known.
pub(crate) fn rooms_ready(state: &GatewayState) -> Result<(), Failure> {
    let why = state.inner.readiness.failure_of(ROOMS_CHECK);
    why.map_or(Ok(()), |why| Err(failure(StatusCode::SERVICE_UNAVAILABLE, 100, format!("rooms are not served yet: {why}"))))
}

fn rights(state: &GatewayState, headers: &HeaderMap, room: &str, what: Allow) -> Result<Rights, Failure> {
    rooms_ready(state)?;
    let token = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| failure(StatusCode::UNAUTHORIZED, 101, "a bearer token is needed"))?;
    let rights = state.inner.verifier.verify(token.trim()).map_err(|e| {
        let code = if e == TokenError::Expired { 109 } else { 101 };
        failure(StatusCode::UNAUTHORIZED, code, e.to_string())
    })?;
    if !rights.allows(room, what) {
        return Err(failure(StatusCode::FORBIDDEN, 103, format!("permission denied for room `{room}`")));
    }
    Ok(rights)
}

#[derive(Deserialize)]
struct StatePage {
    /// Entries in the answer; without it, all.
    limit: Option<usize>,
    /// Key after which the page starts.
    after: Option<String>,
}

/// The rows of a state room in key order. A client without map subscriptions reads this and subscribes with
/// `recover` from the answer's position. Pages are not frozen: recover from the position of the first.
async fn room_state(
    State(state): State<GatewayState>,
    Path(room): Path<String>,
    Query(page): Query<StatePage>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    rights(&state, &headers, &room, Allow::Subscribe)?;
    let (position, rows) =
        state.inner.hub.state(&room).ok_or_else(|| failure(StatusCode::NOT_FOUND, 102, format!("room `{room}` is a stream and has no state")))?;
    let from = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let rows = rows.range::<str, _>((from, Bound::Unbounded)).map(|(_, row)| row.clone());
    let entries: Vec<Arc<Publication>> = rows.take(page.limit.unwrap_or(usize::MAX)).collect();
    // Unlike in the protocol, nothing is left out here: a plain client should find every field.
    let mut body = format!("{{\"epoch\":{},\"offset\":{},\"entries\":", json!(&*position.epoch), position.offset);
    push_array(&mut body, &entries);
    body.push('}');
    Ok(json_body(body))
}

#[derive(Deserialize)]
struct HistoryPage {
    /// Offset after which the page starts.
    since: Option<u64>,
    limit: Option<u32>,
}

async fn room_history(
    State(state): State<GatewayState>,
    Path(room): Path<String>,
    Query(page): Query<HistoryPage>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    rights(&state, &headers, &room, Allow::History)?;
    let since = page.since.map(|offset| Since { offset, epoch: String::new() });
    let request = HistoryRequest { channel: room, limit: page.limit.map_or(-1, i64::from), since, reverse: false };
    let (position, publications) = state.inner.hub.history(&request).map_err(|e| failure(StatusCode::CONFLICT, e.code, e.message))?;
    let mut body = String::new();
    push_object(&mut body, &position, &[]);
    body.pop();
    body.push_str(",\"publications\":");
    push_array(&mut body, &publications);
    body.push('}');
    Ok(json_body(body))
}

fn json_body(body: String) -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// A session for whoever opens the page, where the configuration says so.
async fn session(State(state): State<GatewayState>) -> Result<Response, Failure> {
    let demo = state.inner.config.demo_session.as_ref().ok_or_else(|| failure(StatusCode::NOT_FOUND, 102, "this gateway gives no sessions"))?;
    let iat = unix_now().as_secs();
    let exp = iat + demo.ttl.as_secs();
    let claims = Claims { sub: demo.sub.clone(), exp, iat, tenant: demo.tenant.clone(), role: Some(demo.role), caps: demo.caps.clone(), subscriber: None };
    let internal = |e: String| failure(StatusCode::INTERNAL_SERVER_ERROR, 100, e);
    let token = mint(&state.inner.config.secret, &claims).map_err(|e| internal(e.to_string()))?;
    let rights = state.inner.verifier.verify(&token).map_err(|e| internal(e.to_string()))?;
    let body = json!({"token": token, "tenant": demo.tenant, "user": demo.sub, "role": demo.role, "rooms": rights.named_rooms(), "ttl": demo.ttl.as_secs(), "generated": demo.generated});
    Ok(json_body(body.to_string()))
}

async fn metrics_text(State(state): State<GatewayState>) -> Response {
    state.inner.metrics.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.inner.metrics.render()).into_response()
}

async fn readyz(State(state): State<GatewayState>) -> Response {
    let failing = state.inner.readiness.failing();
    let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ready": failing.is_empty(), "failing": failing}))).into_response()
}
