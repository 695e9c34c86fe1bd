//! The bind() shim.
