//! Answers for opening and locking what a site keeps on disk, so that two daemons can never share it and no store of
//! the wrong size is taken. Makes what is missing only where that cannot hide a loss.

use crate::config::{Volume, quantity};
use anyhow::{Context, bail};
use biplex_store::{PAGE_BYTES, PageBuf};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Linux's O_DSYNC. Not `OFlags::DSYNC`: rustix 1.1 makes O_SYNC of that on Linux, which has each append wait for the
/// file's times as well; the ring never changes its size, so nothing needs them. On the few architectures that number
/// it otherwise, O_SYNC it is.
const O_DSYNC: i32 = match cfg!(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64")) {
    true => OFlags::SYNC.bits() as i32,
    false => 0o10000,
};

/// The journal, open for appending.
pub struct JournalFile {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Open for direct, synchronous writes: what is written is durable.
    pub direct: bool,
}

/// A volume's backing store, open and locked.
pub struct StoreFile {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Reads that must not wait are worth trying.
    pub nowait: AtomicBool,
}

/// The lock of a state directory; released when dropped or when the process ends.
pub struct StateLock(#[allow(dead_code)] File);

impl StateLock {
    /// Makes the directory if missing and locks it.
    pub fn take(state_dir: &Path) -> anyhow::Result<StateLock> {
        std::fs::create_dir_all(state_dir)
            .with_context(|| format!("cannot make the state directory {}", state_dir.display()))?;
        let path = state_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if !lock(&file).with_context(|| format!("cannot lock {}", path.display()))? {
            let mut owner = String::new();
            // Only for the message: who holds the lock wrote its process id here.
            drop(file.read_to_string(&mut owner));
            let (state_dir, owner) = (state_dir.display(), owner.trim());
            bail!(
                "{state_dir} is in use by another biplex (process {owner}); stop it or name another state_dir"
            );
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(StateLock(file))
    }
}

/// Whether the exclusive lock was got.
fn lock(file: &File) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

impl JournalFile {
    /// Opens an existing journal, past the page cache where the file system can.
    pub fn open(path: &Path) -> anyhow::Result<JournalFile> {
        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32 | O_DSYNC)
            .open(path)
            .and_then(|file| {
                // Some file systems take the flag and refuse the I/O.
                let mut page = PageBuf::zeroed(1);
                rustix::io::pread(&file, page.as_mut_bytes(), 0)?;
                Ok(file)
            });
        match direct {
            Ok(file) => Ok(JournalFile { path: path.to_owned(), file, direct: true }),
            Err(error) => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .with_context(|| format!("cannot open the journal {}", path.display()))?;
                tracing::warn!(
                    "{}: no direct I/O here ({error}); each group is written through the page cache and synced, \
                     which is slower",
                    path.display()
                );
                Ok(JournalFile { path: path.to_owned(), file, direct: false })
            }
        }
    }
}

impl StoreFile {
    /// Opens and locks a volume's store. A missing file is made only when `make` allows it: at a site's first start.
    pub fn open(volume: &Volume, make: bool) -> anyhow::Result<StoreFile> {
        let path = &volume.store;
        let shown = path.display();
        let (name, bytes) = (&volume.name, volume.bytes);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let mut made = false;
        let mut file = match std::fs::metadata(path) {
            Ok(metadata) if metadata.file_type().is_block_device() => {
                // O_EXCL on a block device: not while it is mounted or otherwise claimed.
                options.custom_flags(OFlags::EXCL.bits() as i32).open(path)
            }
            Ok(metadata) if metadata.is_file() => options.open(path),
            Ok(_) => bail!("volume {name}: {shown} is neither a file nor a block device; name another store"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && make => {
                made = true;
                options.create_new(true).open(path)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "volume {name}: {shown} is missing, but this site has run before and its journal counts on it; bring \
                 the store back, or remove the site's whole state_dir and stores to begin anew"
            ),
            Err(error) => Err(error),
        }
        .with_context(|| format!("volume {name}: cannot open {shown}"))?;
        if !lock(&file).with_context(|| format!("volume {name}: cannot lock {shown}"))? {
            bail!("volume {name}: {shown} is in use by another biplex; stop it or name another store");
        }
        if made {
            file.set_len(bytes)
                .and_then(|()| file.sync_all())
                .with_context(|| format!("volume {name}: cannot make {shown} {bytes} bytes long"))?;
            sync_directory(path)?;
        }
        let length =
            file.seek(SeekFrom::End(0)).with_context(|| format!("volume {name}: {shown}: no length"))?;
        let device = file.metadata()?.file_type().is_block_device();
        if length < bytes || (length > bytes && !device) {
            bail!(
                "volume {name}: {shown} has {length} bytes ({}), the config says {bytes} ({}); correct the size at \
                 both sites or name another store",
                quantity::show_size(length),
                quantity::show_size(bytes)
            );
        }
        Ok(StoreFile { path: path.clone(), file, nowait: AtomicBool::new(true) })
    }
}

/// Makes a new name in a directory durable.
pub fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let sync = || File::open(directory)?.sync_all();
    sync().with_context(|| format!("cannot sync the directory {}", directory.display()))
}

const _: () = assert!(PAGE_BYTES == 4096);
