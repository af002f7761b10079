//! From a submission and its template to the spec that a worker runs.

use gantry_core::env;
use gantry_core::problem::{Code, Problem};
use gantry_core::spec::{self, ContainerSpec, ResolvedSpec, Submission};
use gantry_store::templates::Template;

/// The resolved spec: environment template, then template, then job. Validated again, because a template's text
/// is checked only here.
pub(crate) fn resolve(
    submission: &Submission,
    template: Option<&Template>,
    traceparent: Option<&str>,
) -> Result<ResolvedSpec, Problem> {
    let mut container = match (&submission.spec, template) {
        (Some(spec), _) => spec.clone(),
        (None, Some(template)) => from_template(template)?,
        (None, None) => return Err(Problem::field(Code::InvalidField, "spec", "name a `template` or give a `spec`")),
    };
    if let Some(command) = &submission.override_command {
        container.command = Some(command.clone());
    }
    container.environment = env::merge([&container.environment, &submission.override_environment]);
    container.timeout_seconds.get_or_insert(spec::DEFAULT_TIMEOUT_SECONDS);
    container.validate(if template.is_some() { "template." } else { "spec." })?;
    Ok(ResolvedSpec {
        container,
        labels: submission.labels.clone(),
        traceparent: traceparent.map(str::to_owned),
        tenant: None,
    })
}

fn from_template(template: &Template) -> Result<ContainerSpec, Problem> {
    let parse = |whose: &str, text: &str| {
        env::parse(text).map_err(|error| {
            let message = format!("the environment of {whose} `{}` is not valid: {error}", template.name);
            Problem::field(Code::InvalidEnvironment, "template", message)
        })
    };
    let base = parse("the environment template of", &template.base_environment_text)?;
    let own = parse("template", &template.environment_text)?;
    Ok(ContainerSpec {
        image: template.image.clone(),
        command: template.command.clone(),
        entrypoint: None,
        working_dir: template.working_dir.clone(),
        environment: env::merge([&base, &own]),
        cpu_limit: template.cpu_limit.and_then(|cpus| cpus.to_string().parse().ok()),
        memory_limit_mb: template.memory_limit_mb.and_then(|mb| u32::try_from(mb).ok()),
        timeout_seconds: u32::try_from(template.timeout_seconds).ok(),
        mounts: Vec::new(),
        network: None,
        user: None,
        read_only_root: false,
        gpus: None,
        retry: template.retry.clone(),
        on_lost: template.on_lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{TemplateId, retry};
    use serde_json::json;

    fn template(base: &str, own: &str) -> Template {
        Template {
            id: TemplateId::new(),
            name: "t".into(),
            image: "i".into(),
            command: Some(vec!["a".into()]),
            working_dir: None,
            base_environment_text: base.into(),
            environment_text: own.into(),
            cpu_limit: None,
            memory_limit_mb: None,
            timeout_seconds: 5,
            supported_executors: Vec::new(),
            retry: retry::Policy::default(),
            on_lost: Default::default(),
        }
    }

    fn submission(body: serde_json::Value) -> Submission {
        Submission::from_value(body).expect("valid")
    }

    #[test]
    fn layers_lie_in_order() {
        let job = submission(json!({"template": "t", "override_environment": {"C": "job"}, "override_command": ["b"]}));
        let spec =
            resolve(&job, Some(&template("A=env\nB=env\nC=env", "B=template\nC=template")), None).expect("resolved");
        let expected = [("A", "env"), ("B", "template"), ("C", "job")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(spec.container.environment, expected.into());
        assert_eq!((spec.container.command, spec.container.timeout_seconds), (Some(vec!["b".into()]), Some(5)));
    }

    #[test]
    fn a_broken_template_says_where() {
        let refusal =
            resolve(&submission(json!({"template": "t"})), Some(&template("", "A=1\nB")), None).expect_err("broken");
        assert_eq!(refusal.code, Code::InvalidEnvironment);
        assert!(refusal.message.contains("line 2, column 2"), "{refusal}");
    }

    #[test]
    fn an_inline_spec_gets_the_default_timeout() {
        let spec = resolve(&submission(json!({"spec": {"image": "i"}})), None, None).expect("resolved");
        assert_eq!(spec.timeout_seconds(), 3600);
    }
}
