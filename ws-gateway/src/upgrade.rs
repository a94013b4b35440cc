//! The door: who may open a WebSocket, and the handshake.

use crate::{
    connection::Connection,
    http::{Failure, failure, rooms_ready},
    state::{GatewayState, Refusal},
};
use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
    response::{IntoResponse, Response},
};
use std::net::SocketAddr;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const SUBPROTOCOL: &str = "centrifuge-json";

pub(crate) async fn upgrade(State(state): State<GatewayState>, mut request: Request) -> Result<Response, Failure> {
    let headers = request.headers();
    let key = handshake_key(headers)?;
    if !origin_allowed(headers, &state.inner.config.allowed_origins) {
        return Err(failure(StatusCode::FORBIDDEN, 103, "pages of this origin may not connect"));
    }
    rooms_ready(&state)?;
    let subprotocol = subprotocol(headers)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("the handshake's key is unusable"))?;
    let ip = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.ip());
    let admission = state.admit(ip).map_err(refused)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let connections = state.clone();
    state.inner.tasks.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => Connection::open(connections, admission, upgraded).await.run().await,
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        out.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Ok(response)
}

fn bad(message: &str) -> Failure {
    failure(StatusCode::BAD_REQUEST, 107, message)
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::ShuttingDown => failure(StatusCode::SERVICE_UNAVAILABLE, 100, "shutting down"),
        Refusal::TooMany => failure(StatusCode::SERVICE_UNAVAILABLE, 106, "too many connections"),
        Refusal::TooManyFromAddress => failure(StatusCode::TOO_MANY_REQUESTS, 106, "too many connections from this address"),
    }
}

/// The client's key, when the request is a WebSocket handshake of version 13.
fn handshake_key(headers: &HeaderMap) -> Result<HeaderValue, Failure> {
    let is =
        |name, word: &str| headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)));
    if !is(CONNECTION, "upgrade") || !is(UPGRADE, "websocket") || !is(SEC_WEBSOCKET_VERSION, "13") {
        return Err(failure(StatusCode::UPGRADE_REQUIRED, 107, "a WebSocket handshake of version 13 is expected"));
    }
    headers.get(SEC_WEBSOCKET_KEY).cloned().ok_or_else(|| bad("the handshake has no key"))
}

/// JSON is spoken whether it is named or not; a client that insists on another form must not be sent text.
fn subprotocol(headers: &HeaderMap) -> Result<Option<&'static str>, Failure> {
    let offered: Vec<&str> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect();
    match offered.as_slice() {
        [] => Ok(None),
        names if names.contains(&SUBPROTOCOL) => Ok(Some(SUBPROTOCOL)),
        _ => Err(bad("only the subprotocol `centrifuge-json` is spoken")),
    }
}

/// Programs send no origin. Pages do: of this very host, or of one that is listed.
fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(HOST).and_then(|h| h.to_str().ok());
    let same_host = origin.split_once("://").is_some_and(|(_, origin)| host.is_some_and(|host| host.eq_ignore_ascii_case(origin)));
    same_host || allowed.iter().any(|a| a.trim_end_matches('/').eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_of_the_own_host_and_of_listed_origins_may_connect_and_no_others() {
        let listed = ["https://noc.example:8443/".to_owned()];
        for (origin, allowed, expected) in [
            (None, &[][..], true),
            (Some("http://gw.example:80"), &[][..], true),
            (Some("http://gw.example"), &[][..], false),
            (Some("https://evil.example"), &[][..], false),
            (Some("null"), &listed[..], false),
            (Some("https://NOC.example:8443"), &listed[..], true),
            (Some("http://noc.example:8443"), &listed[..], false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("gw.example:80"));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(origin_allowed(&headers, allowed), expected, "{origin:?} {allowed:?}");
        }
    }
}
