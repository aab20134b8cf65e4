//! Answers for `biplex_store::Disk` over a file: the blocking disk of the moments before a site runs (making,
//! recovering and inspecting a journal). Not for use while [`super::Disks`] has the same file.

use super::work::failed;
use biplex_store::{Disk, DiskError};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file as a blocking disk.
pub struct FileDisk {
    path: PathBuf,
    file: File,
}

impl FileDisk {
    /// Opens for reading alone; writes will fail.
    pub fn open_to_read(path: &Path) -> Result<FileDisk, DiskError> {
        FileDisk::open_with(path, OpenOptions::new().read(true))
    }

    /// Opens for reading and writing.
    pub fn open(path: &Path) -> Result<FileDisk, DiskError> {
        FileDisk::open_with(path, OpenOptions::new().read(true).write(true))
    }

    /// Makes an empty file, or empties the one that is there.
    pub fn make(path: &Path) -> Result<FileDisk, DiskError> {
        FileDisk::open_with(path, OpenOptions::new().read(true).write(true).create(true).truncate(true))
    }

    fn open_with(path: &Path, options: &OpenOptions) -> Result<FileDisk, DiskError> {
        let file = options
            .open(path)
            .map_err(|error| DiskError::new(format!("{}: cannot open: {error}", path.display())))?;
        Ok(FileDisk { path: path.to_owned(), file })
    }
}

impl Disk for FileDisk {
    fn len(&mut self) -> Result<u64, DiskError> {
        // Not the metadata: a block device has its length only at its end.
        self.file.seek(SeekFrom::End(0)).map_err(|error| failed(&self.path, "length", 0, error))
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.file.read_exact_at(buf, offset).map_err(|error| failed(&self.path, "read", offset, error))
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(data, offset).map_err(|error| failed(&self.path, "write", offset, error))
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.file.sync_all().map_err(|error| failed(&self.path, "sync", 0, error))
    }
}
