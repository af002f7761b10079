//! Stand-ins for the contracts that `gantry-core` describes by JSON Schema: a field says whose schema it has, and
//! `openapi` puts that schema into the document, so that the API and the messages can never say different things.

use std::borrow::Cow;

use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! stand_ins {
    ($($name:ident),+ $(,)?) => {$(
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    )+};
}

stand_ins!(
    Abandon,
    BulkAction,
    BulkChange,
    BulkFilter,
    BulkState,
    Code,
    Condition,
    ContainerSpec,
    CostBy,
    ExecutorType,
    FailureClass,
    LetterState,
    LimitKind,
    RoutingCandidate,
    RoutingDecision,
    Status,
    StopReason,
    Submission,
    WaitingReason,
    Why,
    WhyWaiting
);
