//! Engines as numbers: equal states of an engine are one number, and what a fact makes of a state is worked out once.
//!
//! An engine is a function of its state and a fact. So the explorer keeps every state that an engine was ever in once,
//! by a fingerprint of all of it (its `Debug`), and a state of the pair is a handful of numbers. Nothing of the engine is
//! modelled or left out; what surrounds it is: a journal that keeps entries in order, a store of zeros.

use super::ask::{Ask, Told, VOLUME, told};
use super::scenario::Scenario;
use biplex_engine::engine::*;
use biplex_engine::hold::TableKind;
use biplex_engine::message::{Message, VolumeGeometry};
use biplex_engine::*;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::hash::{DefaultHasher, Hasher};

const MS: u64 = 1_000_000;
/// Time that passes with a tick: a heartbeat is due.
pub const TICK: u64 = 13 * MS;
/// Places in the journal are entries' numbers, this far apart.
const PLACE: u64 = 8192;

/// Numbers of things that were seen, by their fingerprint.
#[derive(Debug)]
pub struct Seen<T> {
    things: Vec<T>,
    numbers: BTreeMap<u128, u32>,
}

impl<T> Default for Seen<T> {
    fn default() -> Seen<T> {
        Seen { things: Vec::new(), numbers: BTreeMap::new() }
    }
}

impl<T: Debug> Seen<T> {
    /// The number of a thing.
    pub fn number(&mut self, thing: T) -> u32 {
        let next = self.things.len() as u32;
        let number = *self.numbers.entry(fingerprint(&thing)).or_insert(next);
        if number == next {
            self.things.push(thing);
        }
        number
    }

    /// The thing with this number, which was handed out.
    pub fn get(&self, number: u32) -> &T {
        &self.things[number as usize]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.things.len()
    }
}

struct Print([DefaultHasher; 2]);

impl Write for Print {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.iter_mut().for_each(|hasher| hasher.write(text.as_bytes()));
        Ok(())
    }
}

/// 128 bits of a thing's `Debug`.
pub fn fingerprint(thing: &impl Debug) -> u128 {
    let mut print = Print([DefaultHasher::new(), DefaultHasher::new()]);
    print.0[1].write_u64(0x9e37_79b9_7f4a_7c15);
    write!(print, "{thing:?}").expect("hashing does not fail");
    u128::from(print.0[0].finish()) << 64 | u128::from(print.0[1].finish())
}

/// An engine with what counts its appends.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The engine.
    pub engine: Engine,
    /// Appends in this run.
    pub appended: u64,
}

/// What happens to an engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fact {
    /// A host asks; the number names the command.
    Asked(Nexus, Ask, u64),
    /// A message comes.
    Message(u32),
    /// A group with all that is appended is begun.
    Group,
    /// A group is durable: the appends up to this, and this checkpoint.
    Durable(u64, u32),
    /// A swap was judged: by what the block held, whether it differed.
    Judged(Stamp, bool),
    /// Time passed.
    Tick,
    /// The line ended.
    Closed,
    /// The line stands.
    Connected,
}

/// What an engine orders.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// Send this message.
    Send(u32),
    /// Journal this entry.
    Append(u32),
    /// The group begun has the appends up to this, and this checkpoint.
    Group(u64, u32),
    /// A group is wanted.
    Checkpoint,
    /// A command is answered.
    Answer(u64, Told),
    /// A swap's blocks were read: whether they differ.
    Judge(Stamp, bool),
    /// Something was decided in order.
    Decided(Stamp, u32),
    /// The link is to be closed.
    Close(u32),
}

/// What a restart depends on: the site, and what its journal and the clocks say.
type Restart = (SiteId, u32, Vec<u32>, Clocks);

/// Everything that engines were seen in, and what came of it.
#[derive(Default, Debug)]
pub struct Replicas {
    /// Engines.
    pub states: Seen<Replica>,
    /// Messages on the line.
    pub messages: Seen<Message>,
    /// Entries in journals.
    pub entries: Seen<Entry>,
    /// Checkpoints in journals.
    pub checkpoints: Seen<Checkpoint>,
    /// Texts of what was decided, and why links were closed.
    pub texts: Seen<String>,
    known: BTreeMap<(u32, Fact, Clocks), (u32, Vec<Order>)>,
    recovered: BTreeMap<Restart, (u32, Vec<Order>)>,
    /// What [`Engine::check`] did not like, of states by number.
    pub broken: BTreeMap<u32, String>,
}

/// `Now`, as something that has an order: wall and mono.
type Clocks = (u64, u64);

fn config(site: SiteId, scenario: &Scenario) -> Config {
    let rules = scenario.rules;
    let geometry =
        VolumeGeometry { id: VOLUME, name: "vol0".into(), lun: 0, blocks: 64, mode: rules.ordinal() };
    Config {
        site,
        pair: 1,
        volumes: vec![(geometry, rules)],
        // Nothing is destaged in a time as short as a scenario's.
        hold_time: 3_600_000 * MS,
        hold_every: 50 * MS,
        table: TableKind::Indexed,
        hold_memory: 1 << 20,
        journal_usable: 1 << 20,
        max_offset: 500 * MS,
        lease: 400 * MS,
        wait_max: 1_000 * MS,
        window_bytes: scenario.window_bytes,
        reservation_bytes: 16 << 10,
    }
}

impl Replicas {
    /// A site starts, with this in its journal.
    pub fn start(
        &mut self,
        now: Now,
        site: SiteId,
        scenario: &Scenario,
        checkpoint: Checkpoint,
        entries: &[u32],
    ) -> (u32, Vec<Order>) {
        let kept = self.checkpoints.number(checkpoint);
        let key = (site, kept, entries.to_vec(), (now.wall, now.mono));
        if let Some(known) = self.recovered.get(&key) {
            return known.clone();
        }
        let journal = 100 + site as u64;
        let recovered = Recovered { journal, checkpoint, reservations: vec![] };
        let mut engine = Engine::new(config(site, scenario), &recovered, now);
        for number in entries {
            engine.recover_entry(self.entries.get(*number), place(*number));
        }
        engine.recovered(now);
        let mut replica = Replica { engine, appended: 0 };
        let orders = self.drain(&mut replica, now);
        let number = self.keep(replica);
        self.recovered.insert(key, (number, orders.clone()));
        (number, orders)
    }

    /// What a fact makes of an engine.
    pub fn step(&mut self, state: u32, fact: Fact, now: Now) -> (u32, Vec<Order>) {
        let key = (state, fact, (now.wall, now.mono));
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut replica = self.states.get(state).clone();
        let group = self.tell(&mut replica, fact, now);
        let mut orders: Vec<Order> = group.into_iter().collect();
        orders.extend(self.drain(&mut replica, now));
        let number = self.keep(replica);
        self.known.insert(key, (number, orders.clone()));
        (number, orders)
    }

    fn keep(&mut self, replica: Replica) -> u32 {
        let next = self.states.count();
        let check = replica.engine.check().and_then(|()| replica.engine.check_bounds());
        let number = self.states.number(replica);
        if let (Err(why), true) = (check, number as usize == next) {
            self.broken.insert(number, why);
        }
        number
    }

    fn tell(&mut self, replica: &mut Replica, fact: Fact, now: Now) -> Option<Order> {
        let engine = &mut replica.engine;
        match fact {
            Fact::Asked(nexus, ask, op) => self.ask(engine, now, nexus, ask, OpId(op)),
            Fact::Message(message) => engine.handle_message(now, self.messages.get(message).clone()),
            Fact::Group => {
                let checkpoint = engine.checkpoint(now);
                return Some(Order::Group(replica.appended, self.checkpoints.number(checkpoint)));
            }
            Fact::Durable(upto, checkpoint) => {
                engine.handle_durable(now, AppendSeq(upto), self.checkpoints.get(checkpoint));
            }
            Fact::Judged(stamp, differs) => {
                engine.handle_judged(now, VOLUME, stamp, Ok(differs.then_some(0)));
            }
            Fact::Tick => engine.handle_tick(now),
            Fact::Closed => engine.handle_link_closed(now),
            Fact::Connected => engine.handle_link_connected(now),
        }
        None
    }

    fn ask(&self, engine: &mut Engine, now: Now, nexus: Nexus, ask: Ask, op: OpId) {
        match ask {
            Ask::Leave => engine.handle_leave(now, op, nexus),
            Ask::Lost => engine.handle_nexus_lost(now, nexus),
            Ask::Read(at) => engine.handle_read(now, op, VOLUME, nexus, super::ask::extent(at, 1)),
            other => {
                if let Some(write) = other.write(nexus) {
                    engine.handle_write(now, op, write);
                } else if let Some(swap) = other.swap() {
                    engine.handle_swap(now, op, VOLUME, nexus, swap);
                } else if let Some(request) = other.request() {
                    engine.handle_control(now, op, VOLUME, nexus, request);
                }
            }
        }
    }

    /// Ends the batch and carries its orders out, as far as they need no time.
    fn drain(&mut self, replica: &mut Replica, now: Now) -> Vec<Order> {
        replica.engine.handle_batch_end(now);
        let mut orders = Vec::new();
        while let Some(action) = replica.engine.poll() {
            match action {
                Action::Append(entry) => {
                    let (stamp, verdict) = (entry.stamp, matches!(entry.body, Body::Verdict { .. }));
                    replica.appended += 1;
                    let number = self.entries.number(entry);
                    if !verdict {
                        replica.engine.handle_appended(stamp, AppendSeq(replica.appended), place(number));
                    }
                    orders.push(Order::Append(number));
                }
                Action::Send(message) => orders.push(Order::Send(self.messages.number(message))),
                Action::Checkpoint => orders.push(Order::Checkpoint),
                // Each append may become durable at any time here.
                Action::Hurry => {}
                Action::Complete { op, outcome } => {
                    let told = match outcome {
                        Outcome::Done => Told::Good,
                        Outcome::Conflict => Told::Conflict,
                        Outcome::Verdict(verdict) => told(verdict),
                        Outcome::NotReady | Outcome::Busy => Told::Retry,
                        Outcome::NotSupported => Told::Refused,
                    };
                    orders.push(Order::Answer(op.0, told));
                }
                Action::Serve { op, pieces, .. } => {
                    let value = pieces.first().map_or(0, |piece| self.byte(&piece.source));
                    orders.push(Order::Answer(op.0, Told::Value(value)));
                }
                Action::Judge { stamp, compare, pieces, .. } => {
                    let found = pieces.first().map_or(0, |piece| self.byte(&piece.source));
                    orders.push(Order::Judge(stamp, self.byte(&compare) != found));
                }
                Action::Fetch { stamp, piece } => {
                    let bytes = match &self.entry_at(piece.pos).body {
                        Body::Data(bytes) | Body::Fill(bytes) | Body::Swap(bytes) => Some(bytes.clone()),
                        Body::Unmap | Body::Control(_) | Body::Verdict { .. } => None,
                    };
                    replica.engine.handle_fetched(stamp, bytes);
                }
                Action::Notice { text, .. } => {
                    if let Some(stamp) = decided(&text) {
                        orders.push(Order::Decided(stamp, self.texts.number(text)));
                    }
                }
                Action::CloseLink { why } => orders.push(Order::Close(self.texts.number(why))),
                Action::Destage { .. } | Action::SaveReservations(_) => {
                    unreachable!("nothing is destaged in so short a time")
                }
                Action::Pass { .. } => unreachable!("the pair keeps the reservations of its volumes"),
                Action::Paired | Action::Persistent { .. } | Action::Effect { .. } => {}
            }
        }
        orders
    }

    fn byte(&self, source: &Source) -> u8 {
        let bytes = match source {
            Source::Memory(bytes) | Source::Fill(bytes) => bytes,
            Source::Zero | Source::Store => return 0,
            Source::Journal(piece) => {
                let (Body::Data(bytes) | Body::Swap(bytes)) = &self.entry_at(piece.pos).body else {
                    return 0;
                };
                return bytes.get(piece.skip as usize).copied().unwrap_or_default();
            }
        };
        bytes.first().copied().unwrap_or_default()
    }

    fn entry_at(&self, pos: JournalPos) -> &Entry {
        self.entries.get((pos.0 / PLACE - 1) as u32)
    }
}

fn place(number: u32) -> JournalPos {
    JournalPos((u64::from(number) + 1) * PLACE)
}

/// The stamp of a request of whose execution a notice tells, as it spells it; the rest is the verdict.
fn decided(text: &str) -> Option<Stamp> {
    let (_, after) = text.split_once(", stamp ")?;
    let (stamp, _) = after.split_once(": ")?;
    let (seconds, rest) = stamp.split_once('.')?;
    let (nanos, site) = rest.split_at_checked(9)?;
    let time = seconds.parse::<u64>().ok()? * 1_000_000_000 + nanos.parse::<u64>().ok()?;
    let site = SiteId::BOTH.into_iter().find(|of| of.to_string() == site)?;
    Some(Stamp { time, site })
}
