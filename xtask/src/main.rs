//! deployd: the root agent.
fn main() {}
