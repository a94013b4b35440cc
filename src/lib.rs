//! Headend: a broadband operator's events in, churn risk, anomalies and demand out.
//!
//! The root package is the composition root: it knows every crate and holds no logic of theirs. [`cli`] says what can be asked,
//! [`config`] what can be set, [`commands`] answers it; [`engine`] runs the tasks, [`service`] puts gateway, door and metrics beside
//! them, with [`served_rooms`]; [`import`] brings files into the log, [`try_job`] runs a job over files and [`demo`] a whole operator.

pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod engine;
pub mod exit;
pub mod import;
pub mod logging;
pub mod memory;
pub mod served_rooms;
pub mod service;
pub mod try_job;
