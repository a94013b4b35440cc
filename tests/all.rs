//! One binary for all tests of the whole program: DataFusion is linked once.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod bad_input;
mod by_hand;
mod cases;
mod changes;
mod cli;
mod damage;
mod demand;
mod house;
mod import;
mod kafka;
mod kafka_faults;
mod nexmark;
mod random_jobs;
mod real_data;
mod retail;
mod why;
mod wrong_sql;
