//! What the names in a batch of submissions stand for: all that admission reads before it decides, in one transaction.

use std::collections::HashMap;

use gantry_core::{ExecutorType, ProjectId, TenantId};

use crate::error::Result;
use crate::hosts;
use crate::templates::{self, Template};
use crate::tx::{Scope, Store};

/// What is there of what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Templates by (tenant, name).
    pub templates: HashMap<(TenantId, String), Template>,
    /// Projects by (tenant, name).
    pub projects: HashMap<(TenantId, String), ProjectId>,
    /// The executor types that have an active host: (tenant or none for all, type).
    pub active: Vec<(Option<TenantId>, ExecutorType)>,
}

/// Looks up templates and projects by (tenant, name), and the executor types that have an active host for these tenants.
/// Each is a statement, so that together they are no picture of one moment; nor need they be.
pub async fn read(
    store: &Store,
    scope: Scope,
    templates: &[(TenantId, String)],
    projects: &[(TenantId, String)],
    tenants: &[TenantId],
) -> Result<Names> {
    store
        .bounded("names::read", async {
            let mut tx = store.begin_scoped_kept("names::read", scope).await?;
            let names = Names {
                templates: templates::get_within(&mut tx, templates).await?,
                projects: templates::projects_within(&mut tx, projects).await?,
                active: hosts::active_types_within(&mut tx, tenants).await?,
            };
            tx.commit().await?;
            Ok(names)
        })
        .await
}
