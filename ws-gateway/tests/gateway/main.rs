//! The gateway through its public doors: a real listener, a real WebSocket client, real HTTP.
#![allow(clippy::unwrap_used)]

mod api;
mod client;
mod limits;
mod map;
mod protocol;
mod recovery;
