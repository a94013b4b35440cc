//! Ingest through its public doors.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod bench;
mod broker;
mod contract;
mod damage;
mod decode;
mod door;
mod embedded;
mod kafka;
