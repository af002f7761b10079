//! W3C trace context in message headers: one trace from the producer's publish
//! to the recorder's commit.

use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::Headers;

/// Writes the current span's context into `headers`, unless one is there
/// already: a message that is passed on stays in the trace it came from.
pub fn inject(headers: &mut Headers) {
    if headers.get("traceparent").is_some() {
        return;
    }
    inject_context(&Span::current().context(), headers);
}

/// Writes `context` into `headers`, in place of one that is there.
pub fn inject_context(context: &Context, headers: &mut Headers) {
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(context, &mut Carrier(headers));
    });
}

/// The context that `headers` carry; an empty one where they carry none.
pub fn extract(headers: &Headers) -> Context {
    global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), &Reader(headers)))
}

/// Makes `span` a child of what `headers` carry. To be called before the span
/// is first entered.
pub fn set_parent(span: &Span, headers: &Headers) {
    if let Err(error) = span.set_parent(extract(headers)) {
        tracing::trace!(%error, "a span's parent was not set");
    }
}

struct Carrier<'a>(&'a mut Headers);

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key, value);
    }
}

struct Reader<'a>(&'a Headers);

impl Extractor for Reader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.names().collect()
    }
}
