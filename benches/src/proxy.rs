//! A socket before the engine's socket that notes when each create request passes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use gantry_core::clock::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

type Created = Arc<Mutex<Vec<(String, DateTime<Utc>)>>>;

/// The proxy; ends with this value.
pub(crate) struct Proxy {
    path: PathBuf,
    created: Created,
    _accept: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(engine: &Path, path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let created = Created::default();
        let (engine, noted) = (engine.to_owned(), created.clone());
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (engine, noted) = (engine.clone(), noted.clone());
                tokio::spawn(async move { forward(client, &engine, &noted).await });
            }
        });
        Ok(Self { path: path.to_owned(), created, _accept: AbortOnDropHandle::new(accept) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The containers that were asked for, by name, and when.
    pub(crate) fn created(&self) -> Vec<(String, DateTime<Utc>)> {
        self.created.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

async fn forward(client: UnixStream, engine: &Path, created: &Created) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_engine, mut to_engine) = UnixStream::connect(engine).await?.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_engine, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from_client.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        // A request line is short and begins its own write: it is never split in practice.
        if let Some(name) = created_name(&buffer[..read]) {
            created.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((name, SystemClock.now()));
        }
        to_engine.write_all(&buffer[..read]).await?;
    }
    to_engine.shutdown().await?;
    let _ = back.await;
    Ok(())
}

/// The name in `POST /v1.41/containers/create?...name=NAME...`.
fn created_name(request: &[u8]) -> Option<String> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("POST ")?;
    let query = line.split_once("/containers/create?")?.1.split(' ').next()?;
    query.split('&').find_map(|pair| pair.strip_prefix("name=")).map(str::to_owned)
}
