//! Which engine it is, whether it answers, and what it refuses.

use gantry_core::FailureClass;

use crate::contract::{Bench, Verdict};

/// The same engine says the same of itself, to every worker and for ever.
pub async fn identity_is_stable(bench: &Bench<'_>) -> Verdict {
    let host = bench.subject.host();
    let first = bench.executor().check(host).await.expect("the host answers");
    assert!(!first.identity.is_empty(), "an engine without an identity could be any other");
    let again = bench.executor().check(host).await.expect("the host answers");
    let other = bench.subject.another().check(host).await.expect("the host answers");
    assert_eq!(first.identity, again.identity);
    assert_eq!(first.identity, other.identity);
    Ok(())
}

/// A host that is not there is `host_unreachable`, not an engine without containers.
pub async fn an_unreachable_host_fails_its_check(bench: &Bench<'_>) -> Verdict {
    let host = bench.subject.unreachable_host();
    let failure = bench.executor().check(&host).await.expect_err("nobody answers there");
    assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}");
    Ok(())
}

/// A host that answers and can run nothing fails its check, with the class that tells why: jobs are not sent there.
pub async fn a_sick_host_fails_its_check(bench: &Bench<'_>) -> Verdict {
    let (host, class) = bench.subject.sick_host().await?;
    let failure = bench.executor().check(&host).await.expect_err("it can run nothing");
    assert_eq!(failure.class, class, "{failure}");
    assert!(!failure.message.is_empty(), "an operator would like to know what to do");
    bench.executor().check(bench.subject.host()).await.expect("the other host is well");
    Ok(())
}

/// `validate` refuses what the backend cannot do, as `invalid_spec` and in words.
pub async fn what_cannot_run_is_refused_before_anything_is_sent(bench: &Bench<'_>) -> Verdict {
    let spec = bench.subject.invalid()?;
    let failure = bench.executor().validate(bench.subject.host(), &spec).expect_err("the spec is invalid");
    assert_eq!(failure.class, FailureClass::InvalidSpec, "{failure}");
    assert!(!failure.message.is_empty());
    assert_eq!(failure.exit_code, None);
    Ok(())
}
