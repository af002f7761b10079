//! Logs, traces and metrics.
//!
//! Logs go to stderr. Spans carry W3C trace context in every process, and are
//! exported over OTLP where an endpoint is set. Metrics have one API
//! (`opentelemetry::global::meter`) and two outputs: Prometheus text, always,
//! and OTLP where an endpoint is set.

use std::sync::OnceLock;

use std::io::IsTerminal as _;

use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde::Deserialize;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What is told, and to whom.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How log lines are written: `text` for people, `json` for collectors.
    pub log_format: LogFormat,

    /// What is logged and traced: comma-separated directives, a level or
    /// `module=level` (`info,gantry_worker=debug`).
    pub filter: String,

    /// Where traces and metrics go over OTLP gRPC (`http://collector:4317`).
    /// Without it they stay in the process, and `/metrics` shows the metrics.
    pub otlp_endpoint: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            // The libraries report to their callers, who log what matters.
            filter: "info,lapin=off,opentelemetry=warn,opentelemetry_sdk=warn".to_owned(),
            otlp_endpoint: None,
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why telemetry did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter's text is not understood.
    #[error("the log filter `{filter}` is not valid")]
    Filter {
        /// The text.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The OTLP exporter refused its endpoint.
    #[error("cannot export to `{endpoint}`")]
    Exporter {
        /// The endpoint given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The Prometheus side refused.
    #[error("cannot collect metrics")]
    Metrics(#[source] opentelemetry_sdk::error::OTelSdkError),
    /// Telemetry is the process's, and it has begun already.
    #[error("telemetry was started before in this process")]
    AlreadyStarted,
}

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Sends what is left when it is dropped; keep it until the end of `main`.
#[derive(Debug)]
#[must_use = "dropping the guard ends telemetry"]
pub struct Guard {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The subscriber may be what is broken, so this goes to stderr as it is.
        if let Err(error) = self.traces.shutdown() {
            eprintln!("the last traces were not sent: {error}");
        }
        if let Err(error) = self.metrics.shutdown() {
            eprintln!("the last metrics were not sent: {error}");
        }
    }
}

/// Starts telemetry for this process, whatever number of parts run in it. Needs
/// a Tokio runtime for the OTLP exporters; drop the guard outside of it, while it runs.
///
/// # Errors
/// See [`Error`].
pub fn init(service_name: &'static str, config: &Config) -> Result<Guard, Error> {
    let filter = filter(&config.filter)?;
    let resource = Resource::builder()
        .with_service_name(service_name)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let traces = traces(config, resource.clone())?;
    let (metrics, registry) = metrics(config, resource)?;
    if REGISTRY.set(registry).is_err() {
        return Err(Error::AlreadyStarted);
    }

    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer("gantry"));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(|_| Error::AlreadyStarted)?;

    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(traces.clone());
    global::set_meter_provider(metrics.clone());
    Ok(Guard { traces, metrics })
}

/// All metrics of the process in Prometheus's text format; empty before
/// [`init`].
///
/// # Errors
/// Where a metric cannot be written, two of one name but different kinds, say.
pub fn prometheus_text() -> Result<String, prometheus::Error> {
    let Some(registry) = REGISTRY.get() else {
        return Ok(String::new());
    };
    let mut text = String::new();
    TextEncoder::new().encode_utf8(&registry.gather(), &mut text)?;
    Ok(text)
}

/// The content type of [`prometheus_text`].
pub fn prometheus_content_type() -> String {
    TextEncoder::new().format_type().to_owned()
}

fn filter(text: &str) -> Result<EnvFilter, Error> {
    let invalid = |source| Error::Filter { filter: text.to_owned(), source };
    // lapin logs returned messages in full, credentials and environment
    // included: whatever the filter says, that module stays silent.
    let silence = "lapin::returned_messages=off".parse().map_err(invalid)?;
    Ok(EnvFilter::builder().parse(text).map_err(invalid)?.add_directive(silence))
}

fn traces(config: &Config, resource: Resource) -> Result<SdkTracerProvider, Error> {
    let mut provider = SdkTracerProvider::builder().with_resource(resource);
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| exporter_error(endpoint, source))?;
        provider = provider.with_batch_exporter(exporter);
    }
    Ok(provider.build())
}

fn metrics(config: &Config, resource: Resource) -> Result<(SdkMeterProvider, Registry), Error> {
    let registry = Registry::new();
    let prometheus = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(Error::Metrics)?;
    let mut provider = SdkMeterProvider::builder().with_resource(resource).with_reader(prometheus);
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|source| exporter_error(endpoint, source))?;
        provider = provider.with_periodic_exporter(exporter);
    }
    Ok((provider.build(), registry))
}

fn exporter_error(endpoint: &str, source: opentelemetry_otlp::ExporterBuildError) -> Error {
    Error::Exporter { endpoint: endpoint.to_owned(), source }
}
