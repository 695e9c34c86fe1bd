//! The test rig: real systemd hosts, load, latency and packages for the black-box suites in `tests/tests`.
//!
//! It sees deployd only from outside (packages, commands, sockets) and never links the agent or ctl.
//! Called by the suites, by `cargo xtask test | demo | bench | package`, and by nobody else.
//!
//! | module | purpose |
//! |---|---|
//! | [`image`] | Debian roots, made once and cached |
//! | [`machine`] | a host: boot, run commands in it, reboot, crash, clean up always |
//! | [`netns`] | network namespaces: create, enter from a thread |
//! | [`load`] | the load generator and the analysis of what it saw |
//! | [`tun`] | a relay that adds round-trip time between two namespaces |
//! | [`package`] | release binaries and the two .debs |
//! | [`regime`] | the conditions under which releases are swapped |
//! | [`site`] | a host with deployd and a fixture app, driven through ctl |
//! | [`fleet`] | several hosts and an operator's machine, and the shop on all of them |
//! | [`pki`] | certificates of the rig's own, right ones and wrong ones |
//! | [`api`] | the agents' API without ctl: through the local socket |
//! | [`tls`] | clients of that API over the network, with any certificate or none |
//! | [`flood`] | connections that want nothing but to be in the way |
//! | [`tutorial`] | the commands of a page of the documentation |
//! | [`control`] | the same fixture replaced without deployd: what must lose |
//! | [`programs`] | other programs to deploy: Node, Python, a `mix release` |
//! | [`ask`] | single requests, and who answered them |
//! | [`serving`] | whether every instance serves |
//! | [`shop`] | the spec of the fixture app, the load on it, what is left of it |
//! | [`pid1`] | when PID 1 stopped and started a unit, by its own clock |
//! | [`websocket`] | clients that hold a WebSocket |
//! | [`timeline`] | when the steps of a deployment happened |
//! | [`crash`] | kills the agent at a record of its journal |
//! | [`deb`] | installs those packages in a host |
//! | [`wait`] | the one way to wait for something |
//! | [`effort`] | how much to test: default or full, and the seed of samples |

pub mod api;
pub mod ask;
pub mod control;
pub mod crash;
pub mod deb;
pub mod effort;
pub mod fleet;
pub mod flood;
pub mod image;
pub mod load;
pub mod machine;
pub mod netns;
pub mod package;
pub mod pid1;
pub mod pki;
pub mod programs;
pub mod regime;
pub mod serving;
pub mod shop;
pub mod site;
pub mod timeline;
pub mod tls;
pub mod tun;
pub mod tutorial;
pub mod wait;
pub mod websocket;
