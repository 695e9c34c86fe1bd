//! What the API answers about the host: status, releases, plans as shown, doctor. Reads only.

pub mod doctor;
mod outline;
pub mod plan;
pub mod releases;
pub mod status;
