//! A server's folder: who owns it, who may enter it, and that one supervisor holds it.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::{Error, Result};

/// An unprivileged account of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account to run a server as that refuses to be root: `name` when this process is
    /// root, else `None` (the server runs as whoever runs this process).
    ///
    /// Read from `/etc/passwd`: these are accounts that packages make.
    pub(crate) fn unless_unprivileged(name: &'static str, package: &'static str) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = Path::new("/etc/passwd");
        let text = fs::read_to_string(passwd).map_err(Error::io("read", passwd))?;
        text.lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(name)).then_some(())?;
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                Some(Some(Self { name, uid, gid }))
            })
            .ok_or(Error::NoAccount { account: name, package })
    }
}

/// One server's subfolder of the data folder, held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    account: Option<Account>,
    /// Locked; the lock ends with the file handle, even when this process is killed.
    _lock: File,
}

impl Folder {
    /// Makes and locks `data/name`, owned by `account` where one is given.
    pub(crate) fn open(data: &Path, name: &str, account: Option<Account>) -> Result<Self> {
        fs::create_dir_all(data).map_err(Error::io("make the folder", data))?;
        // Absolute and without links, because running servers are recognised by their folder.
        let data = data.canonicalize().map_err(Error::io("find the folder", data))?;
        if let Some(account) = account {
            let_pass(&data)?;
            can_enter(account, &data)?;
        }
        let path = data.join(name);
        make_dir(&path, account)?;
        let lock = lock(&path)?;
        Ok(Self { path, account, _lock: lock })
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the folder.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a folder in the folder, for the server to write to.
    pub(crate) fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        make_dir(&path, self.account)?;
        Ok(path)
    }

    /// Writes a file that the server reads, with these permissions.
    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        own(&path, self.account)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(Error::io("set the permissions of", &path))?;
        Ok(path)
    }

    /// A command that runs as the folder's account, in the folder (by which it is recognised
    /// later), and sees nothing of this process's environment but the search path.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(&self.path).env("HOME", &self.path).env("LC_ALL", "C.UTF-8");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

fn lock(path: &Path) -> Result<File> {
    let file_path = path.join("lock");
    let file = File::create(&file_path).map_err(Error::io("make", &file_path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { folder: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &file_path)(source)),
    }
}

fn make_dir(path: &Path, account: Option<Account>) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir(path).map_err(Error::io("make the folder", path))?;
    own(path, account)
}

fn own(path: &Path, account: Option<Account>) -> Result<()> {
    let Some(Account { uid, gid, .. }) = account else {
        return Ok(());
    };
    chown(path, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path))
}

/// Lets other accounts pass through the data folder (not list it): `mktemp -d` makes folders
/// that only their owner can enter.
fn let_pass(data: &Path) -> Result<()> {
    let mode = fs::metadata(data).map_err(Error::io("look at", data))?.mode();
    if mode & 0o001 == 0 {
        fs::set_permissions(data, fs::Permissions::from_mode((mode | 0o001) & 0o7777))
            .map_err(Error::io("set the permissions of", data))?;
    }
    Ok(())
}

fn can_enter(account: Account, folder: &Path) -> Result<()> {
    // From the root down, so that the error names the folder that shuts the account out first.
    for folder in folder.ancestors().collect::<Vec<_>>().into_iter().rev() {
        let found = fs::metadata(folder).map_err(Error::io("look at", folder))?;
        let needed = match (found.uid() == account.uid, found.gid() == account.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        if found.mode() & needed == 0 {
            return Err(Error::Unreachable { account: account.name, folder: folder.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody's numbers, so that only the permissions for others count.
    const STRANGER: Account = Account { name: "stranger", uid: 4_000_000, gid: 4_000_000 };

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own folder");
    }

    #[test]
    fn a_private_data_folder_is_opened_just_enough() {
        let data = tempfile::tempdir().expect("a temporary folder");
        mode(data.path(), 0o700);
        let_pass(data.path()).expect("our own folder");
        assert_eq!(fs::metadata(data.path()).expect("it exists").mode() & 0o7777, 0o701);
        can_enter(STRANGER, data.path()).expect("the way is open");
    }

    #[test]
    fn the_folder_that_shuts_the_account_out_is_named() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let closed = outer.path().join("closed");
        let data = closed.join("data");
        fs::create_dir_all(&data).expect("our own folder");
        mode(outer.path(), 0o711);
        mode(&closed, 0o750);
        let error = can_enter(STRANGER, &data).expect_err("there is no way in");
        assert!(matches!(&error, Error::Unreachable { folder, .. } if *folder == closed), "{error}");
        let found = fs::metadata(&closed).expect("it exists");
        let member = Account { gid: found.gid(), ..STRANGER };
        can_enter(member, &data).expect("the group may enter");
    }
}
