//! The daemon `biplex` and its command line: everything that touches the operating system, and nothing that decides.
//!
//! One core thread waits for sockets and runs the site ([`core_loop`]); one thread writes the journal and a few
//! serve the stores ([`disks`]); one listens to the operator ([`admin`]). All they exchange are letters ([`mailbox`]).

pub mod admin;
pub mod calm;
pub mod cli;
pub mod config;
pub mod core_loop;
pub mod demo;
pub mod disks;
pub mod extract;
pub mod fingerprint;
pub mod hosts;
pub mod initiator;
pub mod keys;
pub mod link;
pub mod mailbox;
pub mod path;
pub mod render;
pub mod serve;
pub mod tls;
pub mod units;
pub mod wire;
