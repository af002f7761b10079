//! A span and a measurement per request, in the trace that the client began.

use std::sync::LazyLock;

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::metrics::Histogram;
use opentelemetry::propagation::Extractor;
use opentelemetry::{Context, KeyValue, global};
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

// First used by the first request, when telemetry has begun.
static DURATION: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    global::meter("gantry-api")
        .f64_histogram("http.server.request.duration")
        .with_unit("s")
        // Those of OpenTelemetry's conventions for this metric; the defaults are for milliseconds.
        .with_boundaries(vec![0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0])
        .with_description("Time from a request to the head of its response.")
        .build()
});

pub(crate) async fn request(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    // The route and not the path, so that ids make no new names.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "http.request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = %method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        tenant.id = tracing::field::Empty,
    );
    if let Err(error) = span.set_parent(extract(request.headers())) {
        tracing::trace!(%error, "a span's parent was not set");
    }
    let began = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    let attributes = [
        KeyValue::new("http.request.method", method.to_string()),
        KeyValue::new("http.route", route),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    DURATION.record(began.elapsed().as_secs_f64(), &attributes);
    response
}

/// The `traceparent` of the span that this runs in; none where spans are off.
pub(crate) fn parent() -> Option<String> {
    let mut headers = gantry_broker::Headers::default();
    gantry_broker::trace::inject(&mut headers);
    headers.get("traceparent").map(str::to_owned)
}

fn extract(headers: &HeaderMap) -> Context {
    global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), &Headers(headers)))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}
