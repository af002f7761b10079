//! The data folder of `gantry dev`.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::clouds::CloudHost;

/// Owner only: the folder's secrets are the key and nothing else.
const PRIVATE: u32 = 0o600;

/// Where the data is kept if nobody says. Servers refuse to run as root and are run as other users then, who
/// cannot look into root's home.
pub(super) fn default_path() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/gantry");
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    data.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("gantry")
}

/// The folder.
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes it if it is not there.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make the data folder {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("cannot use the data folder {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The key of this folder's tenant: random, made once.
    pub(super) fn api_key(&self) -> anyhow::Result<String> {
        let path = self.path.join("api-key");
        if let Ok(key) = fs::read_to_string(&path) {
            return Ok(key.trim().to_owned());
        }
        let key = crate::commands::tenant::secret();
        write_private(&path, &key)?;
        Ok(key)
    }

    /// `env`, in shell syntax, so that any client can join.
    pub(super) fn write_environment(
        &self,
        address: &SocketAddr,
        key: &str,
        broker: &str,
        database: &str,
        clouds: &[CloudHost],
    ) -> anyhow::Result<()> {
        let mut text = format!(
            "export GANTRY_URL='http://{address}'\nexport GANTRY_API_KEY='{key}'\n\
             export GANTRY_AMQP_URL='{broker}'\nexport GANTRY_DATABASE_URL='{database}'\n"
        );
        for cloud in clouds {
            let name = cloud.executor_type.as_str().to_uppercase();
            text.push_str(&format!("export GANTRY_{name}_DOUBLE='{}'\n", cloud.url));
        }
        write_private(&self.path.join("env"), &text)
    }

    /// Where the credentials that hosts name are kept, a file each.
    pub(super) fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// Keeps the credentials of this name.
    pub(super) fn write_secret(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let secrets = self.secrets();
        fs::create_dir_all(&secrets).with_context(|| format!("cannot make the folder {}", secrets.display()))?;
        write_private(&secrets.join(name), value)
    }
}

/// Writes beside and renames: a reader sees all of it or nothing.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&beside)?;
        file.set_permissions(Permissions::from_mode(PRIVATE))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
