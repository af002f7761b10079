//! Container templates, and the environment templates below them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use gantry_core::env::{self, Environment};
use gantry_core::problem::{Code, Problem};
use gantry_core::spec::{ContainerSpec, DEFAULT_TIMEOUT_SECONDS, limits};
use gantry_store::templates::{self, EnvironmentView, Put, TemplateView};
use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive as _, ToPrimitive as _};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, Parameters};
use crate::service::App;
use crate::wire::{
    EnvironmentList, EnvironmentTemplate, NewEnvironment, NewTemplate, ProblemDetails, Template, TemplateList,
};

/// Items of a page.
const PAGE: i64 = 50;
/// Items of a page at most.
const MAX_PAGE: i64 = 500;

/// Make a container template, or replace the one of this name. Jobs keep what they were made with.
#[utoipa::path(
    put, path = "/v1/templates/{name}", tag = "templates", operation_id = "putTemplate",
    params(("name" = String, Path, description = "The template's name, 1 to 255 characters.")),
    request_body = NewTemplate,
    responses(
        (status = 201, body = Template, description = "A new template."),
        (status = 200, body = Template, description = "The template of this name was replaced."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, a field is not valid, or there is no such environment template."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Template>)> {
    let new: NewTemplate = body.json()?;
    check_name("name", &name)?;
    check(&new)?;
    let created_by = caller.0.name();
    let stored = templates::NewTemplate {
        description: &new.description,
        command: new.command.as_deref(),
        working_dir: new.working_dir.as_deref(),
        environment_text: &env::text(&new.environment),
        environment_template: new.environment_template.as_deref(),
        cpu_limit: new.cpu_limit.and_then(Decimal::from_f64).map(|cpus| cpus.round_dp(2)),
        memory_limit_mb: new.memory_limit_mb.and_then(|mb| i32::try_from(mb).ok()),
        timeout_seconds: i32::try_from(new.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS)).unwrap_or(i32::MAX),
        supported_executors: &new.supported_executors,
        retry: new.retry.clone(),
        on_lost: new.on_lost,
        ..templates::NewTemplate::new(caller.0.tenant, &name, &new.image, &created_by)
    };
    let status = match templates::put(&app.store, caller.scope(), &stored).await? {
        Put::Created => StatusCode::CREATED,
        Put::Replaced => StatusCode::OK,
        Put::NoEnvironment => {
            let wanted = new.environment_template.unwrap_or_default();
            let message = format!("there is no environment template `{wanted}`; put it first");
            return Err(Error::field(Code::UnknownTemplate, "environment_template", message));
        }
    };
    Ok((status, Json(find(&app, &caller, &name).await?)))
}

/// A template is checked as the job is that will be made of it.
fn check(new: &NewTemplate) -> Result<(), Problem> {
    if let Some(below) = &new.environment_template {
        check_name("environment_template", below)?;
    }
    if new.description.contains('\0') {
        return Err(Problem::field(Code::InvalidField, "description", "text cannot contain NUL"));
    }
    let mut seen = Vec::new();
    for executor in &new.supported_executors {
        if seen.contains(executor) {
            let message = format!("`{executor}` stands there twice");
            return Err(Problem::field(Code::InvalidField, "supported_executors", message));
        }
        seen.push(*executor);
    }
    check_values(&new.environment)?;
    ContainerSpec {
        command: new.command.clone(),
        working_dir: new.working_dir.clone(),
        environment: new.environment.clone(),
        cpu_limit: new.cpu_limit,
        memory_limit_mb: new.memory_limit_mb,
        timeout_seconds: new.timeout_seconds,
        retry: new.retry.clone(),
        on_lost: new.on_lost,
        ..ContainerSpec::new(&new.image)
    }
    .validate("")
}

/// A value of a template is one line of its text.
fn check_values(environment: &Environment) -> Result<(), Problem> {
    match environment.iter().find(|(_, value)| value.contains(['\n', '\r'])) {
        Some((key, _)) => {
            let message =
                "a variable of a template is one line; a job may give one with more in `override_environment`";
            Err(Problem::field(Code::InvalidEnvironment, format!("environment.{key}"), message))
        }
        None => Ok(()),
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Problem> {
    if (1..=limits::NAME).contains(&name.chars().count()) && !name.contains('\0') {
        return Ok(());
    }
    let message = format!("a name has 1 to {} characters and no NUL", limits::NAME);
    Err(Problem::field(Code::InvalidField, field, message))
}

/// List the tenant's container templates, by name.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates", operation_id = "listTemplates",
    params(
        ("after" = Option<String>, Query, description = "Only templates behind this name: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Templates of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = TemplateList, description = "A page of templates."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<TemplateList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let after: Option<String> = parameters.one("after")?;
    parameters.finish()?;
    // One more, to know whether there is a next page.
    let views = templates::list(&app.store, caller.scope(), None, after.as_deref(), limit + 1).await?;
    let (views, next) = page(views, limit, |view| view.template.name.clone());
    Ok(Json(TemplateList { templates: views.into_iter().map(shown).collect::<Result<_>>()?, next }))
}

/// Show a container template.
#[utoipa::path(
    get, path = "/v1/templates/{name}", tag = "templates", operation_id = "getTemplate",
    params(("name" = String, Path, description = "The template's name.")),
    responses(
        (status = 200, body = Template, description = "The template."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "No template can have that name."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such template."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Template>> {
    Ok(Json(find(&app, &caller, &name).await?))
}

async fn find(app: &App, caller: &Caller, name: &str) -> Result<Template> {
    check_name("name", name)?;
    let view = templates::list(&app.store, caller.scope(), Some(name), None, 1).await?.pop();
    shown(view.ok_or_else(|| Error::new(Code::NotFound, format!("there is no template `{name}`")))?)
}

fn shown(view: TemplateView) -> Result<Template> {
    let template = view.template;
    let container = NewTemplate {
        description: view.description,
        image: template.image,
        command: template.command,
        working_dir: template.working_dir,
        environment_template: view.environment_template,
        environment: read(&template.environment_text)?,
        cpu_limit: template.cpu_limit.and_then(|cpus| cpus.to_f64()),
        memory_limit_mb: template.memory_limit_mb.and_then(|mb| u32::try_from(mb).ok()),
        timeout_seconds: u32::try_from(template.timeout_seconds).ok(),
        supported_executors: template.supported_executors,
        retry: template.retry,
        on_lost: template.on_lost,
    };
    let (created_by, created_at) = (view.created_by, view.created_at);
    Ok(Template { id: template.id, name: template.name, container, created_by, created_at })
}

/// The text of a template that was stored.
fn read(text: &str) -> Result<Environment> {
    env::parse(text).map_err(|error| Error::new(Code::InvalidEnvironment, format!("the stored environment: {error}")))
}

/// Make an environment template, or replace the one of this name. Jobs keep what they were made with.
#[utoipa::path(
    put, path = "/v1/environments/{name}", tag = "templates", operation_id = "putEnvironment",
    params(("name" = String, Path, description = "The environment template's name, 1 to 255 characters.")),
    request_body = NewEnvironment,
    responses(
        (status = 201, body = EnvironmentTemplate, description = "A new environment template."),
        (status = 200, body = EnvironmentTemplate, description = "The one of this name was replaced."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn put_environment(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<EnvironmentTemplate>)> {
    let new: NewEnvironment = body.json()?;
    check_name("name", &name)?;
    check_values(&new.environment)?;
    let (tenant, text, by) = (caller.0.tenant, env::text(&new.environment), caller.0.name());
    env::parse(&text).map_err(|error| Problem::field(Code::InvalidEnvironment, "environment", error.reason.clone()))?;
    let created = templates::put_environment(&app.store, caller.scope(), tenant, &name, &text, &by).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let view = templates::environments(&app.store, caller.scope(), Some(&name), None, 1).await?.pop();
    let view = view.ok_or_else(|| Error::new(Code::NotFound, format!("there is no environment template `{name}`")))?;
    Ok((status, Json(environment(view)?)))
}

/// List the tenant's environment templates, by name.
#[utoipa::path(
    get, path = "/v1/environments", tag = "templates", operation_id = "listEnvironments",
    params(
        ("after" = Option<String>, Query, description = "Only those behind this name: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Environment templates of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = EnvironmentList, description = "A page of environment templates."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn environments(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<EnvironmentList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let after: Option<String> = parameters.one("after")?;
    parameters.finish()?;
    let views = templates::environments(&app.store, caller.scope(), None, after.as_deref(), limit + 1).await?;
    let (views, next) = page(views, limit, |view| view.name.clone());
    Ok(Json(EnvironmentList { environments: views.into_iter().map(environment).collect::<Result<_>>()?, next }))
}

fn environment(view: EnvironmentView) -> Result<EnvironmentTemplate> {
    let environment = read(&view.text)?;
    Ok(EnvironmentTemplate { name: view.name, environment, created_by: view.created_by, created_at: view.created_at })
}

/// Cuts off the one more that was read, and says where the next page begins.
fn page<T>(mut views: Vec<T>, limit: i64, name: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = views.len() > size;
    views.truncate(size);
    let next = if more { views.last().map(name) } else { None };
    (views, next)
}
