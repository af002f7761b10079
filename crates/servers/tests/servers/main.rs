//! The private servers, started for real.

mod common;
mod docker;
mod ministack;
mod postgres;
mod rabbitmq;
mod run;
