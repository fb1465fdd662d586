//! Where deliveries come from.

pub mod envelope;
pub mod rabbitmq;
mod set_aside;
