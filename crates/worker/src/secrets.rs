//! Secrets by name. A host's configuration and a job's spec name a secret; its value is known to the worker alone,
//! from a file or from its environment, and is never stored, sent or logged by Gantry.
//!
//! | reference | file | variable |
//! |---|---|---|
//! | `hub` of a host | `$GANTRY_SECRETS_DIR/hub` | `GANTRY_SECRET_HUB` |
//! | `hub` of a tenant's job | `$GANTRY_SECRETS_DIR/tenants/<tenant id>/hub` | `GANTRY_SECRET_TENANT_<TENANT ID>_HUB` |
//!
//! The file wins; the last line break of its content does not belong to the value. In a variable's name letters are
//! upper case, `-` is `_`, and a tenant's id has no hyphens. Values are looked up each time that they are needed, so
//! that a file that is replaced counts from then on.
//!
//! A tenant's references lead to its own folder and to variables with its own id, and nowhere else: whatever name a job
//! gives, it reaches neither a host's secret nor another tenant's.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gantry_core::{Failure, FailureClass, TenantId};
pub use secrecy::{ExposeSecret, SecretString};

/// The variable that names the folder.
pub const FOLDER: &str = "GANTRY_SECRETS_DIR";
/// How the variables that hold values begin.
const PREFIX: &str = "GANTRY_SECRET_";
/// The longest name: what the longest variable and any file system bear.
const NAME_LENGTH: usize = 64;
/// The longest value, in bytes: a chain of certificates fits well.
const VALUE_BYTES: u64 = 256 * 1024;

/// Why a reference has no value here. The text has the reference and both places, and nothing of any value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Neither place has it.
    #[error("{0}")]
    Missing(String),
    /// The name or what is there cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl From<Unresolved> for Failure {
    /// What is wrong is the place's, not the job's.
    fn from(unresolved: Unresolved) -> Self {
        Self::new(FailureClass::BackendError, unresolved.to_string())
    }
}

/// Where this worker finds its secrets.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    folder: Option<PathBuf>,
}

impl Secrets {
    /// The folder that `GANTRY_SECRETS_DIR` names, if any, and the variables of this process.
    pub fn from_environment() -> Self {
        Self { folder: std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from) }
    }

    /// This folder, and the variables of this process.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// The value of a reference in a host's configuration.
    ///
    /// # Errors
    /// `backend_error`, with the reference and both places: what is wrong is the place's, not the job's.
    pub fn resolve(&self, name: &str) -> Result<SecretString, Failure> {
        check_name(name)?;
        Ok(self.read(name, Path::new(name), &variable(name))?)
    }

    /// The value of a reference in a job of this tenant.
    ///
    /// # Errors
    /// [`Unresolved`]; the caller knows best what it means for the job.
    pub fn resolve_for(&self, tenant: TenantId, name: &str) -> Result<SecretString, Unresolved> {
        check_name(name)?;
        let id = tenant.uuid();
        let file: PathBuf = ["tenants", &id.hyphenated().to_string(), name].iter().collect();
        self.read(name, &file, &variable(&format!("tenant_{}_{name}", id.simple())))
    }

    fn read(&self, name: &str, file: &Path, variable: &str) -> Result<SecretString, Unresolved> {
        let file = self.folder.as_ref().map(|folder| folder.join(file));
        if let Some(path) = &file {
            match content(path) {
                Ok(value) => return Ok(value),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let message = format!("the secret {name:?}: {}: {error}", path.display());
                    return Err(Unresolved::Unusable(message));
                }
            }
        }
        match std::env::var(variable) {
            Ok(value) => Ok(value.into()),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Unresolved::Unusable(format!("the secret {name:?}: {variable} is not text")))
            }
            Err(std::env::VarError::NotPresent) => {
                let looked = match &file {
                    Some(path) => format!("there is no file {}", path.display()),
                    None => format!("{FOLDER} is not set, which would name a folder of files"),
                };
                let message = format!("this worker has no secret {name:?}: {looked}, and no variable {variable}");
                Err(Unresolved::Missing(message))
            }
        }
    }
}

/// The file's text without its last line break.
fn content(path: &Path) -> io::Result<SecretString> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(VALUE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > VALUE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("a secret has at most {VALUE_BYTES} bytes")));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).into())
}

/// Words of `a-z` and `0-9` with single `-` or `_` between: a name is a file's name as it is, and two underscores in a
/// variable would make it one of the worker's own configuration.
fn check_name(name: &str) -> Result<(), Unresolved> {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if name.len() <= NAME_LENGTH && name.split(['-', '_']).all(word) {
        return Ok(());
    }
    Err(Unresolved::Unusable(format!(
        "{name:?} cannot be the name of a secret: it is at most {NAME_LENGTH} of a-z and 0-9, with single `-` or `_` between"
    )))
}

fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use super::*;

    fn folder_with(files: &[(&str, &str)]) -> (PathBuf, Secrets) {
        let folder = std::env::temp_dir().join(format!("gantry-secrets-{}", TenantId::new()));
        for (file, text) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("makes the folder");
            std::fs::write(path, text).expect("writes the file");
        }
        let secrets = Secrets::in_folder(&folder);
        (folder, secrets)
    }

    #[test]
    fn a_file_is_a_value_without_its_last_line_break() {
        let (folder, secrets) = folder_with(&[("hub", "user:pass\n"), ("two", "a\n\nb\n\n"), ("three", "c\r\n")]);
        let value = |name| secrets.resolve(name).expect("it is there").expose_secret().to_owned();
        assert_eq!([value("hub"), value("two"), value("three")], ["user:pass", "a\n\nb\n", "c"]);
        let shown = format!("{:?}", secrets.resolve("hub"));
        assert!(!shown.contains("pass"), "{shown}");
        std::fs::write(folder.join("hub"), "new").expect("writes the file");
        assert_eq!(value("hub"), "new", "it was replaced");
        std::fs::remove_dir_all(folder).expect("removes the folder");
    }

    #[test]
    fn a_tenant_reaches_its_own_secrets_only() {
        let (mine, other) = (TenantId::new(), TenantId::new());
        let file = format!("tenants/{mine}/hub");
        let (folder, secrets) = folder_with(&[("host", "h"), (&file, "m")]);
        assert_eq!(secrets.resolve_for(mine, "hub").expect("its own").expose_secret(), "m");
        assert!(matches!(secrets.resolve_for(other, "hub"), Err(Unresolved::Missing(_))));
        assert!(secrets.resolve_for(mine, "host").is_err());
        assert!(secrets.resolve("hub").is_err());
        for name in ["../host", "../../host", "a/b", "", ".", "A", "a__b", "-a", "a_", "é"] {
            assert!(matches!(secrets.resolve_for(mine, name), Err(Unresolved::Unusable(_))), "{name}");
        }
        std::fs::remove_dir_all(folder).expect("removes the folder");
    }

    #[test]
    fn what_is_missing_is_told_with_both_places() {
        let (folder, secrets) = folder_with(&[]);
        let tenant = TenantId::new();
        let failure = secrets.resolve("my-hub").expect_err("nowhere");
        assert_eq!(failure.class, FailureClass::BackendError);
        let path = folder.join("my-hub");
        for part in ["\"my-hub\"", path.to_str().expect("text"), "GANTRY_SECRET_MY_HUB"] {
            assert!(failure.message.contains(part), "{failure}");
        }
        let missing = secrets.resolve_for(tenant, "hub").expect_err("nowhere").to_string();
        let variable = format!("GANTRY_SECRET_TENANT_{}_HUB", tenant.uuid().simple().to_string().to_uppercase());
        assert!(missing.contains(&variable), "{missing}");
        let failure = Secrets::default().resolve("hub").expect_err("nowhere");
        assert!(failure.message.contains(FOLDER), "{failure}");
    }

    #[test]
    fn the_environment_holds_values_too() {
        const THIS: &str = "secrets::tests::the_environment_holds_values_too";
        const TENANT: &str = "GANTRY_TEST_TENANT";
        // No process can safely set variables of its own: the test runs itself once more, with them.
        let Ok(tenant) = std::env::var(TENANT) else {
            let tenant = TenantId::new();
            let id = tenant.uuid().simple().to_string().to_uppercase();
            let child = Command::new(std::env::current_exe().expect("this program"))
                .args([THIS, "--exact"])
                .env(TENANT, tenant.to_string())
                .env("GANTRY_SECRET_MY_HUB_2", "of the host")
                .env(format!("GANTRY_SECRET_TENANT_{id}_MY_HUB_2"), "of the tenant")
                .env("GANTRY_SECRET_BOTH", "of the variable")
                .env("GANTRY_SECRET_BYTES", OsStr::from_bytes(b"\xff"))
                .output()
                .expect("this program starts");
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success() && said.contains("1 passed"), "{said}");
            return;
        };
        let tenant: TenantId = tenant.parse().expect("an id");
        let (folder, secrets) = folder_with(&[("both", "of the file")]);
        let value = |name| secrets.resolve(name).expect("it is set").expose_secret().to_owned();
        assert_eq!([value("my-hub_2"), value("both")], ["of the host", "of the file"]);
        assert_eq!(Secrets::default().resolve("both").expect("it is set").expose_secret(), "of the variable");
        assert_eq!(secrets.resolve_for(tenant, "my-hub_2").expect("it is set").expose_secret(), "of the tenant");
        assert!(matches!(secrets.resolve_for(TenantId::new(), "my-hub_2"), Err(Unresolved::Missing(_))));
        let failure = secrets.resolve("bytes").expect_err("no text");
        assert!(failure.message.ends_with("GANTRY_SECRET_BYTES is not text"), "{failure}");
        std::fs::remove_dir_all(folder).expect("removes the folder");
    }
}
