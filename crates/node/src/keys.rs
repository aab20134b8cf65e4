//! Answers for `biplex keys`: an authority for one pair and a certificate for each of its sites. Never overwrites a
//! file and never leaves a private key readable for others.

use crate::tls::site_name;
use anyhow::{Context, bail};
use biplex_engine::SiteId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How long certificates are valid, in years.
pub const VALID_YEARS: i16 = 10;

/// Makes `pair.pem`, `pair.key`, `a.pem`, `a.key`, `b.pem` and `b.key` in `directory`, which is made if missing.
pub fn make(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let names = ["pair.pem", "pair.key", "a.pem", "a.key", "b.pem", "b.key"];
    for name in names {
        let path = directory.join(name);
        if path.exists() {
            bail!(
                "{} exists already; nothing was written. Name another directory or move it away",
                path.display()
            );
        }
    }
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let authority_key = KeyPair::generate()?;
    let mut authority = params(Vec::new(), "Biplex pair authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair_pem = authority.self_signed(&authority_key)?.pem();
    let pair_key = authority_key.serialize_pem();
    let issuer = Issuer::new(authority, authority_key);
    let mut texts = vec![pair_pem, pair_key];
    for site in SiteId::BOTH {
        let key = KeyPair::generate()?;
        let mut site_params = params(vec![site_name(site).to_owned()], site_name(site))?;
        site_params.is_ca = IsCa::ExplicitNoCa;
        site_params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        site_params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        site_params.use_authority_key_identifier_extension = true;
        texts.push(site_params.signed_by(&key, &issuer)?.pem());
        texts.push(key.serialize_pem());
    }
    let mut written = Vec::with_capacity(names.len());
    for (name, text) in names.iter().zip(texts) {
        let path = directory.join(name);
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| path.display().to_string())?;
        written.push(path);
    }
    Ok(written)
}

/// What the operator should do with the files.
pub fn advice(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "Site a needs {directory}/a.pem, a.key and pair.pem; site b needs b.pem, b.key and pair.pem:\n  \
         [link]\n  tls = {{ cert = \"a.pem\", key = \"a.key\", ca = \"pair.pem\" }}\n\
         pair.key can make further certificates for this pair. Neither site needs it: put it away, offline.\n\
         The certificates are valid for {VALID_YEARS} years."
    )
}

fn params(names: Vec<String>, common_name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // From yesterday on, so that a peer whose clock is a little behind takes them at once. The 28th exists in every
    // month of every year.
    let yesterday = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().yesterday()?;
    let (year, month) = (i32::from(yesterday.year()), yesterday.month().unsigned_abs());
    let day = yesterday.day().unsigned_abs();
    params.not_before = date_time_ymd(year, month, day);
    params.not_after = date_time_ymd(year + i32::from(VALID_YEARS), month, day.min(28));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nothing_is_overwritten_and_private_keys_are_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let written = make(directory.path()).expect("keys");
        assert_eq!(written.len(), 6);
        for path in written.iter().filter(|path| path.extension().is_some_and(|e| e == "key")) {
            let mode = path.metadata().expect("metadata").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        let before = std::fs::read(directory.path().join("a.key")).expect("a key");
        let refused = make(directory.path()).expect_err("files exist").to_string();
        assert!(refused.contains("pair.pem exists already"), "{refused}");
        assert_eq!(std::fs::read(directory.path().join("a.key")).expect("a key"), before);
    }
}
