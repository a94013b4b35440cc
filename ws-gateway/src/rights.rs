//! Who may see which room: tokens and the rights that they carry.
//!
//! A token is a JWT, HS256, that names its tenant and either a role, capabilities or both. Nothing in a token reaches
//! a room of another tenant: the tenant is the second part of a room's name and is compared before anything else.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees the room of one subscriber.
    Subscriber,
    /// Sees everything of the tenant's business.
    Admin,
    /// Sees the tenant's network.
    Noc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allow {
    #[serde(rename = "sub")]
    Subscribe,
    #[serde(rename = "hst")]
    History,
    #[serde(rename = "prs")]
    Presence,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    #[default]
    Exact,
    /// `*` stands for any run of characters.
    Wildcard,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    pub channels: Vec<String>,
    #[serde(default, rename = "match")]
    pub matching: Match,
    pub allow: Vec<Allow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user, or the subscriber where `subscriber` is not given.
    pub sub: String,
    /// Seconds since 1970.
    pub exp: u64,
    #[serde(default)]
    pub iat: u64,
    pub tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<Capability>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct MintError(#[from] jsonwebtoken::errors::Error);

/// Signs `claims` with `secret`, HS256.
pub fn mint(secret: &str, claims: &Claims) -> Result<String, MintError> {
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("token expired")]
    Expired,
    #[error("invalid token: {0}")]
    Invalid(String),
}

/// Reads tokens: the secret of now, then the one before it.
pub(crate) struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
}

impl Verifier {
    pub fn new(secret: &str, previous: Option<&str>) -> Self {
        let keys = std::iter::once(secret).chain(previous).map(|s| DecodingKey::from_secret(s.as_bytes())).collect();
        let mut validation = Validation::new(Algorithm::HS256);
        // The connection has a grace of its own after the token's end; a second one here would hide it.
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        Self { keys, validation }
    }

    pub fn verify(&self, token: &str) -> Result<Rights, TokenError> {
        let mut refused = TokenError::Invalid("no key".to_owned());
        for key in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(token) => return Rights::new(token.claims),
                Err(e) if matches!(e.kind(), ErrorKind::ExpiredSignature) => return Err(TokenError::Expired),
                Err(e) => refused = TokenError::Invalid(e.to_string()),
            }
        }
        Err(refused)
    }
}

/// What the bearer of one token may do.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    pub tenant: Arc<str>,
    pub user: String,
    /// Seconds since 1970.
    pub expires_at: u64,
    role: Option<Role>,
    caps: Vec<Capability>,
    subscriber: String,
}

impl Rights {
    fn new(claims: Claims) -> Result<Self, TokenError> {
        if claims.sub.is_empty() || claims.tenant.is_empty() || claims.tenant.contains([':', '*']) {
            return Err(TokenError::Invalid("`sub` and `tenant` must be names".to_owned()));
        }
        let subscriber = claims.subscriber.unwrap_or_else(|| claims.sub.clone());
        Ok(Self { tenant: claims.tenant.into(), user: claims.sub, expires_at: claims.exp, role: claims.role, caps: claims.caps, subscriber })
    }

    pub fn allows(&self, room: &str, what: Allow) -> bool {
        let mut parts = room.splitn(3, ':');
        let (kind, tenant, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        tenant == Some(&*self.tenant) && (what != Allow::Presence && self.role_allows(kind, rest) || self.capability_allows(room, what))
    }

    fn role_allows(&self, kind: &str, rest: Option<&str>) -> bool {
        match (self.role, kind, rest) {
            (Some(Role::Subscriber), "sub", Some(subscriber)) => subscriber == self.subscriber,
            (Some(Role::Admin), "sub", Some(_)) | (Some(Role::Noc), "noc", _) => true,
            (Some(Role::Admin), "admin" | "risk" | "demand" | "alerts" | "stats", None) => true,
            (Some(Role::Noc), "alerts" | "demand" | "stats", None) => true,
            _ => false,
        }
    }

    fn capability_allows(&self, room: &str, what: Allow) -> bool {
        self.caps.iter().filter(|c| c.allow.contains(&what)).any(|c| {
            c.channels.iter().any(|pattern| match c.matching {
                Match::Exact => pattern == room,
                Match::Wildcard => wildcard_matches(pattern, room),
            })
        })
    }

    /// The rooms of the role that have a name of their own, for a page that wants to open them all.
    pub fn named_rooms(&self) -> Vec<String> {
        let kinds = ["admin", "noc", "risk", "demand", "alerts", "stats"].iter().map(|k| format!("{k}:{}", self.tenant));
        kinds.filter(|room| self.allows(room, Allow::Subscribe)).collect()
    }
}

/// Greedy from the left is enough for `*` alone: every piece between stars may stand at its first place.
fn wildcard_matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(head) else { return false };
    let mut pieces = tail.split('*').collect::<Vec<_>>();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn claims(role: Option<Role>, caps: Vec<Capability>) -> Claims {
        Claims { sub: "u1".into(), exp: 4_000_000_000, iat: 0, tenant: "acme".into(), role, caps, subscriber: None }
    }

    fn rights(role: Option<Role>, caps: Vec<Capability>) -> Rights {
        Rights::new(claims(role, caps)).unwrap()
    }

    #[test]
    fn roles_see_their_rooms_and_no_others() {
        for (role, yes, no) in [
            (Role::Subscriber, vec!["sub:acme:u1"], vec!["sub:acme:u2", "sub:acme", "admin:acme", "alerts:acme", "sub:other:u1"]),
            (
                Role::Admin,
                vec!["admin:acme", "risk:acme", "demand:acme", "alerts:acme", "stats:acme", "sub:acme:u9"],
                vec!["noc:acme", "admin:other", "sub:other:u1", "admin", "admin:acme:x", ""],
            ),
            (
                Role::Noc,
                vec!["noc:acme", "noc:acme:north", "alerts:acme", "demand:acme", "stats:acme"],
                vec!["risk:acme", "admin:acme", "sub:acme:u1", "noc:acme2", "noc:other:north"],
            ),
        ] {
            let rights = rights(Some(role), vec![]);
            for (rooms, expected) in [(yes, true), (no, false)] {
                for room in rooms {
                    assert_eq!(rights.allows(room, Allow::Subscribe), expected, "{role:?} {room}");
                }
            }
        }
    }

    #[test]
    fn capabilities_add_rooms_of_the_own_tenant_only() {
        let cap =
            Capability { channels: vec!["alerts:acme".into(), "noc:*:north*".into(), "*".into()], matching: Match::Wildcard, allow: vec![Allow::Subscribe] };
        let any = rights(None, vec![cap.clone()]);
        assert!(any.allows("noc:acme:north-1", Allow::Subscribe) && any.allows("risk:acme", Allow::Subscribe));
        assert!(!any.allows("alerts:acme", Allow::History), "only what is allowed");
        assert!(!any.allows("alerts:other", Allow::Subscribe), "never another tenant");
        let exact = rights(None, vec![Capability { matching: Match::Exact, ..cap }]);
        assert!(exact.allows("alerts:acme", Allow::Subscribe) && !exact.allows("noc:acme:north", Allow::Subscribe));
    }

    #[test]
    fn wildcards_match_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("a*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("a*b*c", "axbxbc", true),
            ("a*b*c", "axc", false),
            ("ab*ba", "aba", false),
            ("a", "ab", false),
        ] {
            assert_eq!(wildcard_matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn tokens_are_taken_under_both_secrets_and_refused_otherwise() {
        let verifier = Verifier::new("new", Some("old"));
        for secret in ["new", "old"] {
            let token = mint(secret, &claims(Some(Role::Admin), vec![])).unwrap();
            assert_eq!(&*verifier.verify(&token).unwrap().tenant, "acme");
            let expired = mint(secret, &Claims { exp: 1_000, ..claims(None, vec![]) }).unwrap();
            assert_eq!(verifier.verify(&expired).unwrap_err(), TokenError::Expired);
        }
        let foreign = mint("other", &Claims { exp: 1_000, ..claims(None, vec![]) }).unwrap();
        let nameless = mint("new", &Claims { tenant: "a:b".into(), ..claims(None, vec![]) }).unwrap();
        // The header of an unsigned token: `{"alg":"none","typ":"JWT"}`.
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", foreign.split('.').nth(1).unwrap());
        for token in [&foreign, &nameless, &unsigned, "", "a.b.c"] {
            assert!(matches!(verifier.verify(token), Err(TokenError::Invalid(_))), "{token}");
        }
    }
}
