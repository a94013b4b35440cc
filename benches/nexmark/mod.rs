//! Nexmark: an auction house as three streams, and twenty-three questions about it.
//!
//! [`generator`] makes the events, a function of a seed; `queries/*.sql` are the questions as jobs; [`model`] answers them a second
//! time, in plain loops over all events; [`queries`] is the table that holds the three together. [`driver`] alone knows what an engine takes
//! and gives. The benchmark and the tests both stand on it.
//!
//! Source: P. Tucker, K. Tufte, V. Papadimos and D. Maier, "NEXMark: A Benchmark for Queries over Data Streams", 2002, with the events
//! of Apache Beam's suite and the queries of `nexmark/nexmark` for SQL. What differs stands in the first comment of each query.

pub mod driver;
pub mod event;
pub mod generator;
pub mod model;
pub mod queries;
pub mod random;
pub mod time;
