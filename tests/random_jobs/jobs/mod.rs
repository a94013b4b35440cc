//! Random jobs, their streams, and what must come out of them by a naive calculation.

pub mod aggregate;
pub mod cases;
pub mod changes;
pub mod exact_sum;
pub mod expression;
pub mod generate;
pub mod generate_joins;
pub mod generate_rows;
pub mod generate_views;
pub mod job;
pub mod joins;
pub mod model;
pub mod random;
pub mod shape;
pub mod shrink;
pub mod sql;
pub mod value;
pub mod windows;
