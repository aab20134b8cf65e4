//! Our own target as the unit: `Unit` and `Target` wired back to back, with a vector for a disk.

use super::*;
use biplex_engine::{Extent, Now};
use biplex_front::iscsi::{Target, TargetAction, TargetConfig};
use biplex_front::scsi::{Device as ScsiDevice, PortConfig, UnitConfig};
use biplex_front::{Command, Completion, ConnId, Failure};

const TARGET: &str = "iqn.2026-11.example:array";

struct Pair {
    unit: Unit,
    target: Target,
    disk: Vec<u8>,
    now: u64,
    /// Commands that are to be answered BUSY.
    busy: u32,
    done: BTreeMap<DiskTicket, DiskResult>,
    notices: Vec<String>,
    open: Vec<UnitConn>,
}

impl Pair {
    fn new() -> Pair {
        let port = |site, group, relative| PortConfig { site, target: TARGET.into(), group, relative };
        let unit = UnitConfig {
            volume: VOLUME,
            lun: 1,
            name: "disk".into(),
            serial: "S1".into(),
            naa: 3 << 60,
            blocks: BLOCKS,
        };
        let device = ScsiDevice::new(port(SiteId::A, 1, 1), port(SiteId::B, 2, 257), vec![unit]);
        let config = TargetConfig {
            name: TARGET.into(),
            group: 1,
            portal: "0.0.0.0:3260".into(),
            peer_portals: Vec::new(),
            chap: Some(Chap { user: "me".into(), secret: "a secret of 16 c".into(), mutual: None }),
        };
        let mut setting = setting();
        let (user, secret) = ("me".to_owned(), "a secret of 16 c".to_owned());
        setting.address.chap = Some(ChapConfig { user, secret, mutual: None });
        Pair {
            unit: Unit::new(setting),
            target: Target::new(config, device, Box::new(|bytes| bytes.fill(7))),
            disk: vec![0; (BLOCKS * 512) as usize],
            now: SECOND,
            busy: 0,
            done: BTreeMap::new(),
            notices: Vec::new(),
            open: Vec::new(),
        }
    }

    fn at(&self) -> Now {
        Now { wall: self.now, mono: self.now }
    }

    fn run(&mut self) {
        self.unit.advance(self.now);
        loop {
            let now = self.at();
            if let Some(action) = self.unit.poll() {
                match action {
                    UnitAction::Connect { conn, .. } => {
                        self.open.push(conn);
                        let (local, remote) = ("192.0.2.9:3260".to_owned(), "192.0.2.1:9".to_owned());
                        self.target.handle_connected(now, ConnId(conn.number), local, remote);
                        self.unit.handle_connected(self.now, conn);
                    }
                    UnitAction::Send { conn, bytes } => {
                        self.target.handle_bytes(now, ConnId(conn.number), bytes);
                    }
                    UnitAction::Close { conn } => {
                        self.open.retain(|open| *open != conn);
                        self.target.handle_closed(now, ConnId(conn.number));
                    }
                    UnitAction::Done { ticket, result } => drop(self.done.insert(ticket, result)),
                    UnitAction::Notice { text, .. } => self.notices.push(text),
                    UnitAction::Passed { .. }
                    | UnitAction::Attention { .. }
                    | UnitAction::NobodyRegistered { .. }
                    | UnitAction::NexusLost { .. } => {}
                }
            } else if let Some(action) = self.target.poll() {
                let conn = |conn: ConnId| UnitConn { volume: VOLUME, number: conn.0 };
                match action {
                    TargetAction::Send { conn: to, bytes } => {
                        self.unit.handle_bytes(self.now, conn(to), bytes)
                    }
                    TargetAction::Close { conn: to } => {
                        self.unit.handle_closed(self.now, conn(to), "closed by the target");
                    }
                    TargetAction::Command { task, command, .. } => {
                        let completion = self.serve(command.command);
                        self.target.handle_completion(now, task, completion);
                    }
                    _ => {}
                }
            } else {
                return;
            }
        }
    }

    fn serve(&mut self, command: Command) -> Completion {
        let range = |extent: Extent| extent.start().bytes() as usize..extent.end().bytes() as usize;
        if self.busy > 0 {
            self.busy -= 1;
            return Completion::Failed(Failure::Busy);
        }
        match command {
            Command::Read { extent, .. } => {
                return Completion::Data(vec![Bytes::copy_from_slice(&self.disk[range(extent)])]);
            }
            Command::Write { extent, data, .. } => self.disk[range(extent)].copy_from_slice(&data),
            Command::Fill { extent, block } => {
                self.disk[range(extent)].chunks_mut(512).for_each(|to| to.copy_from_slice(&block));
            }
            Command::Unmap { extents } => {
                extents.into_iter().for_each(|extent| self.disk[range(extent)].fill(0));
            }
            Command::Flush | Command::Check { .. } | Command::Leave => {}
            other @ (Command::CompareAndWrite { .. } | Command::Control { .. } | Command::Inspect { .. }) => {
                panic!("a store is not asked for {other:?}")
            }
        }
        Completion::Done
    }

    fn wait(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while let Some(due) = self.unit.next_deadline().filter(|due| *due <= end) {
            self.now = due;
            self.run();
        }
        self.now = end;
    }

    fn order(&mut self, number: u64, op: DiskOp) -> DiskResult {
        self.unit.order(DiskTicket(number), op);
        self.run();
        self.wait(SECOND);
        self.done.remove(&DiskTicket(number)).expect("answered")
    }
}

#[test]
fn our_own_target_is_a_store() {
    let mut pair = Pair::new();
    pair.run();
    assert_eq!(pair.unit.trouble(), None, "{:?}", pair.notices);
    assert!(pair.notices[0].contains("gives space back"), "{:?}", pair.notices);
    assert!(pair.notices[0].contains("reserves extents and for third parties"), "{:?}", pair.notices);
    assert_eq!(pair.unit.facts().expect("facts").port, Some(1));
    let data = vec![bytes(1, 900), bytes(2, 1100)];
    assert_eq!(pair.order(1, write(3, data.clone())), Ok(Bytes::new()));
    assert_eq!(pair.order(2, zero(100, 1000)), Ok(Bytes::new()));
    pair.busy = 3;
    assert_eq!(pair.order(3, sync()), Ok(Bytes::new()));
    let got = pair.order(4, read(3, 2000)).expect("read");
    let mut wanted = data.concat();
    wanted[97 * 512..1097 * 512].fill(0);
    assert_eq!(got[..], wanted[..]);
    // Every connection breaks, under load, again and again.
    for turn in 5..20 {
        for conn in std::mem::take(&mut pair.open) {
            let now = pair.at();
            pair.target.handle_closed(now, ConnId(conn.number));
            pair.unit.handle_closed(pair.now, conn, "connection reset");
        }
        pair.wait(3 * SECOND);
        assert_eq!(pair.order(turn, write(turn, vec![bytes(turn as u8, 1)])), Ok(Bytes::new()));
        assert_eq!(pair.order(turn + 100, read(turn, 1)).expect("read"), bytes(turn as u8, 1));
    }
}
