//! An engine behind TLS: both sides show a certificate.

use std::sync::Arc;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use gantry_core::{Failure, FailureClass};
use gantry_worker::secrets::{ExposeSecret, Secrets};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::connection::Tls;

/// A client for the engine at `address`, `host:port`. Nothing is sent yet.
///
/// The client's own way of doing this reads its keys from files, at each connection, and trusts every authority that the
/// machine does.
pub(crate) fn client(address: &str, tls: &Tls, secrets: &Secrets, timeout_seconds: u64) -> Result<Docker, Failure> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let connector = HttpsConnector::from((http, config(tls, secrets)?));
    // A connection for each request, as the client does for the other kinds: one that was closed meanwhile cannot be
    // told from a request that was lost.
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let send = move |request: BollardRequest| {
        let answer = client.request(request);
        async move { answer.await.map_err(Error::from) }
    };
    Docker::connect_with_custom_transport(
        send,
        Some(format!("https://{address}")),
        timeout_seconds,
        API_DEFAULT_VERSION,
    )
    .map_err(|error| crate::error::failure(address, &error))
}

fn config(tls: &Tls, secrets: &Secrets) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", &tls.ca, secrets)? {
        roots.add(certificate).map_err(|error| unusable("tls.ca", &tls.ca, &error.to_string()))?;
    }
    let chain = certificates("tls.certificate", &tls.certificate, secrets)?;
    let key = secrets.resolve(&tls.key)?;
    // The parser's own text could quote what it was given.
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
        .map_err(|_| unusable("tls.key", &tls.key, "it is no private key in PEM"))?;
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|error| unusable("tls.key", &tls.key, &error.to_string()))
}

fn certificates(key: &str, name: &str, secrets: &Secrets) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = secrets.resolve(name)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.expose_secret().as_bytes()).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unusable(key, name, "it is no certificate in PEM")),
    }
}

fn unusable(key: &str, name: &str, why: &str) -> Failure {
    let message = format!("connection_config: {key}: the secret {name:?} cannot be used: {why}");
    Failure::new(FailureClass::BackendError, message)
}
