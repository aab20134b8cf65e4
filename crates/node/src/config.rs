//! Answers for the config file: one TOML file for one site. Every mistake is refused with file, line, column, what is
//! wrong and the remedy; all mistakes of a file are told at once. Never fills a gap with a guess that could harm data.
//!
//! ```text
//! text ─▶ raw (shape, spans) ─▶ Config::parse (meaning) ─▶ Config::load (files exist, keys fit) ─▶ site_config()
//! ```

pub mod identity;
pub mod quantity;
mod raw;
mod rules;
pub mod summary;
mod unit;

use crate::tls;
use biplex_engine::{BLOCK_BYTES, SiteId};
use biplex_front::scsi::{PortConfig, UnitConfig};
use biplex_site::unit::UnitAddress;
use biplex_site::{ChapConfig, Rules, SiteConfig, TableKind, VolumeConfig, WINDOW_BYTES_MAX};
use quantity::{SIZE_REMEDY, TIME_REMEDY, parse_size, parse_time};
use raw::{RawChap, RawConfig, RawIscsi, RawLink, RawTls, RawVolume, Text};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use toml::Spanned;

/// Smallest journal that is accepted, in bytes.
pub const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// Smallest limit of held payload that is accepted, in bytes.
pub const HOLD_MEMORY_BYTES_MIN: u64 = 1 << 20;
/// Longest path of a Unix socket (Linux `sun_path`, less the final zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Volume sizes are multiples of this, so that no store ends within a page.
pub const VOLUME_BYTES_UNIT: u64 = 4096;
/// Longest time that is accepted, nanoseconds: a year.
pub const TIME_MAX: u64 = 365 * 24 * 3_600_000_000_000;
/// Largest volume.
pub const VOLUME_BYTES_MAX: u64 = 1 << 60;

/// A mistake in the config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Why a config file was refused: never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Refused {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The mistakes in order of place.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.mistakes.iter().enumerate() {
            let Mistake { line, column, what, remedy } = mistake;
            let separator = if number > 0 { "\n" } else { "" };
            write!(f, "{separator}{}:{line}:{column}: {what}\n    remedy: {remedy}", self.file.display())?;
        }
        Ok(())
    }
}

/// Files that prove who a site is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// This site's certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The pair's authority, PEM.
    pub ca: PathBuf,
}

/// A volume as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Logical unit number.
    pub lun: u16,
    /// Size in bytes.
    pub bytes: u64,
    /// Completion mode, who keeps reservations, and what it says of COMPARE AND WRITE.
    pub rules: Rules,
    /// Backing store: a file or a block device; of a SCSI unit the URL without the secret.
    pub store: PathBuf,
    /// The SCSI unit that is the store.
    pub unit: Option<UnitAddress>,
    /// Serial number, if configured.
    pub serial: Option<String>,
}

/// A site's whole configuration. Times in nanoseconds, sizes in bytes, paths absolute or relative to the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Which site.
    pub site: SiteId,
    /// Journal, lock and the site's own state.
    pub state_dir: PathBuf,
    /// `[clock] max_offset`.
    pub max_offset: u64,
    /// `[hold] time` (E1.7).
    pub hold_time: u64,
    /// `[hold] every` (E1.7).
    pub hold_every: u64,
    /// `[hold] table` (E1.M).
    pub table: TableKind,
    /// `[hold] memory`.
    pub hold_memory: u64,
    /// `[journal] size`.
    pub journal_bytes: u64,
    /// `[link] listen`.
    pub link_listen: SocketAddr,
    /// `[link] peer`: "address:port" or "name:port".
    pub link_peer: String,
    /// `[link] tls`; `None` is "off".
    pub tls: Option<TlsFiles>,
    /// `[link] lease`.
    pub lease: u64,
    /// `[link] wait`.
    pub wait_max: u64,
    /// `[iscsi] listen`.
    pub iscsi_listen: SocketAddr,
    /// `[iscsi] target`.
    pub target: String,
    /// `[iscsi] chap`.
    pub chap: Option<ChapConfig>,
    /// `[admin] socket`.
    pub admin_socket: PathBuf,
    /// The volumes, in the order of the file.
    pub volumes: Vec<Volume>,
}

impl Config {
    /// Reads, parses and checks a config file, the TLS files that it names included.
    pub fn load(file: &Path) -> Result<Config, Refused> {
        let refuse = |what: String, remedy: &str| Refused {
            file: file.to_owned(),
            mistakes: vec![Mistake { line: 1, column: 1, what, remedy: remedy.to_owned() }],
        };
        let text = std::fs::read_to_string(file).map_err(|error| {
            refuse(
                format!("the file cannot be read: {error}"),
                "name a readable file, such as examples/site-a.toml",
            )
        })?;
        let (config, tls_span) = Reading::new(file, &text).config()?;
        if let Some(files) = &config.tls
            && let Err(trouble) = tls::Keys::load(files, config.site)
        {
            let (line, column) = place(&text, tls_span.start);
            let remedy = "make keys with `biplex keys DIR` and name this site's files, or say tls = \"off\" on a line \
                          that nobody else can reach";
            let mistake = Mistake { line, column, what: trouble.to_string(), remedy: remedy.to_owned() };
            return Err(Refused { file: file.to_owned(), mistakes: vec![mistake] });
        }
        Ok(config)
    }

    /// Parses a config file's text. `file` gives its name to mistakes and its directory to relative paths; nothing
    /// is read from the file system.
    pub fn parse(file: &Path, text: &str) -> Result<Config, Refused> {
        Reading::new(file, text).config().map(|(config, _)| config)
    }

    /// Where the journal lies.
    pub fn journal_path(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// The part that the site itself needs.
    pub fn site_config(&self) -> SiteConfig {
        let (group, relative) = match self.site {
            SiteId::A => (1, 1),
            SiteId::B => (2, 257),
        };
        let volumes = self.volumes.iter().map(|volume| {
            let (serial, naa) = identity::unit_identity(&self.target, &volume.name, volume.serial.as_deref());
            let unit = UnitConfig {
                volume: identity::volume_id(&volume.name),
                lun: volume.lun,
                name: volume.name.clone(),
                serial,
                naa,
                blocks: volume.bytes / BLOCK_BYTES,
            };
            VolumeConfig { unit, rules: volume.rules, store: volume.unit.clone() }
        });
        SiteConfig {
            site: self.site,
            pair: identity::pair_id(&self.target),
            port: PortConfig { site: self.site, target: self.target.clone(), group, relative },
            portal: self.iscsi_listen.to_string(),
            chap: self.chap.clone(),
            volumes: volumes.collect(),
            hold_time: self.hold_time,
            hold_every: self.hold_every,
            table: self.table,
            hold_memory: self.hold_memory,
            journal_bytes: self.journal_bytes,
            max_offset: self.max_offset,
            lease: self.lease,
            wait_max: self.wait_max,
            window_bytes: WINDOW_BYTES_MAX,
        }
    }
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(line_start..).map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}

/// One pass over a file: collects mistakes and goes on, so that all are told at once.
struct Reading<'a> {
    file: &'a Path,
    directory: &'a Path,
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl<'a> Reading<'a> {
    fn new(file: &'a Path, text: &'a str) -> Reading<'a> {
        Reading { file, directory: file.parent().unwrap_or(Path::new("")), text, mistakes: Vec::new() }
    }

    fn mistake(&mut self, span: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        let (line, column) = place(self.text, span.start);
        self.mistakes.push(Mistake { line, column, what: what.into(), remedy: remedy.into() });
    }

    fn refused(mut self) -> Refused {
        self.mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        Refused { file: self.file.to_owned(), mistakes: self.mistakes }
    }

    fn config(mut self) -> Result<(Config, Range<usize>), Refused> {
        let raw: RawConfig = match toml::from_str(self.text) {
            Ok(raw) => raw,
            Err(error) => {
                let message = error.message().trim_end().to_owned();
                let remedy = shape_remedy(&message);
                self.mistake(error.span().unwrap_or(0..0), message, remedy);
                return Err(self.refused());
            }
        };
        let link = raw.link.into_inner();
        let tls_span = link.tls.span();
        let state_dir = self.path(&raw.state_dir);
        let admin_socket = match &raw.admin.socket {
            Some(socket) => self.socket(socket),
            None => state_dir.join("admin.sock"),
        };
        let own_files = own_files(&state_dir, &admin_socket);
        if let Some(socket) = &raw.admin.socket
            && own_files.iter().filter(|(path, _)| *path == plain_path(&admin_socket)).count() > 1
        {
            let what = "the admin socket would take the place of another file of this site";
            self.mistake(socket.span(), what, "name a path that nothing else uses");
        }
        let (lease, wait_max) = self.lease_and_wait(&link);
        let (link_listen, link_peer) = self.link_addresses(&link, &raw.iscsi);
        let config = Config {
            file: self.file.to_owned(),
            site: self.site(&raw.site),
            state_dir,
            max_offset: self.time(raw.clock.max_offset.as_ref(), 500_000_000, 1_000_000, "clock.max_offset"),
            hold_time: self.time(raw.hold.time.as_ref(), 180_000_000_000, 0, "hold.time"),
            hold_every: self.time(raw.hold.every.as_ref(), 60_000_000_000, 1_000_000, "hold.every"),
            table: self.table(raw.hold.table.as_ref()),
            hold_memory: self.size(raw.hold.memory.as_ref(), 256 << 20, HOLD_MEMORY_BYTES_MIN, "hold.memory"),
            journal_bytes: self.size(raw.journal.size.as_ref(), 1 << 30, JOURNAL_BYTES_MIN, "journal.size"),
            link_listen,
            link_peer,
            tls: self.tls(link.tls),
            lease,
            wait_max,
            iscsi_listen: self.address(&raw.iscsi.listen),
            target: self.target(&raw.iscsi.target),
            chap: raw.iscsi.chap.as_ref().map(|chap| self.chap(chap)),
            admin_socket,
            volumes: self.volumes(raw.volume, &own_files),
        };
        if self.mistakes.is_empty() { Ok((config, tls_span)) } else { Err(self.refused()) }
    }

    fn path(&mut self, text: &Text) -> PathBuf {
        if text.get_ref().is_empty() || text.get_ref().contains('\0') {
            self.mistake(text.span(), "this is not a path", "name a file or directory");
        }
        self.directory.join(text.get_ref())
    }

    fn site(&mut self, text: &Text) -> SiteId {
        match text.get_ref().as_str() {
            "a" => SiteId::A,
            "b" => SiteId::B,
            other => {
                let what = format!("there is no site \"{other}\"");
                self.mistake(text.span(), what, "say site = \"a\" at one site and site = \"b\" at the other");
                SiteId::A
            }
        }
    }

    fn time(&mut self, text: Option<&Text>, default: u64, least: u64, key: &str) -> u64 {
        let time = self.quantity(text, default, least, key, parse_time, quantity::show_time, TIME_REMEDY);
        if let Some(text) = text
            && time > TIME_MAX
        {
            let what = format!("{key} is too large: {}", text.get_ref());
            self.mistake(text.span(), what, "write at most 8760h, which is a year");
            return default;
        }
        time
    }

    fn size(&mut self, text: Option<&Text>, default: u64, least: u64, key: &str) -> u64 {
        let bytes = self.quantity(text, default, least, key, parse_size, quantity::show_size, SIZE_REMEDY);
        if let Some(text) = text
            && !bytes.is_multiple_of(VOLUME_BYTES_UNIT)
        {
            let what = format!("{key} must be a multiple of {VOLUME_BYTES_UNIT} bytes, {bytes} is not");
            self.mistake(text.span(), what, format!("write {}B", bytes.next_multiple_of(VOLUME_BYTES_UNIT)));
        }
        bytes
    }

    #[allow(clippy::too_many_arguments)]
    fn quantity(
        &mut self,
        text: Option<&Text>,
        default: u64,
        least: u64,
        key: &str,
        parse: fn(&str) -> Result<u64, String>,
        show: fn(u64) -> String,
        remedy: &str,
    ) -> u64 {
        let Some(text) = text else { return default };
        match parse(text.get_ref()) {
            Ok(value) if value < least => {
                let what = format!("{key} is too small: {}", text.get_ref());
                self.mistake(text.span(), what, format!("write at least {}", show(least)));
                default
            }
            // Half of the range is kept free, so that sums of settings and clock readings cannot overflow.
            Ok(value) if value > u64::MAX >> 1 => {
                self.mistake(text.span(), format!("{key} is too large: {}", text.get_ref()), remedy);
                default
            }
            Ok(value) => value,
            Err(what) => {
                self.mistake(text.span(), format!("{key}: {what}"), remedy);
                default
            }
        }
    }

    fn table(&mut self, text: Option<&Text>) -> TableKind {
        match text.map(|text| (text, text.get_ref().as_str())) {
            None | Some((_, "indexed")) => TableKind::Indexed,
            Some((_, "plain")) => TableKind::Plain,
            Some((text, other)) => {
                let what = format!("there is no hold table \"{other}\"");
                self.mistake(text.span(), what, "say table = \"indexed\" or table = \"plain\"");
                TableKind::Indexed
            }
        }
    }

    fn address(&mut self, text: &Text) -> SocketAddr {
        text.get_ref().parse().unwrap_or_else(|_| {
            let what = format!("\"{}\" is not an address to listen at", text.get_ref());
            self.mistake(
                text.span(),
                what,
                "write an IP address and a port, as in \"0.0.0.0:3260\" or \"[::]:3260\"",
            );
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    fn link_addresses(&mut self, link: &RawLink, iscsi: &RawIscsi) -> (SocketAddr, String) {
        let listen = self.address(&link.listen);
        let peer = link.peer.get_ref().clone();
        let port = peer
            .rsplit_once(':')
            .filter(|(name, _)| !name.is_empty())
            .and_then(|(_, port)| port.parse().ok());
        // A bare IPv6 address would be read as a name and a port.
        let bare = peer.parse::<Ipv6Addr>().is_ok();
        if port.unwrap_or(0u16) == 0 || bare {
            let what = format!("\"{peer}\" is not an address to connect to");
            self.mistake(
                link.peer.span(),
                what,
                "write a name or an IP address, and a port, as in \"10.0.0.2:7801\" or \"[fd00::2]:7801\"",
            );
        }
        if peer == *link.listen.get_ref() {
            let what = "link.peer is the address that this site itself listens at";
            self.mistake(link.peer.span(), what, "write the address at which the other site listens");
        }
        if link.listen.get_ref() == iscsi.listen.get_ref() && listen.port() != 0 {
            let what = "link and iscsi cannot listen at the same address";
            self.mistake(iscsi.listen.span(), what, "give iscsi a port of its own; 3260 is usual");
        }
        (listen, peer)
    }

    fn lease_and_wait(&mut self, link: &RawLink) -> (u64, u64) {
        let lease = self.time(link.lease.as_ref(), 2_000_000_000, 10_000_000, "link.lease");
        let wait = self.time(link.wait.as_ref(), lease.max(2_000_000_000) * 4, 10_000_000, "link.wait");
        if wait <= lease
            && let Some(text) = link.wait.as_ref().or(link.lease.as_ref())
        {
            let what = "link.wait must be longer than link.lease, else commands give up before a broken line is noticed";
            self.mistake(
                text.span(),
                what,
                format!("write a wait of {} or more", quantity::show_time(lease * 4)),
            );
        }
        (lease, wait)
    }

    fn tls(&mut self, tls: Spanned<RawTls>) -> Option<TlsFiles> {
        let span = tls.span();
        match tls.into_inner() {
            RawTls::Files(files) => Some(TlsFiles {
                cert: self.path(&files.cert),
                key: self.path(&files.key),
                ca: self.path(&files.ca),
            }),
            RawTls::Word(word) => {
                if word != "off" {
                    let remedy = "say tls = { cert = \"a.pem\", key = \"a.key\", ca = \"pair.pem\" } (`biplex keys DIR` \
                                  makes them) or, in so many words, tls = \"off\"";
                    self.mistake(span, format!("link.tls cannot be \"{word}\""), remedy);
                }
                None
            }
        }
    }

    fn target(&mut self, text: &Text) -> String {
        if let Err(what) = check_iscsi_name(text.get_ref()) {
            let remedy = "write iqn.YYYY-MM.your.domain.reversed:name in lower case, as in \
                          \"iqn.2026-11.io.biplex:pair1\" (RFC 7143 4.2.7)";
            self.mistake(text.span(), what, remedy);
        }
        text.get_ref().clone()
    }

    fn chap(&mut self, chap: &RawChap) -> ChapConfig {
        self.chap_pair(&chap.user, &chap.secret);
        let mutual = chap.mutual.as_ref().map(|mutual| {
            self.chap_pair(&mutual.user, &mutual.secret);
            if mutual.secret.get_ref() == chap.secret.get_ref() {
                let what = "the mutual secret is the same as the host's secret";
                let remedy =
                    "choose two secrets: with one, a host's own answer proves the target (RFC 7143 9.2.1)";
                self.mistake(mutual.secret.span(), what, remedy);
            }
            (mutual.user.get_ref().clone(), mutual.secret.get_ref().clone())
        });
        ChapConfig { user: chap.user.get_ref().clone(), secret: chap.secret.get_ref().clone(), mutual }
    }

    fn chap_pair(&mut self, user: &Text, secret: &Text) {
        if user.get_ref().is_empty() || user.get_ref().len() > 255 {
            self.mistake(
                user.span(),
                "a CHAP user has 1 to 255 characters",
                "choose a shorter name, or any at all",
            );
        }
        if [user, secret].iter().any(|text| text.get_ref().chars().any(char::is_control)) {
            let what = "a CHAP user or secret holds a control character";
            self.mistake(user.span(), what, "use characters that can be typed; no initiator can send others");
        }
        // RFC 7143 9.2.1: secrets of less than 96 bits must not be used without IPsec.
        if !(12..=255).contains(&secret.get_ref().len()) {
            let what =
                format!("a CHAP secret has 12 to 255 characters, this one has {}", secret.get_ref().len());
            self.mistake(
                secret.span(),
                what,
                "write 12 to 16 random characters; some initiators take no more than 16",
            );
        }
    }

    fn socket(&mut self, text: &Text) -> PathBuf {
        let path = self.path(text);
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            let what = format!(
                "the path of the admin socket is {length} bytes long, {SOCKET_PATH_BYTES_MAX} are possible"
            );
            self.mistake(text.span(), what, "name a shorter path, such as \"/run/biplex/a.sock\"");
        }
        path
    }

    fn volumes(
        &mut self,
        volumes: Vec<Spanned<RawVolume>>,
        own_files: &[(PathBuf, &'static str)],
    ) -> Vec<Volume> {
        if volumes.is_empty() {
            let remedy = "add a [[volume]] table; examples/site-a.toml shows one";
            self.mistake(self.text.len()..self.text.len(), "there is no volume", remedy);
        }
        let (mut names, mut luns, mut stores) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut ids = BTreeMap::new();
        let mut result = Vec::with_capacity(volumes.len());
        for volume in volumes.into_iter().map(Spanned::into_inner) {
            let name = self.volume_name(&volume);
            let lun = *volume.lun.get_ref();
            if lun > 255 {
                self.mistake(
                    volume.lun.span(),
                    format!("{lun} is not a lun"),
                    "choose a number from 0 to 255",
                );
            }
            let unit = self.unit(&volume.store);
            let store = match &unit {
                Some(unit) => PathBuf::from(unit.to_string()),
                None => self.path(&volume.store),
            };
            let on_disk = self.kept_by_disk(volume.reservations.as_ref(), unit.is_some());
            self.only_once(&mut names, name.clone(), "name", &volume.name.span());
            self.only_once(&mut luns, lun.to_string(), "lun", &volume.lun.span());
            let plain = if unit.is_some() { store.clone() } else { plain_path(&store) };
            if let Some((_, whose)) = own_files.iter().find(|(path, _)| *path == plain) {
                let what = format!("{} is {whose}, not a place for a volume", store.display());
                self.mistake(volume.store.span(), what, "name a file or block device that nothing else uses");
            }
            self.only_once(&mut stores, plain.to_string_lossy().into_owned(), "store", &volume.store.span());
            if let Some(other) = ids.insert(identity::volume_id(&name), name.clone())
                && other != name
            {
                let what = format!("the names \"{name}\" and \"{other}\" happen to give the same volume id");
                self.mistake(volume.name.span(), what, "choose another name for one of them");
            }
            let bytes = self.volume_bytes(&volume.size);
            let mut rules = self.rules(&volume);
            rules.disk = on_disk;
            self.refuse_discard_on_disk(&mut rules, &volume);
            let serial = volume.serial.as_ref().map(|serial| self.serial(serial));
            result.push(Volume { name, lun, bytes, rules, store, unit, serial });
        }
        result
    }

    fn only_once(
        &mut self,
        seen: &mut BTreeMap<String, usize>,
        value: String,
        key: &str,
        span: &Range<usize>,
    ) {
        let line = place(self.text, span.start).0;
        if let Some(first) = seen.insert(value.clone(), line) {
            let what = format!("another volume (line {first}) has the {key} \"{value}\" already");
            self.mistake(span.clone(), what, format!("give every volume a {key} of its own"));
        }
    }

    fn volume_name(&mut self, volume: &RawVolume) -> String {
        let name = volume.name.get_ref();
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            let what = format!("\"{name}\" is not a volume's name");
            self.mistake(volume.name.span(), what, "use 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        name.clone()
    }

    fn volume_bytes(&mut self, text: &Text) -> u64 {
        let bytes = self.size(Some(text), VOLUME_BYTES_UNIT, VOLUME_BYTES_UNIT, "volume.size");
        if bytes > VOLUME_BYTES_MAX {
            let what = format!("volume.size is too large: {}", text.get_ref());
            self.mistake(
                text.span(),
                what,
                format!("write at most {}", quantity::show_size(VOLUME_BYTES_MAX)),
            );
        }
        bytes
    }

    fn serial(&mut self, text: &Text) -> String {
        let serial = text.get_ref();
        if serial.is_empty() || serial.len() > 64 || !serial.chars().all(|c| c.is_ascii_graphic()) {
            let what = format!("\"{serial}\" is not a serial number");
            self.mistake(
                text.span(),
                what,
                "use 1 to 64 visible ASCII characters, the same at both sites, or leave it out",
            );
        }
        serial.clone()
    }
}

/// Files that the site keeps for itself, with what they are.
fn own_files(state_dir: &Path, admin_socket: &Path) -> [(PathBuf, &'static str); 4] {
    [
        (plain_path(&state_dir.join("journal")), "the site's journal"),
        (plain_path(&state_dir.join("journal.new")), "where the site makes its journal"),
        (plain_path(&state_dir.join("lock")), "the site's lock"),
        (plain_path(admin_socket), "the admin socket"),
    ]
}

/// A path without "." and "..", so that two spellings of a file are seen as one. Symbolic links are not followed: the
/// locks on open files see through those.
fn plain_path(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => {
                plain.pop();
            }
            Component::ParentDir | Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                plain.push(part);
            }
        }
    }
    plain
}

/// iSCSI names (RFC 7143 4.2.7, RFC 3722): `iqn.`, `eui.` or `naa.`, at most 223 bytes, lower case.
fn check_iscsi_name(name: &str) -> Result<(), String> {
    let hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    let fits = match name.split_once('.') {
        Some(("iqn", rest)) => {
            let mut date = rest.splitn(2, '.');
            let (when, domain) = (date.next().unwrap_or(""), date.next().unwrap_or(""));
            let digits = |text: &str, count| text.len() == count && text.chars().all(|c| c.is_ascii_digit());
            let month = |text: &str| digits(text, 2) && ("01"..="12").contains(&text);
            let dated = when.split_once('-').is_some_and(|(y, m)| digits(y, 4) && month(m));
            dated && domain.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(legal)
        }
        Some(("eui", rest)) => rest.len() == 16 && hex(rest),
        Some(("naa", rest)) => (rest.len() == 16 || rest.len() == 32) && hex(rest),
        Some(_) | None => false,
    };
    if !fits {
        return Err(format!("\"{name}\" is not an iSCSI name"));
    }
    if name.len() > 223 {
        return Err(format!("an iSCSI name has at most 223 characters, this one has {}", name.len()));
    }
    Ok(())
}

/// What to do about a mistake of shape, judged by what the TOML reader says.
fn shape_remedy(message: &str) -> &'static str {
    if message.starts_with("unknown field") {
        "correct the spelling or remove the line; the message lists what is known here"
    } else if message.starts_with("missing field") {
        "add it; examples/site-a.toml shows all of them, with comments"
    } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
        "write the value as examples/site-a.toml does: texts, sizes and times in quotes, lun as a bare number"
    } else if message.contains("duplicate") {
        "keep one of the two"
    } else {
        "this is not TOML here; compare the line with examples/site-a.toml (https://toml.io tells the rules)"
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
