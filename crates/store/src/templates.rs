//! Container templates and the environment templates below them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use gantry_core::lost;
use gantry_core::{ExecutorType, TemplateId, TenantId, retry};
use rust_decimal::Decimal;
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::{Result, from_json, parse};
use crate::tx::{Scope, Store};

/// A container template, with the text of its environment template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The id.
    pub id: TemplateId,
    /// Unique in the tenant.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// The command's words.
    pub command: Option<Vec<String>>,
    /// Absolute path.
    pub working_dir: Option<String>,
    /// `KEY=value` a line, of the environment template; empty if there is none.
    pub base_environment_text: String,
    /// `KEY=value` a line, its own.
    pub environment_text: String,
    /// CPUs.
    pub cpu_limit: Option<Decimal>,
    /// MiB.
    pub memory_limit_mb: Option<i32>,
    /// Run deadline.
    pub timeout_seconds: i32,
    /// Where it may run, in order of preference; empty for anywhere.
    pub supported_executors: Vec<ExecutorType>,
    /// The user's retry policy.
    pub retry: retry::Policy,
    /// What to do when the host of a job does not come back.
    pub on_lost: lost::Policy,
}

/// A container template as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateView {
    /// What jobs are made of.
    pub template: Template,
    /// For people.
    pub description: String,
    /// The name of the environment template below.
    pub environment_template: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An environment template as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentView {
    /// Unique in the tenant.
    pub name: String,
    /// `KEY=value` a line.
    pub text: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What became of a template that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// The one of this name was replaced.
    Replaced,
    /// Nothing was stored: there is no environment template of the name that it builds on.
    NoEnvironment,
}

/// A template to be stored.
#[derive(Clone, Debug)]
pub struct NewTemplate<'a> {
    /// The owner.
    pub tenant: TenantId,
    /// Unique in the tenant.
    pub name: &'a str,
    /// For people.
    pub description: &'a str,
    /// Image reference.
    pub image: &'a str,
    /// The command's words; the image's own if none.
    pub command: Option<&'a [String]>,
    /// Absolute path; the image's own if none.
    pub working_dir: Option<&'a str>,
    /// `KEY=value` a line.
    pub environment_text: &'a str,
    /// The environment template below, by name.
    pub environment_template: Option<&'a str>,
    /// CPUs.
    pub cpu_limit: Option<Decimal>,
    /// MiB.
    pub memory_limit_mb: Option<i32>,
    /// Run deadline.
    pub timeout_seconds: i32,
    /// Where it may run, in order of preference.
    pub supported_executors: &'a [ExecutorType],
    /// The user's retry policy.
    pub retry: retry::Policy,
    /// What to do when the host of a job does not come back.
    pub on_lost: lost::Policy,
    /// Who made it.
    pub created_by: &'a str,
}

impl<'a> NewTemplate<'a> {
    /// One that runs an image as it is, anywhere.
    pub fn new(tenant: TenantId, name: &'a str, image: &'a str, created_by: &'a str) -> Self {
        Self {
            tenant,
            name,
            description: "",
            image,
            command: None,
            working_dir: None,
            environment_text: "",
            environment_template: None,
            cpu_limit: None,
            memory_limit_mb: None,
            timeout_seconds: 3600,
            supported_executors: &[],
            retry: retry::Policy::default(),
            on_lost: lost::Policy::default(),
            created_by,
        }
    }
}

macro_rules! template {
    ($row:ident) => {
        Template {
            id: $row.id.into(),
            name: $row.name,
            image: $row.docker_image,
            command: $row.command,
            working_dir: $row.working_dir,
            base_environment_text: $row.base,
            environment_text: $row.environment_variables_text,
            cpu_limit: $row.cpu_limit,
            memory_limit_mb: $row.memory_limit_mb,
            timeout_seconds: $row.timeout_seconds,
            supported_executors: $row
                .supported
                .iter()
                .map(|name| parse("supported_executors", name))
                .collect::<Result<_>>()?,
            retry: from_json("retry_policy", $row.retry_policy)?,
            on_lost: from_json("on_lost", $row.on_lost)?,
        }
    };
}

/// The templates of these names, by (tenant, name).
pub async fn get(
    store: &Store,
    scope: Scope,
    names: &[(TenantId, String)],
) -> Result<HashMap<(TenantId, String), Template>> {
    store
        .bounded("templates::get", async {
            let mut tx = store.begin_scoped_kept("templates::get", scope).await?;
            let found = get_within(&mut tx, names).await?;
            tx.commit().await?;
            Ok(found)
        })
        .await
}

/// The same inside a transaction.
pub(crate) async fn get_within(
    tx: &mut sqlx::PgConnection,
    names: &[(TenantId, String)],
) -> Result<HashMap<(TenantId, String), Template>> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let tenants: Vec<Uuid> = names.iter().map(|(tenant, _)| tenant.uuid()).collect();
    let names: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
    let rows = sqlx::query!(
        r#"/* templates::get */
        select t.id, t.tenant_id, t.name, t.docker_image, t.command, t.working_dir, t.environment_variables_text,
            coalesce(e.environment_variables_text, '') as "base!", t.cpu_limit, t.memory_limit_mb, t.timeout_seconds,
            t.supported_executors::text[] as "supported!", t.retry_policy, t.on_lost
        from unnest($1::uuid[], $2::text[]) as w(tenant_id, name)
        join container_templates t using (tenant_id, name)
        left join environment_variable_templates e on e.id = t.environment_template"#,
        &tenants,
        &names
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let tenant = row.tenant_id.into();
            let template = template!(row);
            Ok(((tenant, template.name.clone()), template))
        })
        .collect()
}

/// The ids of these projects, by (tenant, name).
pub async fn projects(
    store: &Store,
    scope: Scope,
    names: &[(TenantId, String)],
) -> Result<HashMap<(TenantId, String), gantry_core::ProjectId>> {
    store
        .bounded("templates::projects", async {
            let mut tx = store.begin_scoped_kept("templates::projects", scope).await?;
            let found = projects_within(&mut tx, names).await?;
            tx.commit().await?;
            Ok(found)
        })
        .await
}

/// The same inside a transaction.
pub(crate) async fn projects_within(
    tx: &mut sqlx::PgConnection,
    names: &[(TenantId, String)],
) -> Result<HashMap<(TenantId, String), gantry_core::ProjectId>> {
    let tenants: Vec<Uuid> = names.iter().map(|(tenant, _)| tenant.uuid()).collect();
    let names: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
    let rows = sqlx::query!(
        "/* templates::projects */
        select p.id, p.tenant_id, p.name from unnest($1::uuid[], $2::text[]) as w(tenant_id, name)
        join projects p using (tenant_id, name)",
        &tenants,
        &names
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.tenant_id.into(), row.name), row.id.into())).collect())
}

/// The templates of a tenant by name, behind `after`; with `only` just the one of that name.
pub async fn list(
    store: &Store,
    scope: Scope,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<TemplateView>> {
    store
        .bounded("templates::list", async {
            let mut tx = store.begin_scoped("templates::list", scope).await?;
            let rows = sqlx::query!(
                r#"/* templates::list */
        select t.id, t.name, t.docker_image, t.command, t.working_dir, t.environment_variables_text,
            coalesce(e.environment_variables_text, '') as "base!", t.cpu_limit, t.memory_limit_mb, t.timeout_seconds,
            t.supported_executors::text[] as "supported!", t.retry_policy, t.on_lost, t.description,
            e.name as "environment_template?", t.created_by, t.created_at
        from container_templates t left join environment_variable_templates e on e.id = t.environment_template
        where ($1::text is null or t.name = $1) and ($2::text is null or t.name > $2)
        order by t.name limit $3"#,
                only,
                after,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.into_iter()
                .map(|row| {
                    Ok(TemplateView {
                        description: row.description,
                        environment_template: row.environment_template,
                        created_by: row.created_by,
                        created_at: row.created_at,
                        template: template!(row),
                    })
                })
                .collect()
        })
        .await
}

/// The environment templates of a tenant by name, behind `after`; with `only` just the one of that name.
pub async fn environments(
    store: &Store,
    scope: Scope,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<EnvironmentView>> {
    store
        .bounded("templates::environments", async {
            let mut tx = store.begin_scoped("templates::environments", scope).await?;
            let views = sqlx::query_as!(
                EnvironmentView,
                "/* templates::environments */
        select name, environment_variables_text as text, created_by, created_at from environment_variable_templates
        where ($1::text is null or name = $1) and ($2::text is null or name > $2) order by name limit $3",
                only,
                after,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(views)
        })
        .await
}

/// Stores an environment template, or replaces the text of the one of this name; says whether it is new. Jobs keep the
/// environment that they were made with.
pub async fn put_environment(
    store: &Store,
    scope: Scope,
    tenant: TenantId,
    name: &str,
    text: &str,
    created_by: &str,
) -> Result<bool> {
    store
        .run("templates::put_environment", || async {
            let mut tx = store.begin_scoped("templates::put_environment", scope).await?;
            let id = TemplateId::new();
            let row = sqlx::query!(
                "/* templates::put_environment */
        insert into environment_variable_templates (id, tenant_id, name, environment_variables_text, created_by)
        values ($1, $2, $3, $4, $5)
        on conflict (tenant_id, name) do update set environment_variables_text = excluded.environment_variables_text
        returning id",
                id.uuid(),
                tenant.uuid(),
                name,
                text,
                created_by
            )
            .fetch_one(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(row.id == id.uuid())
        })
        .await
}

/// Stores a container template, or replaces the one of this name. Jobs keep the spec that they were made with.
pub async fn put(store: &Store, scope: Scope, template: &NewTemplate<'_>) -> Result<Put> {
    let supported: Vec<String> = template.supported_executors.iter().map(|e| e.as_str().to_owned()).collect();
    store
        .run("templates::put", || async {
            let mut tx = store.begin_scoped("templates::put", scope).await?;
            let id = TemplateId::new();
            let row = sqlx::query!(
                "/* templates::put */
        insert into container_templates (id, tenant_id, name, description, docker_image, command, working_dir,
            environment_variables_text, environment_template, cpu_limit, memory_limit_mb, timeout_seconds,
            supported_executors, retry_policy, on_lost, created_by)
        select $1, $2, $3, $4, $5, $6, $7, $8, e.id, $10, $11, $12, $13::text[]::executor_type[], $14, $15, $16
        from (select 1) one left join environment_variable_templates e on e.tenant_id = $2 and e.name = $9
        where $9::text is null or e.id is not null
        on conflict (tenant_id, name) do update set description = excluded.description,
            docker_image = excluded.docker_image, command = excluded.command, working_dir = excluded.working_dir,
            environment_variables_text = excluded.environment_variables_text,
            environment_template = excluded.environment_template, cpu_limit = excluded.cpu_limit,
            memory_limit_mb = excluded.memory_limit_mb, timeout_seconds = excluded.timeout_seconds,
            supported_executors = excluded.supported_executors, retry_policy = excluded.retry_policy,
            on_lost = excluded.on_lost
        returning id",
                id.uuid(),
                template.tenant.uuid(),
                template.name,
                template.description,
                template.image,
                template.command,
                template.working_dir,
                template.environment_text,
                template.environment_template,
                template.cpu_limit,
                template.memory_limit_mb,
                template.timeout_seconds,
                &supported,
                Json(&template.retry) as _,
                Json(&template.on_lost) as _,
                template.created_by
            )
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(match row {
                None => Put::NoEnvironment,
                Some(row) if row.id == id.uuid() => Put::Created,
                Some(_) => Put::Replaced,
            })
        })
        .await
}
