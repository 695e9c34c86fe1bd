//! What the API answers about the host: status, releases, plans as shown, doctor. Reads only.

pub mod doctor;
pub mod plan;
pub mod status;
