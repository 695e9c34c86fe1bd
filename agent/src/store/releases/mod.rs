//! Release trees.
