//! Folders and files on this machine's disks. A listing may meet entries that object stores lack: links, named pipes, folders without
//! permission, names that are no text.

use std::error::Error as StdError;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path as DiskPath, PathBuf};

use object_store::path::Path;
use walkdir::{DirEntry, WalkDir};

use super::NAME;
use super::facts::{FileContent, FileFacts};
use super::names::printable;
use crate::error::{Result, StageError};

/// Files of a folder and its subfolders.
#[derive(Debug, Default)]
pub(super) struct FolderListing {
    pub files: Vec<ListedFile>,
    /// Number of files and folders whose name begins with a dot; they are skipped.
    pub hidden: u64,
    pub faults: Vec<Fault>,
}

/// A file as listed.
#[derive(Debug, Clone)]
pub(super) struct ListedFile {
    pub path: Path,
    pub facts: FileFacts,
}

/// An entry of a folder that cannot be read as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Path from the folder on; bytes that are no text appear as `%` and two digits.
    pub name: String,
    pub reason: &'static str,
    pub detail: String,
}

/// Returns the path on the disk.
fn on_disk(path: &Path) -> PathBuf {
    PathBuf::from(format!("/{path}"))
}

/// Returns the size of a file, or the reason why it cannot be read. Opens nothing.
pub(super) async fn size_of(path: &Path) -> Result<u64, FileContent> {
    match tokio::fs::metadata(on_disk(path)).await {
        Ok(found) if found.is_file() => Ok(found.len()),
        Ok(found) => Err(FileContent::Unreadable(format!("it is {}", kind_of(found.file_type())))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileContent::Missing),
        Err(error) => Err(FileContent::Unreadable(error.to_string())),
    }
}

/// Returns the message of a disk error below `error` if it concerns one file alone.
pub(super) fn fault_of(error: &object_store::Error) -> Option<String> {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, PermissionDenied};
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some()) {
            return matches!(error.kind(), InvalidFilename | IsADirectory | NotADirectory | PermissionDenied).then(|| error.to_string());
        }
        cause = error.source();
    }
    None
}

fn kind_of(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Lists all files below `folder`. A fault of one entry does not affect the others.
pub(super) async fn files_below(folder: Path) -> Result<FolderListing> {
    let listing = move || {
        let root = on_disk(&folder);
        // A missing folder has no files, like a prefix in an object store.
        let mut listing = FolderListing::default();
        if root.is_dir() {
            walk(root, usize::MAX, |found| listing.add(found));
        }
        listing
    };
    tokio::task::spawn_blocking(listing).await.map_err(|source| StageError::Task { stage: NAME, source })
}

/// Returns the entries of `folder` itself that cannot be read as files.
pub(super) async fn faults_in(folder: Path) -> Vec<Fault> {
    let listing = move || {
        let mut faults = Vec::new();
        walk(on_disk(&folder), 1, |found| {
            if let Entry::Fault(fault) = found {
                faults.push(fault);
            }
        });
        faults
    };
    tokio::task::spawn_blocking(listing).await.unwrap_or_default()
}

enum Entry {
    File(ListedFile),
    Hidden,
    Fault(Fault),
}

impl FolderListing {
    fn add(&mut self, found: Entry) {
        match found {
            Entry::File(file) => self.files.push(file),
            Entry::Hidden => self.hidden += 1,
            Entry::Fault(fault) => self.faults.push(fault),
        }
    }
}

fn walk(root: PathBuf, depth: usize, mut each: impl FnMut(Entry)) {
    let mut entries = WalkDir::new(&root).follow_links(true).min_depth(1).max_depth(depth).into_iter();
    while let Some(entry) = entries.next() {
        let is_hidden = entry.as_ref().is_ok_and(|entry| entry.file_name().as_bytes().starts_with(b"."));
        let found = match entry {
            Ok(entry) if is_hidden => {
                if entry.file_type().is_dir() {
                    entries.skip_current_dir();
                }
                Some(Entry::Hidden)
            }
            Ok(entry) => file_of(&root, &entry),
            Err(error) => fault_below(&root, &error),
        };
        found.into_iter().for_each(&mut each);
    }
}

/// Returns a file or the fault of an entry; `None` for folders.
fn file_of(root: &DiskPath, entry: &DirEntry) -> Option<Entry> {
    let fault = |reason, detail: String| Some(Entry::Fault(Fault { name: name_below(root, entry.path()), reason, detail }));
    let kind = entry.file_type();
    if kind.is_dir() {
        return None;
    }
    if !kind.is_file() {
        return fault("unreadable_image", format!("it is {}", kind_of(kind)));
    }
    let Some(path) = entry.path().to_str() else {
        return fault("bad_name", "its name is no UTF-8; rename it".to_owned());
    };
    let location = match Path::parse(path) {
        Ok(location) => location,
        Err(error) => return fault("bad_name", format!("its name cannot be read: {error}; rename it")),
    };
    let meta = match entry.metadata() {
        Ok(meta) => meta,
        Err(error) => return fault("unreadable_image", error.to_string()),
    };
    Some(Entry::File(ListedFile { facts: FileFacts::of_disk(&meta), path: location }))
}

fn fault_below(root: &DiskPath, error: &walkdir::Error) -> Option<Entry> {
    let name = name_below(root, error.path()?);
    let is_link = error.path().is_some_and(|path| path.is_symlink());
    let (reason, detail) = if error.loop_ancestor().is_some() {
        ("link", "it is a link that leads in a circle".to_owned())
    } else if is_link && error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) {
        ("link", "it is a link to nothing".to_owned())
    } else {
        let detail = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
        (if is_link { "link" } else { "unreadable_folder" }, detail)
    };
    Some(Entry::Fault(Fault { name, reason, detail }))
}

fn name_below(root: &DiskPath, path: &DiskPath) -> String {
    printable(path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes())
}
