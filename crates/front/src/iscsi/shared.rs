//! What all sessions of a target share: the device, the answers that the site owes, the orders to the site.
//!
//! Invariant: a task stands in `tasks` from the moment its command goes to the site until the site's answer,
//! once.

use super::Entropy;
use super::target::{TargetAction, TargetConfig};
use crate::scsi::{Device, Pending};
use crate::{Command, ConnId, TaskId, VolumeCommand};
use biplex_engine::reserve::Request;
use biplex_engine::{Nexus, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Whom a site's answer is for.
pub(super) enum Owed {
    /// A command that its host waits for.
    Live { conn: ConnId, itt: u32, pending: Pending },
    /// A reset of one unit, which a task management function waits for.
    Reset { waiter: u64 },
    /// What a session that logs out has reserved is released then.
    Leave { conn: ConnId },
    /// The task was aborted meanwhile: the answer is dropped, but a task management function may wait for it.
    Aborted { waiter: Option<u64> },
}

/// A task management function that is answered once the tasks that it aborted have left the site, or once the resets
/// that it is made of are executed at both sites.
pub(super) struct Management {
    pub conn: ConnId,
    pub itt: u32,
    pub remaining: usize,
    pub deadline: u64,
    /// Drop all connections after the response (TARGET COLD RESET).
    pub cold: bool,
}

/// A logout waits no longer than this for what the nexus reserved to be released at both sites. It is released all the
/// same, as soon as the sites can.
const LEAVE_NS_MAX: u64 = 5_000_000_000;

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    Connection(ConnId),
    /// Harmless if the session has left before.
    Leave(ConnId),
    Management(u64),
    Drain,
}

/// State that every session reaches.
pub(super) struct Shared {
    pub config: TargetConfig,
    pub device: Device,
    pub entropy: Entropy,
    pub actions: VecDeque<TargetAction>,
    pub tasks: BTreeMap<TaskId, Owed>,
    pub managements: BTreeMap<u64, Management>,
    pub timers: BTreeSet<(u64, Timer)>,
    task_last: u64,
    management_last: u64,
}

impl Shared {
    pub(super) fn new(config: TargetConfig, device: Device, entropy: Entropy) -> Shared {
        Shared {
            config,
            device,
            entropy,
            actions: VecDeque::new(),
            tasks: BTreeMap::new(),
            managements: BTreeMap::new(),
            timers: BTreeSet::new(),
            task_last: 0,
            management_last: 0,
        }
    }

    /// Hands a command to the site and notes whom its answer is for.
    pub(super) fn order(
        &mut self,
        conn: ConnId,
        itt: u32,
        nexus: Nexus,
        command: VolumeCommand,
        pending: Pending,
    ) -> TaskId {
        let task = self.owe(Owed::Live { conn, itt, pending });
        self.actions.push_back(TargetAction::Command { task, nexus, command });
        task
    }

    /// Orders a unit to be reset, at both sites; `waiter` hears of the end.
    pub(super) fn order_reset(&mut self, waiter: u64, nexus: Nexus, volume: VolumeId, request: Request) {
        let task = self.owe(Owed::Reset { waiter });
        let command = VolumeCommand { volume, command: Command::Control { request } };
        self.actions.push_back(TargetAction::Command { task, nexus, command });
    }

    /// Asks for what this nexus reserved to be released, before its logout is answered.
    pub(super) fn order_leave(&mut self, conn: ConnId, nexus: Nexus, now: u64) {
        let task = self.owe(Owed::Leave { conn });
        self.timers.insert((now + LEAVE_NS_MAX, Timer::Leave(conn)));
        self.actions.push_back(TargetAction::Leave { task, nexus });
    }

    fn owe(&mut self, owed: Owed) -> TaskId {
        self.task_last += 1;
        let task = TaskId(self.task_last);
        self.tasks.insert(task, owed);
        task
    }

    /// Gives up on a task's answer.
    pub(super) fn disown(&mut self, task: TaskId, waiter: Option<u64>) {
        self.tasks.insert(task, Owed::Aborted { waiter });
        self.actions.push_back(TargetAction::Abandon { task });
    }

    pub(super) fn new_management(&mut self) -> u64 {
        self.management_last += 1;
        self.management_last
    }
}
