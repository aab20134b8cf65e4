//! Answers for who may speak on the link: TLS 1.3 only, both sides prove themselves with a certificate of the pair's
//! authority that names the OTHER site. Moves no bytes; never accepts a peer that the pair's authority did not sign.

use crate::config::TlsFiles;
use biplex_engine::SiteId;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, version,
};
use std::path::Path;
use std::sync::Arc;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read or holds no PEM of the kind wanted.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate, key and authority do not fit together.
    #[error("the certificate {cert} does not serve: {why}")]
    Unfit {
        /// The certificate file.
        cert: String,
        /// What does not fit.
        why: String,
    },
}

/// DNS name that a site's certificate carries.
pub fn site_name(site: SiteId) -> &'static str {
    match site {
        SiteId::A => "site-a.biplex",
        SiteId::B => "site-b.biplex",
    }
}

fn server_name(site: SiteId) -> ServerName<'static> {
    ServerName::try_from(site_name(site)).expect("both names are valid DNS names")
}

/// A site's keys, checked and ready for connections in both directions.
#[derive(Clone)]
pub struct Keys {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    peer: ServerName<'static>,
}

impl Keys {
    /// Loads the keys of `site` and checks that they fit together and are valid now.
    pub fn load(files: &TlsFiles, site: SiteId) -> Result<Keys, KeysError> {
        let certs = read_certs(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| file_error(&files.key, &error))?;
        let mut roots = RootCertStore::empty();
        for cert in read_certs(&files.ca)? {
            roots.add(cert).map_err(|error| file_error(&files.ca, &error))?;
        }
        let unfit = |why: String| KeysError::Unfit { cert: files.cert.display().to_string(), why };
        Keys::new(certs, key, roots, site).map_err(unfit)
    }

    fn new(
        certs: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: RootCertStore,
        site: SiteId,
    ) -> Result<Keys, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| text(&error))?;
        let (first, rest) = certs.split_first().ok_or("the file holds no certificate")?;
        servers
            .verify_server_cert(first, rest, &server_name(site), &[], UnixTime::now())
            .map_err(|error| format!("as {}: {error}", site_name(site)))?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| text(&error))?;
        let peer = server_name(site.peer());
        let clients = Arc::new(OnlyThePeer { chain: clients, peer: peer.clone() });
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| text(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(certs.clone(), key.clone_key())
            .map_err(|error| text(&error))?;
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| text(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certs, key)
            .map_err(|error| text(&error))?;
        client.resumption = Resumption::disabled();
        Ok(Keys { client: Arc::new(client), server: Arc::new(server), peer })
    }

    /// A TLS session for a connection that we opened to the peer.
    pub fn dial(&self) -> Result<rustls::Connection, rustls::Error> {
        ClientConnection::new(self.client.clone(), self.peer.clone()).map(Into::into)
    }

    /// A TLS session for a connection that came in.
    pub fn accept(&self) -> Result<rustls::Connection, rustls::Error> {
        ServerConnection::new(self.server.clone()).map(Into::into)
    }
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> KeysError {
    KeysError::File { path: path.display().to_string(), why: error.to_string() }
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeysError> {
    let certs: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| file_error(path, &error))?.collect();
    let certs = certs.map_err(|error| file_error(path, &error))?;
    if certs.is_empty() {
        return Err(file_error(path, &"the file holds no certificate"));
    }
    Ok(certs)
}

/// Accepts a client whose chain is good AND whose certificate names the peer site. Without the second half a site
/// would take its own certificate, stolen or looped back, for its peer's.
#[derive(Debug)]
struct OnlyThePeer {
    chain: Arc<dyn ClientCertVerifier>,
    peer: ServerName<'static>,
}

impl ClientCertVerifier for OnlyThePeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.peer)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    fn files(directory: &Path, letter: &str) -> TlsFiles {
        TlsFiles {
            cert: directory.join(format!("{letter}.pem")),
            key: directory.join(format!("{letter}.key")),
            ca: directory.join("pair.pem"),
        }
    }

    /// Carries bytes between the two until neither has more to say; gives back what each end judges.
    fn handshake(dialler: &Keys, acceptor: &Keys) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
        let mut ends = [dialler.dial().expect("a session"), acceptor.accept().expect("a session")];
        let mut verdicts = [Ok(()), Ok(())];
        for _ in 0..20 {
            for from in [0, 1] {
                let mut wire = Vec::new();
                while ends[from].wants_write() {
                    ends[from].write_tls(&mut wire).expect("a Vec takes all");
                }
                let to = 1 - from;
                let mut rest = wire.as_slice();
                while !rest.is_empty() {
                    ends[to].read_tls(&mut rest).expect("a slice gives all");
                    if let Err(error) = ends[to].process_new_packets()
                        && verdicts[to].is_ok()
                    {
                        verdicts[to] = Err(error);
                    }
                }
            }
        }
        let [dialled, accepted] = verdicts;
        (dialled, accepted)
    }

    #[test]
    fn keys_made_by_us_prove_each_site_to_the_other() {
        let directory = tempfile::tempdir().expect("a directory");
        keys::make(directory.path()).expect("keys");
        let a = Keys::load(&files(directory.path(), "a"), SiteId::A).expect("a's keys");
        let b = Keys::load(&files(directory.path(), "b"), SiteId::B).expect("b's keys");
        assert_eq!(handshake(&a, &b), (Ok(()), Ok(())));
        assert_eq!(handshake(&b, &a), (Ok(()), Ok(())));
    }

    #[test]
    fn own_certificate_does_not_pass_for_the_peers() {
        let directory = tempfile::tempdir().expect("a directory");
        keys::make(directory.path()).expect("keys");
        let a = Keys::load(&files(directory.path(), "a"), SiteId::A).expect("a's keys");
        let mut thief = a.clone();
        thief.peer = server_name(SiteId::A);
        let (_, accepted) = handshake(&thief, &a);
        assert!(accepted.is_err(), "site a took site a's certificate for site b's");
        let (dialled, _) = handshake(&a, &a);
        assert!(dialled.is_err(), "site a dialled itself and believed it was site b");
    }

    #[test]
    fn another_pairs_certificate_is_refused_on_both_sides() {
        let (ours, theirs) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        keys::make(ours.path()).expect("keys");
        keys::make(theirs.path()).expect("keys");
        let a = Keys::load(&files(ours.path(), "a"), SiteId::A).expect("a's keys");
        let stranger = Keys::load(&files(theirs.path(), "b"), SiteId::B).expect("b's keys");
        assert!(handshake(&a, &stranger).0.is_err());
        assert!(handshake(&stranger, &a).0.is_err());
    }

    #[test]
    fn files_that_do_not_fit_are_refused_with_the_file_named() {
        let directory = tempfile::tempdir().expect("a directory");
        keys::make(directory.path()).expect("keys");
        let wrong_site = Keys::load(&files(directory.path(), "a"), SiteId::B).err().expect("refused");
        assert!(wrong_site.to_string().contains("site-b.biplex"), "{wrong_site}");
        let mut mixed = files(directory.path(), "a");
        mixed.key = directory.path().join("b.key");
        assert!(Keys::load(&mixed, SiteId::A).is_err());
        mixed.key = directory.path().join("missing.key");
        let missing = Keys::load(&mixed, SiteId::A).err().expect("refused");
        assert!(missing.to_string().contains("missing.key"), "{missing}");
    }
}
