//! Where the servers' programs are installed.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::process;
use crate::{Error, Result};

/// The folder with Postgres' server programs: Debian keeps them out of the search path.
pub(crate) async fn postgres() -> Result<PathBuf> {
    let mut pg_config = Command::new("pg_config");
    pg_config.arg("--bindir");
    // pg_config also comes with the client library alone, so its answer is checked.
    let named = process::run(pg_config).await.ok().map(|bin| PathBuf::from(bin.trim()));
    named
        .into_iter()
        .chain(debian_postgres())
        .find(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .ok_or(Error::Missing { program: "postgres", package: "postgresql" })
}

/// `/usr/lib/postgresql/VERSION/bin`, the newest version first.
fn debian_postgres() -> Vec<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    versions.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).unwrap_or(0));
    versions.into_iter().rev().map(|path| path.join("bin")).collect()
}

/// A program by the search path, or in one of `folders` that root's services use but a user's
/// search path may not have.
pub(crate) fn find(program: &'static str, folders: &[&str], package: &'static str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|file| is_program(file))
        .ok_or(Error::Missing { program, package })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
