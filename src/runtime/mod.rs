//! Services that workers provide to connections: time, random bytes, tasks, timers, cycles, guards, and the phases of
//! the process.

pub mod clock;
pub mod entropy;
pub mod socket;
pub mod socket_state;
pub mod lifecycle;
pub mod tasks;
pub mod cycle;
pub mod tls_socket;
pub mod handshake_pacing;
pub mod timers;
pub mod pending_limit;
pub mod request_limit;
pub mod guard;
