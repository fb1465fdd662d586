//! Where deliveries come from.

pub mod rabbitmq;
pub mod envelope;
mod set_aside;
