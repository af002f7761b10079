//! What is left at the end of a process reaches the collector.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use gantry_runtime::process::{self, Threads};
use gantry_runtime::telemetry;
use opentelemetry::global;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// A collector that keeps the names of spans and metrics.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<String>>>);

impl Collector {
    fn keep(&self, names: impl Iterator<Item = String>) {
        self.0.lock().expect("nobody panicked").extend(names);
    }

    fn has(&self, name: &str) -> bool {
        self.0.lock().expect("nobody panicked").iter().any(|kept| kept == name)
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = resources.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        self.keep(spans.map(|span| span.name));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics;
        let metrics = resources.into_iter().flat_map(|r| r.scope_metrics).flat_map(|s| s.metrics);
        self.keep(metrics.map(|metric| metric.name));
        Ok(Response::new(Default::default()))
    }
}

/// Serves on a thread of its own, which outlives the process under test.
fn serve(collector: Collector) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("bound")).expect("the test waits");
            tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(collector.clone()))
                .add_service(MetricsServiceServer::new(collector))
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .expect("serving");
        });
    });
    receiver.recv().expect("the collector listens")
}

#[test]
fn the_last_spans_and_metrics_are_sent() {
    let collector = Collector::default();
    let addr = serve(collector.clone());
    let config = telemetry::Config { otlp_endpoint: Some(format!("http://{addr}")), ..telemetry::Config::default() };
    // With one thread nobody but the process' `main` drives the exporters' connection.
    let code = process::run("gantry-test", Threads::One, &config, |_shutdown| async {
        tracing::info_span!("the last span").in_scope(|| tracing::info!("working"));
        global::meter("gantry").u64_counter("gantry.last").build().add(1, &[]);
        Ok(())
    });
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(collector.has("the last span") && collector.has("gantry.last"));
}
