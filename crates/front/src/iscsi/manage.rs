//! Task management (RFC 7143 §11.5, §11.6; SAM-5 7).
//!
//! Must never answer while a task that it aborted can still change the volume: the response waits for the
//! site to let go of such tasks, or for both sites to have executed the reset, within a bound. What does not end
//! within it is answered as rejected. Invariant: an aborted task gets no response (TAS is 0), a half-received
//! write that was aborted never reaches the device.

use super::framing::Outbox;
use super::pdu::{FINAL, Management as Request, ManagementResponse, Pdu, before, opcode};
use super::session::{Next, Session};
use super::shared::{Management, Shared, Timer};

/// A response waits no longer than this for the site to let go of aborted tasks.
const WAIT_NS_MAX: u64 = 10_000_000_000;

/// Response codes (§11.6.1).
pub(super) const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
pub(super) const NO_UNIT: u8 = 2;
const NO_REASSIGN: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
/// Tells the host that the function did not do what it asked for.
pub(super) const REJECTED: u8 = 255;

/// Functions that reach beyond the session that asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResetKind {
    ClearTaskSet,
    Unit,
    TargetWarm,
    TargetCold,
}

/// A reset as asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    pub kind: ResetKind,
    pub lun: u64,
    pub itt: u32,
}

/// A unit's number, so that the same unit addressed in two ways (SAM-5 4.7.7) is seen as one.
fn unit_number(lun: u64) -> u64 {
    match lun >> 62 {
        0 if lun >> 56 == 0 => (lun >> 48) & 0xff,
        1 => (lun >> 48) & 0x3fff,
        _ => lun,
    }
}

impl Session {
    /// Task Management Function Request (§11.5).
    pub(super) fn handle_management(
        &mut self,
        shared: &mut Shared,
        out: &mut Outbox,
        pdu: &Pdu,
        now: u64,
    ) -> Next {
        let request: &Request = pdu.view();
        let (lun, itt) = (request.lun.get(), request.itt.get());
        let reset = |kind| Next::Reset(Reset { kind, lun, itt });
        let response = match request.flags & 0x7f {
            1 => return self.abort_task(shared, out, request, now),
            2 if shared.device.has_unit(lun) => {
                let waiter = shared.new_management();
                let remaining = self.abort_all(shared, Some(lun), Some(waiter));
                self.grant(out);
                return self.answer_later(shared, out, waiter, itt, remaining, now);
            }
            2 => NO_UNIT,
            3 => NOT_SUPPORTED, // CLEAR ACA
            4 => return reset(ResetKind::ClearTaskSet),
            5 => return reset(ResetKind::Unit),
            6 => return reset(ResetKind::TargetWarm),
            7 => return reset(ResetKind::TargetCold),
            8 => NO_REASSIGN,
            _ => NOT_SUPPORTED,
        };
        self.answer_management(out, itt, response);
        Next::Continue
    }

    /// ABORT TASK (§11.5.1): either the task's response goes out, or this one's 0, never both.
    fn abort_task(&mut self, shared: &mut Shared, out: &mut Outbox, request: &Request, now: u64) -> Next {
        let (itt, referenced) = (request.itt.get(), request.ref_itt.get());
        if let Some(inbound) = self.forget_write(referenced) {
            self.shut(&inbound.order);
            self.grant(out);
            self.answer_management(out, itt, COMPLETE);
        } else if let Some(running) = self.running.remove(&referenced) {
            self.shut(&running.order);
            let waiter = shared.new_management();
            shared.disown(running.task, Some(waiter));
            return self.answer_later(shared, out, waiter, itt, 1, now);
        } else {
            let expected = request.ref_cmd_sn.get();
            let to_come = !before(expected, self.exp_cmd_sn) && !before(self.max_cmd_sn, expected);
            if to_come {
                self.skipped.insert(expected);
                self.skip_aborted();
            }
            self.answer_management(out, itt, if to_come { COMPLETE } else { NO_TASK });
        }
        Next::Continue
    }

    /// Aborts all tasks of this session, of one unit or of all. Tells how many the site still works on; each
    /// of those counts `waiter` down when it ends.
    pub(super) fn abort_all(&mut self, shared: &mut Shared, lun: Option<u64>, waiter: Option<u64>) -> usize {
        let wanted = |of: u64| lun.is_none_or(|lun| unit_number(of) == unit_number(lun));
        let halves: Vec<u32> = self
            .writes
            .iter()
            .filter(|(_, inbound)| wanted(inbound.order.lun))
            .map(|(itt, _)| *itt)
            .collect();
        for itt in halves {
            if let Some(inbound) = self.forget_write(itt) {
                self.shut(&inbound.order);
            }
        }
        let tasks: Vec<u32> = self
            .running
            .iter()
            .filter(|(_, running)| wanted(running.order.lun))
            .map(|(itt, _)| *itt)
            .collect();
        let count = tasks.len();
        for itt in tasks {
            if let Some(running) = self.running.remove(&itt) {
                self.shut(&running.order);
                shared.disown(running.task, waiter);
            }
        }
        count
    }

    /// Answers now, or when the last of `remaining` tasks has left the site.
    fn answer_later(
        &mut self,
        shared: &mut Shared,
        out: &mut Outbox,
        waiter: u64,
        itt: u32,
        remaining: usize,
        now: u64,
    ) -> Next {
        if remaining == 0 {
            self.answer_management(out, itt, COMPLETE);
        } else {
            shared.wait(waiter, Management { conn: self.conn, itt, remaining, deadline: now, cold: false });
        }
        Next::Continue
    }

    /// Sends a task management response (§11.6).
    pub(super) fn answer_management(&mut self, out: &mut Outbox, itt: u32, response: u8) {
        let numbers = self.status_numbers();
        let header = ManagementResponse {
            opcode: opcode::MANAGEMENT_RESPONSE,
            flags: FINAL,
            response,
            itt: itt.into(),
            stat_sn: numbers.stat_sn.into(),
            exp_cmd_sn: numbers.exp_cmd_sn.into(),
            max_cmd_sn: numbers.max_cmd_sn.into(),
            ..ManagementResponse::default()
        };
        out.push(&header, &[]);
    }
}

impl Shared {
    /// Notes a function that waits; its `deadline` is given as the time now.
    pub(super) fn wait(&mut self, waiter: u64, mut management: Management) {
        management.deadline += WAIT_NS_MAX;
        self.timers.insert((management.deadline, Timer::Management(waiter)));
        self.managements.insert(waiter, management);
    }

    /// One task that `waiter` waits for has left the site. The function, if that was the last.
    pub(super) fn count_down(&mut self, waiter: u64) -> Option<Management> {
        let management = self.managements.get_mut(&waiter)?;
        management.remaining -= 1;
        if management.remaining > 0 {
            return None;
        }
        self.give_up(waiter)
    }

    /// Forgets a function that waits; the function.
    pub(super) fn give_up(&mut self, waiter: u64) -> Option<Management> {
        let management = self.managements.remove(&waiter)?;
        self.timers.remove(&(management.deadline, Timer::Management(waiter)));
        Some(management)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unit_addressed_in_two_ways_is_one() {
        assert_eq!(unit_number(0x0005_0000_0000_0000), unit_number(0x4005_0000_0000_0000));
        assert_ne!(unit_number(0x0005_0000_0000_0000), unit_number(0x0006_0000_0000_0000));
    }
}
