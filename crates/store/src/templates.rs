//! Container templates and the environment templates below them.

use std::collections::HashMap;

use gantry_core::lost;
use gantry_core::{ExecutorType, TemplateId, TenantId, retry};
use rust_decimal::Decimal;
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
    /// The command's words.
    pub command: &'a [String],
    /// `KEY=value` a line.
    pub environment_text: &'a str,
    /// The environment template below, by name.
    pub environment_template: Option<&'a str>,
    /// Run deadline.
    pub timeout_seconds: i32,
    /// Where it may run, in order of preference.
    pub supported_executors: &'a [ExecutorType],
    /// Who made it.
    pub created_by: &'a str,
}

/// The templates of these names, by (tenant, name).
pub async fn get(
    store: &Store,
    scope: Scope,
    names: &[(TenantId, String)],
) -> Result<HashMap<(TenantId, String), Template>> {
    store
        .bounded("templates::get", async {
            if names.is_empty() {
                return Ok(HashMap::new());
            }
            let tenants: Vec<Uuid> = names.iter().map(|(tenant, _)| tenant.uuid()).collect();
            let names: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
            let mut tx = store.begin_scoped("templates::get", scope).await?;
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
            tx.commit().await?;
            rows.into_iter()
                .map(|row| {
                    let supported_executors =
                        row.supported.iter().map(|name| parse("supported_executors", name)).collect::<Result<_>>()?;
                    let template = Template {
                        id: row.id.into(),
                        name: row.name.clone(),
                        image: row.docker_image,
                        command: row.command,
                        working_dir: row.working_dir,
                        base_environment_text: row.base,
                        environment_text: row.environment_variables_text,
                        cpu_limit: row.cpu_limit,
                        memory_limit_mb: row.memory_limit_mb,
                        timeout_seconds: row.timeout_seconds,
                        supported_executors,
                        retry: from_json("retry_policy", row.retry_policy)?,
                        on_lost: from_json("on_lost", row.on_lost)?,
                    };
                    Ok(((row.tenant_id.into(), row.name), template))
                })
                .collect()
        })
        .await
}

/// The ids of these projects, by (tenant, name).
pub async fn projects(
    store: &Store,
    scope: Scope,
    names: &[(TenantId, String)],
) -> Result<HashMap<(TenantId, String), gantry_core::ProjectId>> {
    store
        .bounded("templates::projects", async {
            let tenants: Vec<Uuid> = names.iter().map(|(tenant, _)| tenant.uuid()).collect();
            let names: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
            let mut tx = store.begin_scoped("templates::projects", scope).await?;
            let rows = sqlx::query!(
                "/* templates::projects */
        select p.id, p.tenant_id, p.name from unnest($1::uuid[], $2::text[]) as w(tenant_id, name)
        join projects p using (tenant_id, name)",
                &tenants,
                &names
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(rows.into_iter().map(|row| ((row.tenant_id.into(), row.name), row.id.into())).collect())
        })
        .await
}

/// Stores an environment template, or replaces the text of the one of this name.
pub async fn put_environment(store: &Store, tenant: TenantId, name: &str, text: &str, created_by: &str) -> Result<()> {
    store
        .single(
            "templates::put_environment",
            sqlx::query!(
                "/* templates::put_environment */
        insert into environment_variable_templates (id, tenant_id, name, environment_variables_text, created_by)
        values ($1, $2, $3, $4, $5)
        on conflict (tenant_id, name) do update set environment_variables_text = excluded.environment_variables_text",
                TemplateId::new().uuid(),
                tenant.uuid(),
                name,
                text,
                created_by
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(())
}

/// Stores a container template, or replaces the one of this name. Jobs keep the spec that they were made with.
pub async fn put(store: &Store, template: &NewTemplate<'_>) -> Result<()> {
    let supported: Vec<String> = template.supported_executors.iter().map(|e| e.as_str().to_owned()).collect();
    store
        .single(
            "templates::put",
            sqlx::query!(
                "/* templates::put */
        insert into container_templates (id, tenant_id, name, description, docker_image, command,
            environment_variables_text, environment_template, timeout_seconds, supported_executors, created_by)
        values ($1, $2, $3, $4, $5, $6, $7,
            (select id from environment_variable_templates where tenant_id = $2 and name = $8),
            $9, $10::text[]::executor_type[], $11)
        on conflict (tenant_id, name) do update set description = excluded.description,
            docker_image = excluded.docker_image, command = excluded.command,
            environment_variables_text = excluded.environment_variables_text,
            environment_template = excluded.environment_template, timeout_seconds = excluded.timeout_seconds,
            supported_executors = excluded.supported_executors",
                TemplateId::new().uuid(),
                template.tenant.uuid(),
                template.name,
                template.description,
                template.image,
                template.command,
                template.environment_text,
                template.environment_template,
                template.timeout_seconds,
                &supported,
                template.created_by
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(())
}
