use std::io::ErrorKind;
use std::time::Duration;

use gantry_testkit::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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
