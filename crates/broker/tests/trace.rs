//! One trace from the publisher's span to the consumer's.

use gantry_broker::{Broker, Config, Consumer, Outgoing, Publisher, ack_all, consume, trace};
use gantry_testkit::TestVhost;
use opentelemetry::{global, trace::TraceContextExt as _, trace::TracerProvider as _};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

#[tokio::test]
async fn the_trace_goes_along_with_a_message() {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder().build();
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test"))).init();

    let vhost = TestVhost::create().await;
    let config = Config::new(vhost.amqp_url());
    let broker = Broker::connect(config, "test").await.expect("connected");
    let topology = broker.topology().clone();
    topology.declare(&broker, &[]).await.expect("declared");
    let publisher = Publisher::new(&broker);

    let sending = tracing::info_span!("sending");
    let sent = sending.context().span().span_context().clone();
    let own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let plain = Outgoing::work(topology.reports(), b"1".to_vec());
    let mut passed_on = Outgoing::work(topology.reports(), b"2".to_vec());
    passed_on.headers.insert("traceparent", own);
    let published = publisher.publish_all(vec![plain, passed_on]).instrument(sending).await;
    assert!(published.iter().all(Result::is_ok));

    let options = consume::Options::default();
    let mut consumer = Consumer::new(&broker, topology.reports_queue(), options);
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(consumer.next_batch().await);
    }
    let first = trace::extract(received[0].headers());
    assert_eq!(first.span().span_context().trace_id(), sent.trace_id());
    assert_eq!(first.span().span_context().span_id(), sent.span_id());
    let receiving = tracing::info_span!("receiving");
    trace::set_parent(&receiving, received[0].headers());
    assert_eq!(receiving.context().span().span_context().trace_id(), sent.trace_id());

    assert_eq!(received[1].headers().get("traceparent"), Some(own));
    ack_all(received).await;
}
