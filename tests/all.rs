//! One binary for all tests of the whole program: DataFusion is linked once.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cli;
mod house;
mod import;
