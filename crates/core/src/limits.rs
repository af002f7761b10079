//! How many jobs of one kind may run at once: counters, and the jobs that they count.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

use crate::{LimitId, TemplateId, TenantId, WaitingReason};

/// The most jobs of a concurrency key that run at once while nobody has set another limit.
pub const KEY_DEFAULT: i32 = 1;

/// What a limit counts.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schemars(rename = "LimitKind")]
pub enum Kind {
    /// All running jobs of the tenant.
    Tenant,
    /// Those of one container template.
    Template,
    /// Those that share a concurrency key.
    Key,
}

impl Kind {
    /// The name used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What a job waits for that such a limit holds back.
    pub fn waiting_reason(self) -> WaitingReason {
        match self {
            Self::Tenant => WaitingReason::TenantLimit,
            Self::Template => WaitingReason::TemplateLimit,
            Self::Key => WaitingReason::KeyLimit,
        }
    }
}

/// What one limit counts: a row of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The owner.
    pub tenant: TenantId,
    /// The kind.
    pub kind: Kind,
    /// The key, or the id of the template; empty for the tenant as a whole.
    pub name: String,
}

/// By what a job may be limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its template.
    pub template: Option<TemplateId>,
    /// Its concurrency key.
    pub key: Option<String>,
}

impl Traits {
    /// Everything that may count it, whether there is such a limit or not.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> + '_ {
        let subject = |kind, name| Subject { tenant: self.tenant, kind, name };
        let template = self.template.map(|id| subject(Kind::Template, id.to_string()));
        let key = self.key.clone().map(|key| subject(Kind::Key, key));
        [Some(subject(Kind::Tenant, String::new())), template, key].into_iter().flatten()
    }
}

/// A limit as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The row.
    pub id: LimitId,
    /// The most; none for any number.
    pub most: Option<i32>,
    /// Attempts that it counts now.
    pub running: i32,
}

impl Limit {
    /// How many more may run; none for any number.
    pub fn room(&self) -> Option<i32> {
        self.most.map(|most| (most - self.running).max(0))
    }
}

/// The limits that a batch of jobs meets.
#[derive(Clone, Debug, Default)]
pub struct Book {
    limits: HashMap<Subject, Limit>,
}

impl Book {
    /// The limits that there are.
    pub fn new(limits: impl IntoIterator<Item = (Subject, Limit)>) -> Self {
        Self { limits: limits.into_iter().collect() }
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// The first limit that has no room for such a job.
    pub fn holds_back(&self, job: &Traits) -> Option<(Kind, LimitId)> {
        if self.is_empty() {
            return None;
        }
        let full = |subject: Subject| {
            let limit = self.limits.get(&subject)?;
            (limit.room() == Some(0)).then_some((subject.kind, limit.id))
        };
        job.subjects().find_map(full)
    }

    /// Counts such a job; returns the limits that count it.
    pub fn count(&mut self, job: &Traits) -> Vec<LimitId> {
        if self.is_empty() {
            return Vec::new();
        }
        job.subjects()
            .filter_map(|subject| {
                let limit = self.limits.get_mut(&subject)?;
                limit.running += 1;
                Some(limit.id)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_counts_its_own_and_the_narrowest_holds_back() {
        let tenant = TenantId::new();
        let subject = |kind, name: &str| Subject { tenant, kind, name: name.to_owned() };
        let limit = |most, running| Limit { id: LimitId::new(), most, running };
        let (whole, key) = (limit(Some(3), 1), limit(Some(1), 0));
        let mut book = Book::new([(subject(Kind::Tenant, ""), whole), (subject(Kind::Key, "a"), key)]);
        let job = |key: Option<&str>| Traits { tenant, template: None, key: key.map(str::to_owned) };

        assert_eq!(book.count(&job(Some("a"))), [whole.id, key.id]);
        assert_eq!(book.holds_back(&job(Some("a"))), Some((Kind::Key, key.id)));
        assert_eq!(book.holds_back(&job(Some("b"))), None, "another key has its own limit");
        assert_eq!(book.count(&job(None)), [whole.id]);
        assert_eq!(book.holds_back(&job(None)), Some((Kind::Tenant, whole.id)));
        let stranger = Traits { tenant: TenantId::new(), ..job(Some("a")) };
        assert_eq!(book.holds_back(&stranger), None, "another tenant's key of the same name is another key");
    }

    #[test]
    fn a_limit_below_what_runs_has_no_room_and_none_has_any() {
        assert_eq!(Limit { id: LimitId::new(), most: Some(2), running: 5 }.room(), Some(0));
        assert_eq!(Limit { id: LimitId::new(), most: None, running: 5 }.room(), None);
    }
}
