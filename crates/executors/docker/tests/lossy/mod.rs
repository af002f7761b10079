//! A way to the engine on which some answers are lost.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// An environment variable of containers whose create request arrives, while its answer is lost, once.
pub(crate) const LOSE_ANSWER: &str = "LOSE_ANSWER";

/// A socket that passes everything on to an engine's.
pub(crate) struct Lossy {
    pub(crate) endpoint: String,
    _folder: TempDir,
    _serving: JoinSet<()>,
}

impl Lossy {
    pub(crate) fn to(engine: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let upstream = engine.trim_start_matches("unix://").to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, upstream));
        Self { endpoint: format!("unix://{}", path.display()), _folder: folder, _serving: serving }
    }
}

async fn serve(listener: UnixListener, upstream: String) {
    let lost = Arc::new(Mutex::new(HashSet::new()));
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, lost) = (upstream.clone(), Arc::clone(&lost));
        // A connection that breaks is the client's to notice.
        connections.spawn(async move { pass_on(client, &upstream, &lost).await.unwrap_or_default() });
        while connections.try_join_next().is_some() {}
    }
}

/// Passes on one connection, which carries one request (the client keeps none open).
async fn pass_on(mut client: UnixStream, upstream: &str, lost: &Mutex<HashSet<String>>) -> io::Result<()> {
    let request = read_request(&mut client).await?;
    let mut engine = UnixStream::connect(upstream).await?;
    engine.write_all(&request).await?;
    let text = String::from_utf8_lossy(&request);
    let first_line = text.lines().next().unwrap_or_default().to_owned();
    let loses = first_line.contains("/containers/create?") && text.contains(LOSE_ANSWER);
    if loses && lost.lock().expect("no test panics with it").insert(first_line) {
        // The engine has done its work when it begins to answer.
        engine.read_u8().await?;
        return Ok(());
    }
    copy_bidirectional(&mut client, &mut engine).await?;
    Ok(())
}

async fn read_request(client: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if request.len() >= head + 4 + length.unwrap_or(0_usize) {
                return Ok(request);
            }
        }
    }
}
