//! A certificate authority of the test's own.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key()).expect("signs itself"))
    }

    /// A certificate for loopback and its key, in PEM.
    fn issue(&self) -> (String, String) {
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address");
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("signs");
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes what a client needs that trusts `self` and is signed by `signer`, as the secrets `ca`, `cert` and `key`.
    pub(crate) fn write_client(&self, signer: &Self, folder: &Path) {
        let (certificate, key) = signer.issue();
        for (name, pem) in [("ca", self.0.pem()), ("cert", certificate), ("key", key)] {
            std::fs::write(folder.join(name), pem).expect("writes the secret");
        }
    }

    /// Writes what a server shows, as `server` and `server-key`.
    pub(crate) fn write_server(&self, folder: &Path) {
        let (certificate, key) = self.issue();
        for (name, pem) in [("server", certificate), ("server-key", key)] {
            std::fs::write(folder.join(name), pem).expect("writes the file");
        }
    }

    /// A server that takes only clients which this authority has signed, as `dockerd --tlsverify`.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = self.issue();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("they belong together");
        TlsAcceptor::from(Arc::new(config))
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
