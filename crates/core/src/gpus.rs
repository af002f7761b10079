//! GPUs that a container asks for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most that one container may ask for by number.
pub const MOST: u32 = 64;

/// How many GPUs: a number, or `"all"` of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "GPUs are a number from 1, or \"all\"")]
pub enum Gpus {
    /// So many.
    Count(#[schemars(range(min = 1, max = 64))] u32),
    /// As many as the host has.
    All(All),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// `"all"`.
    All,
}

impl Gpus {
    /// All of a host's.
    pub const ALL: Self = Self::All(All::All);

    /// Whether somebody who may have `self` may have `asked`.
    pub fn covers(self, asked: Self) -> bool {
        match (self, asked) {
            (Self::All(_), _) => true,
            (Self::Count(most), Self::Count(asked)) => asked <= most,
            (Self::Count(_), Self::All(_)) => false,
        }
    }
}

impl std::fmt::Display for Gpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::All(_) => f.write_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_all() {
        let parse = |text: &str| serde_json::from_str::<Gpus>(text);
        assert_eq!(parse("2").expect("a number"), Gpus::Count(2));
        assert_eq!(parse("\"all\"").expect("all"), Gpus::ALL);
        let error = parse("\"some\"").expect_err("neither").to_string();
        assert!(error.contains("a number from 1, or \"all\""), "{error}");
        assert_eq!(serde_json::to_string(&Gpus::ALL).expect("JSON"), "\"all\"");
    }

    #[test]
    fn all_covers_everything() {
        assert!(Gpus::ALL.covers(Gpus::ALL) && Gpus::ALL.covers(Gpus::Count(8)));
        assert!(Gpus::Count(2).covers(Gpus::Count(2)));
        assert!(!Gpus::Count(2).covers(Gpus::Count(3)) && !Gpus::Count(2).covers(Gpus::ALL));
    }
}
