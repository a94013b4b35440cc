//! The wire: commands as clients send them, replies, pushes, error codes and close codes.
//!
//! A frame holds objects separated by line breaks. Zero values are left out. A close always has a reason that is
//! neither empty nor JSON: clients read advice from a JSON reason and forget the meaning of the code without one.

use crate::{
    publication::{Publication, push_text},
    rooms::NotInHistory,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A reason to close a connection, as code and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    pub reason: &'static str,
}

const fn close(code: u16, reason: &'static str) -> Close {
    Close { code, reason }
}

pub(crate) const TOO_LARGE: Close = close(1009, "message size limit exceeded");
pub(crate) const SHUTDOWN: Close = close(3001, "shutdown");
pub(crate) const EXPIRED: Close = close(3005, "connection expired");
pub(crate) const SLOW: Close = close(3008, "slow");
pub(crate) const FORCE_RECONNECT: Close = close(3011, "force reconnect");
pub(crate) const NO_PONG: Close = close(3012, "no pong");
pub(crate) const TOO_MANY_COMMANDS: Close = close(3013, "too many requests");
pub(crate) const INVALID_TOKEN: Close = close(3500, "invalid token");
pub(crate) const BAD_REQUEST: Close = close(3501, "bad request");
pub(crate) const STALE: Close = close(3502, "stale");
pub(crate) const CONNECTION_LIMIT: Close = close(3504, "connection limit");
pub(crate) const WRONG_PROTOCOL: Close = close(3506, "inappropriate protocol");

/// An error that answers one command and leaves the connection as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorCode {
    pub code: u32,
    pub message: &'static str,
}

/// The one error after which the same command may succeed: the client tries again, later each time.
pub(crate) const NOT_YET: ErrorCode = ErrorCode { code: 100, message: "this gateway has not come so far yet" };
pub(crate) const PERMISSION_DENIED: ErrorCode = ErrorCode { code: 103, message: "permission denied" };
pub(crate) const ALREADY_SUBSCRIBED: ErrorCode = ErrorCode { code: 105, message: "already subscribed" };
pub(crate) const LIMIT_EXCEEDED: ErrorCode = ErrorCode { code: 106, message: "limit exceeded" };
pub(crate) const BAD_COMMAND: ErrorCode = ErrorCode { code: 107, message: "bad request" };
pub(crate) const NOT_AVAILABLE: ErrorCode = ErrorCode { code: 108, message: "not available" };
pub(crate) const TOKEN_EXPIRED: ErrorCode = ErrorCode { code: 109, message: "token expired" };
pub(crate) const UNRECOVERABLE: ErrorCode = ErrorCode { code: 112, message: "unrecoverable position" };

impl From<NotInHistory> for ErrorCode {
    fn from(why: NotInHistory) -> Self {
        match why {
            NotInHistory::Gone => UNRECOVERABLE,
            NotInHistory::Ahead => NOT_YET,
        }
    }
}

/// Codes of an unsubscribe push: from 2500 on the client subscribes again.
pub(crate) const UNSUBSCRIBED_BY_SERVER: ErrorCode = ErrorCode { code: 2000, message: "server unsubscribe" };
pub(crate) const INSUFFICIENT_STATE: ErrorCode = ErrorCode { code: 2500, message: "insufficient state" };

/// The server's ping, and the client's pong.
pub(crate) const PING: &str = "{}";

#[derive(Debug)]
pub(crate) enum Command {
    Pong,
    /// A message without an answer. Headend takes none; it is ignored.
    Send,
    Method(u32, Method),
}

#[derive(Debug)]
pub(crate) enum Method {
    Connect(ConnectRequest),
    Subscribe(SubscribeRequest),
    Unsubscribe(UnsubscribeRequest),
    History(HistoryRequest),
    Refresh(RefreshRequest),
    Ping,
    /// Known to the protocol and not to Headend, or to neither.
    Unsupported,
    /// A known method whose fields cannot be read.
    Malformed,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectRequest {
    pub token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RefreshRequest {
    pub token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SubscribeRequest {
    pub channel: String,
    pub recover: bool,
    pub epoch: String,
    pub offset: u64,
    pub flag: u64,
    #[serde(rename = "type")]
    pub kind: u32,
    pub phase: u32,
    pub cursor: String,
    pub limit: i64,
    /// A filter by tags. Not offered; to ignore it would send what the client asked not to get.
    pub tf: Option<serde::de::IgnoredAny>,
}

/// Bit of [`SubscribeRequest::flag`]: a failed recovery is an error and not a subscription.
pub(crate) const FLAG_REJECT_UNRECOVERED: u64 = 2;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UnsubscribeRequest {
    pub channel: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HistoryRequest {
    pub channel: String,
    pub limit: i64,
    pub since: Option<Since>,
    pub reverse: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Since {
    pub offset: u64,
    pub epoch: String,
}

impl Command {
    /// Reads one line of a frame. `None`: not a command; the connection cannot go on.
    pub fn parse(line: &str) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
        let id = match fields.get("id") {
            None | Some(Value::Null) => 0,
            Some(id) => u32::try_from(id.as_u64()?).ok()?,
        };
        // The first field that is set says what it is.
        let method = fields.into_iter().find(|(name, value)| name != "id" && !value.is_null());
        match (id, method) {
            (0, None) => Some(Command::Pong),
            (_, Some((name, _))) if name == "send" => Some(Command::Send),
            (0, Some(_)) => None,
            (id, method) => Some(Command::Method(id, method.map_or(Method::Unsupported, |(name, value)| Method::read(&name, value)))),
        }
    }
}

impl Method {
    fn read(name: &str, value: Value) -> Self {
        fn request<T: DeserializeOwned>(value: Value, method: fn(T) -> Method) -> Method {
            let Value::Object(mut fields) = value else { return Method::Malformed };
            fields.retain(|_, v| !v.is_null());
            serde_json::from_value(Value::Object(fields)).map_or(Method::Malformed, method)
        }
        match name {
            "connect" => request(value, Method::Connect),
            "subscribe" => request(value, Method::Subscribe),
            "unsubscribe" => request(value, Method::Unsubscribe),
            "history" => request(value, Method::History),
            "refresh" => request(value, Method::Refresh),
            "ping" => Method::Ping,
            _ => Method::Unsupported,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct ConnectResult<'a> {
    pub client: &'a str,
    pub version: &'static str,
    pub expires: bool,
    pub ttl: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub ping: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub pong: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub session: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub node: &'a str,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct SubscribeResult {
    #[serde(rename = "type", skip_serializing_if = "is_zero_u32")]
    pub kind: u32,
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub phase: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub recoverable: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub positioned: bool,
    pub epoch: Arc<str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub recovered: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub was_recovering: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cursor: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct HistoryResult {
    pub epoch: Arc<str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
}

fn is_zero(v: &u64) -> bool {
    *v == 0
}

fn is_zero_u32(v: &u32) -> bool {
    *v == 0
}

fn is_false(v: &bool) -> bool {
    !v
}

/// `{"id":…,"<method>":<result>}`.
pub(crate) fn reply(id: u32, method: &str, result: &impl Serialize) -> String {
    reply_with(id, method, result, &[])
}

/// The same, with lists of publications as further fields of the result; empty lists are left out.
pub(crate) fn reply_with(id: u32, method: &str, result: &impl Serialize, lists: &[(&str, &[Arc<Publication>])]) -> String {
    let mut out = format!("{{\"id\":{id},\"{method}\":");
    push_object(&mut out, result, lists);
    out.push('}');
    out
}

/// An object with lists of publications as further fields. `head` is a plain struct: it cannot fail to serialize.
pub(crate) fn push_object(out: &mut String, head: &impl Serialize, lists: &[(&str, &[Arc<Publication>])]) {
    let head = serde_json::to_string(head).unwrap_or_else(|_| "{}".to_owned());
    out.push_str(head.strip_suffix('}').unwrap_or("{"));
    for (name, publications) in lists.iter().filter(|(_, publications)| !publications.is_empty()) {
        if !out.ends_with('{') {
            out.push(',');
        }
        out.push_str(&format!("\"{name}\":"));
        push_array(out, publications);
    }
    out.push('}');
}

pub(crate) fn push_array(out: &mut String, publications: &[Arc<Publication>]) {
    out.reserve(publications.iter().map(|p| p.body().len() + 1).sum::<usize>() + 2);
    out.push('[');
    for (i, publication) in publications.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(publication.body());
    }
    out.push(']');
}

pub(crate) fn error_reply(id: u32, error: ErrorCode) -> String {
    let temporary = if error == NOT_YET { ",\"temporary\":true" } else { "" };
    format!("{{\"id\":{id},\"error\":{{\"code\":{},\"message\":\"{}\"{temporary}}}}}", error.code, error.message)
}

pub(crate) fn unsubscribe_push(room: &str, why: ErrorCode) -> String {
    let mut out = "{\"push\":{\"channel\":".to_owned();
    push_text(&mut out, room);
    out.push_str(&format!(",\"unsubscribe\":{{\"code\":{},\"reason\":\"{}\"}}}}}}", why.code, why.message));
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn first_field_that_is_set_says_what_a_command_is() {
        assert!(matches!(Command::parse("{}"), Some(Command::Pong)));
        assert!(matches!(Command::parse(r#"{"send":{"data":1}}"#), Some(Command::Send)));
        assert!(
            matches!(Command::parse(r#"{"id":3,"connect":null,"unsubscribe":{"channel":"a"},"subscribe":{}}"#), Some(Command::Method(3, Method::Unsubscribe(u))) if u.channel == "a")
        );
        assert!(matches!(Command::parse(r#"{"id":3,"rpc":{"method":"x"}}"#), Some(Command::Method(3, Method::Unsupported))));
        assert!(matches!(Command::parse(r#"{"id":3}"#), Some(Command::Method(3, Method::Unsupported))));
        assert!(matches!(Command::parse(r#"{"id":3,"subscribe":{"offset":"x"}}"#), Some(Command::Method(3, Method::Malformed))));
        assert!(
            matches!(Command::parse(r#"{"id":3,"subscribe":{"channel":"r","epoch":null,"limit":-1}}"#), Some(Command::Method(3, Method::Subscribe(s))) if s.epoch.is_empty() && s.limit == -1)
        );
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for line in ["", "[]", "7", "{", r#"{"connect":{}}"#, r#"{"id":-1,"connect":{}}"#, r#"{"id":5000000000}"#, r#"{"id":"1"}"#] {
            assert!(Command::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn reasons_of_closes_are_text_that_is_not_json() {
        for close in [
            TOO_LARGE,
            SHUTDOWN,
            EXPIRED,
            SLOW,
            FORCE_RECONNECT,
            NO_PONG,
            TOO_MANY_COMMANDS,
            INVALID_TOKEN,
            BAD_REQUEST,
            STALE,
            CONNECTION_LIMIT,
            WRONG_PROTOCOL,
        ] {
            assert!(!close.reason.is_empty() && close.reason.len() <= 123);
            assert!(serde_json::from_str::<Value>(close.reason).is_err());
        }
    }

    #[test]
    fn zero_values_are_left_out() {
        let result = SubscribeResult { epoch: "e".into(), ..SubscribeResult::default() };
        assert_eq!(reply_with(4, "subscribe", &result, &[("state", &[])]), r#"{"id":4,"subscribe":{"epoch":"e"}}"#);
        assert_eq!(unsubscribe_push("r:\"a", INSUFFICIENT_STATE), r#"{"push":{"channel":"r:\"a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#);
    }
}
