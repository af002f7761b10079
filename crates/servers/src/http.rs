//! The one HTTP question this crate asks: does this address answer with success?

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Whether `GET path` over this connection is answered with a status of 2xx.
///
/// HTTP/1.0, so that the server closes the connection and does not chunk.
pub(crate) async fn answers(mut connection: impl AsyncRead + AsyncWrite + Unpin, path: &str, headers: &str) -> bool {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
    let mut answer = [0; 12];
    connection.write_all(request.as_bytes()).await.is_ok()
        && connection.read_exact(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.")
        && answer[9] == b'2'
}
