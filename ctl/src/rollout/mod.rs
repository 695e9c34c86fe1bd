//! A change of an app on many hosts, driven from here: every host does its own part alone and keeps what a
//! rollout is, so that any other ctl can show it, go on with it or take it back.
//!
//! | module | does |
//! |---|---|
//! | [`plan`] | PURE: placement, label, waves, who migrates, the token, what is left, what an abort undoes |
//! | [`outcome`] | PURE: how each host ended, the exit code of them together, what serves then |
//! | [`lease`] | the deploy locks: taken in the order of the hosts, renewed, released on every way out |
//! | [`crew`] | which hosts a verb is for, and which of them answer |
//! | [`prepare`] | what is pushed, and what each host says to it |
//! | [`drive`] | waves of deployments, followed |
//! | [`undo`] | taking hosts back |
//! | [`send`] | files to one host |
//! | [`migrate`] | what a migration writes, while it runs |
//! | [`record`] | what the hosts keep of a rollout: written, found again |
//! | [`report`] | the end in words, and as JSON |
//!
//! One host is a rollout of one: the local mode takes the same way.

pub(crate) mod crew;
pub(crate) mod drive;
pub(crate) mod lease;
pub(crate) mod migrate;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod prepare;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod send;
pub(crate) mod undo;
