//! OpenAPI references to the contracts that `gantry-core` describes by JSON Schema: `openapi` puts those schemas
//! into the document, so that the API and the messages can never say different things.

use utoipa::openapi::{Ref, RefOr, Schema};

macro_rules! references {
    ($($function:ident => $name:literal),+ $(,)?) => {$(
        pub(crate) fn $function() -> RefOr<Schema> {
            RefOr::Ref(Ref::from_schema_name($name))
        }
    )+};
}

references! {
    status => "Status",
    executor_type => "ExecutorType",
    waiting_reason => "WaitingReason",
    failure_class => "FailureClass",
    stop_reason => "StopReason",
    container_spec => "ContainerSpec",
    code => "Code",
}
