//! The decisions of deployd, and nothing else: no I/O, no clock, no async.
//!
//! | module | decides |
//! |---|---|
//! | [`action`] | the vocabulary: everything that can be done to a host, as data |
//! | [`plan`](mod@plan) | request + spec + facts → a complete [`Plan`](plan::Plan), or a refusal |
//! | [`facts`] | what the planner may know about a host |
//! | [`units`] | the text of every systemd unit |
//! | [`journal`] | the records of a deployment |
//! | [`machine`] | (progress, record) → progress; progress → what to do next |
//! | [`state`] | what a host knows of an app, changed only by the outcome of actions |
//! | [`change`](mod@change) | the vocabulary of those changes |
//! | [`health`] | samples of a check → passing, waiting, failed |
//! | [`retention`] | which releases may go |
//! | [`secrets`] | where the sealed secrets of a release are |
//! | [`diff`] | what changed between two releases, for people |
//! | [`steering`] | classic BPF programs, and the model of a reuseport group's index order |
//! | [`told`] | actions in words, and what they act on |
//! | [`lint`] | what every plan must hold; `doctor` and the tests run it |
//!
//! Invariants: every path, unit name, timeout and threshold is chosen here, in the plan; the agent only
//! carries it out. The live run and the replay after a crash use the same transition function. A step
//! cannot exist without its undo and its deadline.

pub mod action;
pub mod change;
pub mod diff;
pub mod facts;
pub mod health;
pub mod journal;
pub mod lint;
pub mod machine;
pub mod plan;
pub mod retention;
pub mod secrets;
pub mod state;
pub mod steering;
pub mod told;
pub mod units;
