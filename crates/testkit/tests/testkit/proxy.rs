use std::io::ErrorKind;
use std::time::Duration;

use gantry_testkit::{Proxy, Tally};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Long enough for bytes to arrive that should not.
const SILENCE: Duration = Duration::from_millis(200);

/// A server that answers every byte with the same byte and says what it got.
async fn echo() -> (String, mpsc::UnboundedReceiver<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let url = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                while let Ok(byte) = stream.read_u8().await {
                    let _ = (heard.send(byte), stream.write_u8(byte).await);
                }
            });
        }
    });
    (url, hears)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let address = proxy.url().trim_start_matches("tcp://");
    TcpStream::connect(address).await.expect("the proxy accepts")
}

async fn ask(stream: &mut TcpStream, byte: u8) -> Option<u8> {
    stream.write_u8(byte).await.expect("the connection is open");
    timeout(SILENCE, stream.read_u8()).await.ok().map(|answer| answer.expect("the connection is open"))
}

#[tokio::test]
async fn stall_holds_back_and_resume_lets_go() {
    let (url, mut heard) = echo().await;
    let proxy = Proxy::start(&url).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 1).await, Some(1));
    assert_eq!(heard.recv().await, Some(1));
    proxy.stall();
    assert_eq!(ask(&mut stream, 2).await, None);
    assert!(heard.is_empty(), "the request was held back");
    proxy.resume();
    assert_eq!(stream.read_u8().await.expect("the connection is open"), 2);
}

#[tokio::test]
async fn dropped_responses_are_answers_to_requests_that_arrived() {
    let (url, mut heard) = echo().await;
    let proxy = Proxy::start(&url).await;
    let mut stream = connect(&proxy).await;
    proxy.drop_responses();
    assert_eq!(ask(&mut stream, 3).await, None);
    assert_eq!(heard.recv().await, Some(3));
    proxy.resume();
    assert_eq!(ask(&mut stream, 4).await, Some(4), "what was thrown away does not come back");
}

#[tokio::test]
async fn cut_resets_what_is_open_and_lets_new_connections_in() {
    let (url, _heard) = echo().await;
    let proxy = Proxy::start(&url).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 5).await, Some(5));
    proxy.cut();
    let error = stream.read_u8().await.expect_err("the connection was cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut connect(&proxy).await, 6).await, Some(6));
}

#[tokio::test]
async fn refused_is_who_comes_until_it_is_over() {
    let (url, heard) = echo().await;
    let proxy = Proxy::start(&url).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 7).await, Some(7));
    proxy.refuse();
    let error = stream.read_u8().await.expect_err("the connection was cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The reset may come before or after the first read.
    let late = connect(&proxy).await.read_u8().await.expect_err("refused");
    assert!(matches!(late.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{late}");
    assert_eq!(proxy.tally(), Tally { reset: 1, refused: 1, ..Tally::default() });
    assert_eq!(heard.len(), 1);
    proxy.resume();
    assert_eq!(ask(&mut connect(&proxy).await, 8).await, Some(8));
}

#[tokio::test]
async fn a_unix_socket_is_cut_like_any_other_and_its_requests_are_heard() {
    let folder = std::env::temp_dir().join(format!("gantry-proxy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (upstream, own) = (folder.join("server"), folder.join("proxy"));
    let listener = UnixListener::bind(&upstream).expect("a free path");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(byte) = stream.read_u8().await {
                    let _ = stream.write_u8(byte).await;
                }
            });
        }
    });
    let (heard, mut hears) = mpsc::unbounded_channel();
    let proxy = Proxy::unix(&own, &upstream, move |bytes: &[u8]| drop(heard.send(bytes.to_vec())));
    let mut stream = UnixStream::connect(&own).await.expect("the proxy accepts");
    stream.write_u8(1).await.expect("open");
    assert_eq!(stream.read_u8().await.expect("open"), 1);
    assert_eq!(hears.recv().await, Some(vec![1]));
    proxy.drop_responses();
    stream.write_u8(2).await.expect("open");
    assert_eq!(hears.recv().await, Some(vec![2]));
    assert!(timeout(SILENCE, stream.read_u8()).await.is_err());
    proxy.cut();
    assert!(stream.read_u8().await.is_err(), "cut");
    assert_eq!(proxy.tally(), Tally { reset: 1, dropped: 1, ..Tally::default() });
    std::fs::remove_dir_all(&folder).expect("our own folder");
}
