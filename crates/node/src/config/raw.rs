//! Answers for the shape of the TOML file: names, nesting, and where each value stands. Judges nothing beyond shape.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use toml::Spanned;

/// A text with its place in the file.
pub type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    pub site: Text,
    pub state_dir: Text,
    #[serde(default)]
    pub clock: RawClock,
    #[serde(default)]
    pub hold: RawHold,
    #[serde(default)]
    pub journal: RawJournal,
    pub link: Spanned<RawLink>,
    pub iscsi: RawIscsi,
    #[serde(default)]
    pub admin: RawAdmin,
    #[serde(default)]
    pub volume: Vec<Spanned<RawVolume>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawClock {
    pub max_offset: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHold {
    pub time: Option<Text>,
    pub every: Option<Text>,
    pub table: Option<Text>,
    pub memory: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJournal {
    pub size: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLink {
    pub listen: Text,
    pub peer: Text,
    pub tls: Spanned<RawTls>,
    pub lease: Option<Text>,
    pub wait: Option<Text>,
}

/// `tls = "off"` or a table of files.
#[derive(Debug)]
pub enum RawTls {
    Word(String),
    Files(RawTlsFiles),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTlsFiles {
    pub cert: Text,
    pub key: Text,
    pub ca: Text,
}

impl<'de> Deserialize<'de> for RawTls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawTls, D::Error> {
        struct WordOrFiles;
        impl<'de> Visitor<'de> for WordOrFiles {
            type Value = RawTls;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"off\" or a table { cert = …, key = …, ca = … }")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<RawTls, E> {
                Ok(RawTls::Word(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawTls, A::Error> {
                RawTlsFiles::deserialize(MapAccessDeserializer::new(map)).map(RawTls::Files)
            }
        }
        deserializer.deserialize_any(WordOrFiles)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIscsi {
    pub listen: Text,
    pub target: Text,
    pub chap: Option<RawChap>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawChap {
    pub user: Text,
    pub secret: Text,
    pub mutual: Option<RawMutual>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMutual {
    pub user: Text,
    pub secret: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAdmin {
    pub socket: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVolume {
    pub name: Text,
    pub lun: Spanned<u16>,
    pub size: Text,
    pub mode: Text,
    pub store: Text,
    pub reservations: Option<Text>,
    pub serial: Option<Text>,
    pub reserve_conflicting_writes: Option<Text>,
    pub compare_and_write: Option<Text>,
}
