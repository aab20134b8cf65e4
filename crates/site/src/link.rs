//! The link as the site sees it: bytes from and to the peer become messages and back.

use crate::api::*;
use crate::site::Site;
use biplex_engine::Now;
use biplex_engine::message::Message;
use biplex_format::Decoder;
use bytes::Bytes;

/// Most host names that are remembered.
const HOST_NAMES_MAX: usize = 4096;

/// The present connection to the peer.
pub(crate) struct Link {
    pub id: u64,
    decoder: Decoder,
}

impl Site {
    pub(crate) fn link_connected(&mut self, now: Now, id: u64) {
        if let Some(old) = self.link.take() {
            self.out.push(Action::LinkClose { link: old.id, why: "a newer connection replaces it".into() });
        }
        self.link = Some(Link { id, decoder: Decoder::new() });
        self.engine.handle_link_connected(now);
    }

    pub(crate) fn link_bytes(&mut self, now: Now, id: u64, bytes: Bytes) {
        let Some(link) = self.link.as_mut().filter(|link| link.id == id) else { return };
        link.decoder.push(bytes);
        while let Some(link) = self.link.as_mut().filter(|link| link.id == id) {
            match link.decoder.next() {
                Ok(Some(Message::Host { name, .. })) => {
                    self.learn_host(String::from_utf8_lossy(&name).into_owned());
                }
                Ok(Some(message)) => {
                    self.engine.handle_message(now, message);
                    self.settle(now);
                }
                Ok(None) => return,
                Err(error) => {
                    let why = format!("bytes on the link that are not Biplex's: {error}");
                    self.notice(Severity::Alarm, why.clone());
                    self.close_link(now, why);
                }
            }
        }
    }

    pub(crate) fn link_closed(&mut self, now: Now, id: u64) {
        if self.link.as_ref().is_some_and(|link| link.id == id) {
            self.link = None;
            self.engine.handle_link_closed(now);
        }
    }

    pub(crate) fn close_link(&mut self, now: Now, why: String) {
        if let Some(link) = self.link.take() {
            self.out.push(Action::LinkClose { link: link.id, why });
            self.engine.handle_link_closed(now);
        }
    }

    /// Tells the peer the names of all hosts here, so that both sites can show who wrote.
    pub(crate) fn tell_hosts(&mut self) {
        let names: Vec<String> = self.hosts.values().map(|host| host.name.clone()).collect();
        names.iter().for_each(|name| self.tell_host(name));
    }

    pub(crate) fn tell_host(&mut self, name: &str) {
        let name = Bytes::copy_from_slice(name.as_bytes());
        self.send(Message::Host {
            id: biplex_engine::HostId::of_name(&String::from_utf8_lossy(&name)).0,
            name,
        });
    }

    /// Remembers a host's name; the id is derived from it anew, so no peer can rename another host.
    pub(crate) fn learn_host(&mut self, name: String) {
        if self.host_names.len() < HOST_NAMES_MAX {
            self.host_names.insert(biplex_engine::HostId::of_name(&name), name);
        }
    }

    pub(crate) fn send(&mut self, message: Message) {
        let Some(link) = &self.link else { return };
        let (header, payload) = biplex_format::encode(self.config.pair, &message);
        self.out.push(Action::LinkSend { link: link.id, bytes: header });
        if let Some(bytes) = payload.filter(|payload| !payload.is_empty()) {
            self.out.push(Action::LinkSend { link: link.id, bytes });
        }
    }
}
