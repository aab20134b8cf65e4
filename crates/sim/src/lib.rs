//! Plays the world around two sites: hosts, line, clocks, disks, faults; and judges what the sites do.
//!
//! Two [`biplex_site::Site`]s, which are all of the product but the operating system, live in one single-threaded
//! process and in virtual time. Everything by chance comes from one seed: equal seeds give equal runs, byte for byte
//! ([`trace::Trace`] folds every event and order into one number, and a test compares it). Conflicting writes are the
//! default: the hosts of both sites use the same few blocks, and every block names the write that it came from.
//!
//! * [`scenario`] draws what a run plays from its seed: volumes and their modes, both hold tables, sizes, delays.
//!   *Polite* weather ends: then the pair must come to rest within bounded time, in step, with equal stores, and must
//!   still show the same bytes after both lose power. *Cruel* weather does not end; only safety is judged.
//! * [`world`] moves it all on; [`fault`] breaks it; [`disk`], [`link`], [`clock`] and [`host`] are its parts.
//! * [`unit`] is a store that is a SCSI unit and keeps the reservations, [`units`] its connections and what befalls it,
//!   [`kept`] what is judged of the two of a volume.
//! * [`claims`] is what hosts do about reservations, [`handover`] a script of its own for FIG. 22/23.
//! * [`explore`] takes no dice: it tries every order of a few commands through two engines alone.
//! * [`oracle`] lists the checks; [`history`] judges linearizability, [`order`] last-writer-wins, [`exclusion`] what
//!   reservations keep out, [`demands`] what requests must bring for the hosts, [`ending`] what a loss of power leaves.
//! * [`mutants`] shows for every planted bug which check sees it.
//!
//! # What is not modelled
//! * Units that are not our own target: those that tell nexuses apart otherwise, and foreign initiators at a unit. What
//!   units tell hosts, and PREEMPT AND ABORT there: `site/tests/passing.rs`.
//! * Silent corruption: no disk returns bytes other than those written, and no bit flips on the line (TLS and the
//!   records' checksums are tested elsewhere). A sector is written whole or not at all.
//! * Damage of a journal before its tail, and failing reads while a site recovers. A recovery may lose power, though.
//! * Losing a disk, a full backing store, a journal made anew while the peer still knows the old one.
//! * Orders on one disk that share sectors and are under way together end in any order, but each takes effect at one
//!   moment, except when it fails or power goes.
//! * Anything above [`biplex_front::Command`]: iSCSI sessions and SCSI are judged by their own tests and from outside.
//! * Clocks that run off by more than 200 ppm; mono clocks never jump. A paused process sees its clocks jump ahead.
//! * A third party on the line, wrong certificates, a peer of another version or configuration.
//! * The operating system's share: sockets' back-pressure is a byte count, processes share nothing.

pub mod claims;
pub mod clock;
pub mod demands;
pub mod disk;
pub mod ending;
pub mod exclusion;
pub mod explore;
pub mod fault;
pub mod handover;
pub mod history;
pub mod host;
pub mod journal;
pub mod kept;
pub mod link;
pub mod mutants;
pub mod oracle;
pub mod order;
pub mod pattern;
pub mod place;
pub mod random;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod sweep;
pub mod trace;
pub mod unit;
pub mod units;
pub mod world;
