//! What ECS' words mean: why a task was not placed, why it was refused, and why it did not start.
//!
//! ECS has codes for few things and sentences for most; the sentences are in its documents.

use gantry_core::FailureClass;

fn says(text: &str, words: &[&str]) -> bool {
    let text = text.to_ascii_lowercase();
    words.iter().any(|word| text.contains(word))
}

/// The reason in `failures[]` of RunTask. Source: "API failure reasons", Amazon ECS Developer Guide: `RESOURCE:*`,
/// `AGENT`, `ATTRIBUTE` and `LOCATION` are about the machines of a cluster, none of which can take the task; "Capacity
/// is unavailable at this time" is Fargate's.
pub(crate) fn not_placed(reason: &str) -> FailureClass {
    let no_room = ["resource", "capacity", "agent", "attribute", "location", "memberof", "no container instances"];
    if says(reason, &no_room) { FailureClass::NoCapacity } else { FailureClass::BackendError }
}

/// A RunTask that was refused. Source: the errors of RunTask, Amazon ECS API Reference.
pub(crate) fn refused(code: &str, text: &str) -> FailureClass {
    // "You've reached the limit on the number of vCPUs (tasks) you can run concurrently", "the quota of tasks in the
    // PROVISIONING state per cluster has been reached".
    if says(text, &["you've reached the limit", "capacity is unavailable", "provisioning capacity limit", "quota"]) {
        return FailureClass::NoCapacity;
    }
    // What only the host's configuration or its credentials can have named.
    let place = [
        "subnet",
        "security group",
        "role",
        "task definition",
        "taskdefinition",
        "capacity provider",
        "tagging",
        "platform",
    ];
    match code {
        "ClientException" | "InvalidParameterException" if !says(text, &place) => FailureClass::LaunchRejected,
        "ClientException"
        | "InvalidParameterException"
        | "AccessDeniedException"
        | "BlockedException"
        | "ClusterNotFoundException"
        | "PlatformUnknownException"
        | "PlatformTaskDefinitionIncompatibilityException"
        | "UnsupportedFeatureException"
        | "UnrecognizedClientException"
        | "ExpiredTokenException"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "OptInRequired" => FailureClass::BackendError,
        "LimitExceededException" => FailureClass::NoCapacity,
        // Unknown means permanent.
        _ => FailureClass::LaunchRejected,
    }
}

/// Why a task ended without an exit code, by what the container and the task say. Source: "Stopped tasks error
/// messages" and the pages of each error, Amazon ECS Developer Guide.
pub(crate) fn without_exit_code(text: &str) -> FailureClass {
    if says(text, &["outofmemoryerror"]) {
        return FailureClass::OomKilled;
    }
    if says(text, &["cannotpull", "pull image manifest", "pull access denied", "ecr:getauthorizationtoken"]) {
        return pull(text);
    }
    if says(text, &["cannotstartcontainererror", "cannotstartcontainer"]) {
        return FailureClass::LaunchRejected;
    }
    // "Capacity is unavailable at this time. Please try again later or in a different availability zone";
    // "RESOURCE:ENI"; "Unexpected EC2 error while attempting to Create Network Interface … does not have enough free
    // addresses".
    if says(text, &["capacity is unavailable", "resource:", "free addresses", "insufficientfreeaddresses"]) {
        return FailureClass::NoCapacity;
    }
    if says(text, &["rate exceeded", "throttlingexception", "toomanyrequests", "too many requests"]) {
        return FailureClass::Throttled;
    }
    // ResourceInitializationError, "Timeout waiting for network interface provisioning to complete",
    // ContainerRuntimeError, CannotCreateContainerError, SpotInterruptionError, InternalError, InternalServiceError,
    // TaskFailedToStart: the place's, not the job's.
    FailureClass::BackendError
}

/// CannotPullContainerError, CannotPullImageManifestError, CannotPullECRContainerError. Source: "CannotPullContainer
/// task errors in Amazon ECS".
fn pull(text: &str) -> FailureClass {
    if says(text, &["toomanyrequests", "too many requests", "rate limit"]) {
        FailureClass::Throttled
    } else if says(
        text,
        &[
            "access denied",
            "accessdenied",
            "not authorized",
            "unauthorized",
            "authorization",
            "no basic auth",
            "forbidden",
            "authentication",
        ],
    ) {
        FailureClass::ImagePullDenied
    } else if says(
        text,
        &["timeout", "i/o", "no such host", "connection", "canceled", "deadline", "no space left", "tls", "x509"],
    ) && !says(text, &["not found", "manifest unknown"])
    {
        FailureClass::BackendError
    } else if says(
        text,
        &[
            "not found",
            "manifest unknown",
            "does not exist",
            "not exist",
            "no matching manifest",
            "descriptor matching platform",
        ],
    ) {
        FailureClass::ImageNotFound
    } else if says(text, &["invalid reference"]) {
        FailureClass::InvalidSpec
    } else {
        FailureClass::BackendError
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::FailureClass::{
        BackendError, ImageNotFound, ImagePullDenied, LaunchRejected, NoCapacity, OomKilled, Throttled,
    };

    use super::*;

    /// "API failure reasons", Amazon ECS Developer Guide.
    #[test]
    fn no_machine_is_no_capacity() {
        let table = [
            ("RESOURCE:CPU", NoCapacity),
            ("RESOURCE:MEMORY", NoCapacity),
            ("RESOURCE:ENI", NoCapacity),
            ("RESOURCE:FARGATE", NoCapacity),
            ("AGENT", NoCapacity),
            ("ATTRIBUTE", NoCapacity),
            ("LOCATION", NoCapacity),
            (
                "Capacity is unavailable at this time. Please try again later or in a different availability zone",
                NoCapacity,
            ),
            ("MISSING", BackendError),
            ("INACTIVE", BackendError),
            ("something new", BackendError),
        ];
        for (reason, class) in table {
            assert_eq!(not_placed(reason), class, "{reason}");
        }
    }

    /// The errors of RunTask, Amazon ECS API Reference, and "Amazon ECS service quotas".
    #[test]
    fn a_refusal_is_the_jobs_or_the_places() {
        let table = [
            ("ClientException", "You've reached the limit on the number of vCPUs you can run concurrently", NoCapacity),
            ("ClientException", "Capacity is unavailable at this time.", NoCapacity),
            ("ClientException", "TaskDefinition is inactive", BackendError),
            ("InvalidParameterException", "The subnet ID 'subnet-1' does not exist", BackendError),
            ("ClientException", "ECS was unable to assume the role 'arn:aws:iam::1:role/x'", BackendError),
            ("InvalidParameterException", "Override for container named job is not valid", LaunchRejected),
            (
                "InvalidParameterException",
                "The specified capacity provider 'FARGATE_SPOT' was not found.",
                BackendError,
            ),
            ("ClusterNotFoundException", "Cluster not found.", BackendError),
            ("AccessDeniedException", "User is not authorized to perform ecs:RunTask", BackendError),
            ("BlockedException", "Your AWS account has been blocked", BackendError),
            ("PlatformUnknownException", "", BackendError),
            ("LimitExceededException", "The limit for the resource was exceeded.", NoCapacity),
            ("UnrecognizedClientException", "The security token included in the request is invalid.", BackendError),
            ("SomethingNewException", "", LaunchRejected),
        ];
        for (code, text, class) in table {
            assert_eq!(refused(code, text), class, "{code} {text}");
        }
    }

    /// "CannotPullContainer task errors in Amazon ECS" and "Stopped tasks error messages", Amazon ECS Developer Guide.
    #[test]
    fn a_start_that_failed_has_its_class() {
        let table = [
            (
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref docker.io/a/b:1: docker.io/a/b:1: not found",
                ImageNotFound,
            ),
            (
                "CannotPullContainerError: Error response from daemon: manifest for a/b:1 not found: manifest unknown: manifest unknown",
                ImageNotFound,
            ),
            (
                "CannotPullImageManifestError: Error response from daemon: manifest unknown: Requested image not found",
                ImageNotFound,
            ),
            (
                "CannotPullContainerError: image Manifest does not contain descriptor matching platform 'linux/amd64'",
                ImageNotFound,
            ),
            (
                "CannotPullContainerError: pull access denied for a/b, repository does not exist or may require 'docker login'",
                ImagePullDenied,
            ),
            (
                "CannotPullECRContainerError: AccessDeniedException: User is not authorized to perform: ecr:GetAuthorizationToken",
                ImagePullDenied,
            ),
            ("CannotPullContainerError: failed to do request: Head \"https://r/v2\": 403 Forbidden", ImagePullDenied),
            (
                "CannotPullContainerError: Error response from daemon: toomanyrequests: You have reached your pull rate limit",
                Throttled,
            ),
            (
                "CannotPullContainerError: inspect image has been retried 5 time(s): failed to resolve ref \"x\": failed to do request: Head https://x: dial tcp 1.2.3.4:443: i/o timeout",
                BackendError,
            ),
            (
                "CannotPullContainerError: Error response from daemon: Get \"https://r/v2/\": net/http: request canceled while waiting for connection",
                BackendError,
            ),
            ("CannotPullContainerError: write /var/lib/docker/tmp/x: no space left on device", BackendError),
            (
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to get registry auth from Amazon ECR: AccessDeniedException: not authorized to perform: ecr:GetAuthorizationToken",
                ImagePullDenied,
            ),
            (
                "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: ResourceNotFoundException: The specified log group does not exist.",
                BackendError,
            ),
            (
                "ResourceInitializationError: unable to pull secrets or registry auth: The task cannot pull registry auth from Amazon ECR: There is a connection issue",
                BackendError,
            ),
            (
                "CannotStartContainerError: Error response from daemon: exec: \"/no/such\": stat /no/such: no such file or directory",
                LaunchRejected,
            ),
            ("CannotCreateContainerError: API error (400): Duplicate mount point", BackendError),
            (
                "ContainerRuntimeTimeoutError: Could not transition to running; timed out after waiting 3m0s",
                BackendError,
            ),
            ("OutOfMemoryError: Container killed due to memory usage", OomKilled),
            ("Timeout waiting for network interface provisioning to complete.", BackendError),
            (
                "Capacity is unavailable at this time. Please try again later or in a different availability zone",
                NoCapacity,
            ),
            (
                "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-1': InsufficientFreeAddressesInSubnet",
                NoCapacity,
            ),
            ("TaskFailedToStart: Rate exceeded", Throttled),
            ("InternalError", BackendError),
            ("", BackendError),
        ];
        for (text, class) in table {
            assert_eq!(without_exit_code(text), class, "{text}");
        }
    }
}
