//! `headend token`: a JWT for the gateway, signed with the configuration's secret.

use crate::{
    cli::{TokenArgs, TokenRole},
    config,
};
use anyhow::Context;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ws_gateway::{Claims, Role, mint};

pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let secret = config::load_secret(&args.config.config)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = claims(args, now);
    let token = mint(secret.expose(), &claims).context("cannot mint a token")?;
    if args.json {
        let expires = schemas::clock::rfc3339(i64::try_from(claims.exp).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        return super::print(super::pretty(&serde_json::json!({"token": token, "expires": expires, "tenant": claims.tenant, "subscriber": claims.subscriber})));
    }
    super::print(token)
}

fn claims(args: &TokenArgs, now: Duration) -> Claims {
    let role = match args.role {
        TokenRole::Subscriber => Role::Subscriber,
        TokenRole::Admin => Role::Admin,
        TokenRole::Noc => Role::Noc,
    };
    let sub = args.subscriber.clone().unwrap_or_else(|| "headend-token".to_owned());
    Claims {
        sub,
        exp: now.saturating_add(args.ttl).as_secs(),
        iat: now.as_secs(),
        tenant: args.tenant.clone(),
        role: Some(role),
        caps: Vec::new(),
        subscriber: args.subscriber.clone(),
    }
}
