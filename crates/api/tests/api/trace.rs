//! One trace from the client's request on.

use gantry_store::{Scope, jobs};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::Method;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::support::{Api, answer, job};

#[tokio::test]
async fn a_job_belongs_to_the_trace_of_its_submission() {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let spans = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer("test"));
    tracing_subscriber::registry().with(layer).init();

    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let request = client.request(Method::POST, "/v1/jobs").header("traceparent", &parent).json(&job());
    let id = answer(request).await.body["id"].as_str().expect("an id").parse().expect("an id");
    let spec = jobs::spec(&api.fleet, Scope::Fleet, id).await.expect("read").expect("stored").spec;
    let stored = spec.traceparent.expect("a trace");
    assert!(stored.contains(trace), "{stored}");
    // The job follows from the API's own span, not from the client's.
    assert_ne!(stored, parent);
}
