//! Programs that some tests need and a machine may lack. They are found on `PATH`; otherwise the test is skipped by name and counted.
//!
//! A skipped test prints `SKIPPED <test>: <reason>`. It appends that line to the file in `CM3FLOW_SKIPPED`, whose lines `make test` counts.
//! Under `CM3FLOW_REQUIRE_TOOLS=1`, as in `.ci/run`, it fails instead.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Finds the first name in `program` that is an executable on `PATH`; on `None`, `test` must return at once.
///
/// ```no_run
/// # use cm3flow_tests::tools::tool;
/// let Some(git) = tool("repository_stays_small", &["git"]) else { return };
/// ```
///
/// # Panics
/// If none is found and `CM3FLOW_REQUIRE_TOOLS` is 1.
pub fn tool(test: &str, program: &[&str]) -> Option<PathBuf> {
    let found = find(program, &env::var_os("PATH").unwrap_or_default());
    if found.is_none() {
        skip(test, &format!("{} is not installed", program.join(" or ")));
    }
    found
}

/// Reports that `test` is skipped, with the reason.
///
/// # Panics
/// If `CM3FLOW_REQUIRE_TOOLS` is 1, or if the file named by `CM3FLOW_SKIPPED` cannot be written.
pub fn skip(test: &str, reason: &str) {
    assert!(
        env::var_os("CM3FLOW_REQUIRE_TOOLS").as_deref() != Some(OsStr::new("1")),
        "{test}: {reason}, and CM3FLOW_REQUIRE_TOOLS=1 allows no skipping"
    );
    eprintln!("{}", skipped_line(test, reason));
    if let Some(list) = env::var_os("CM3FLOW_SKIPPED") {
        append(Path::new(&list), &skipped_line(test, reason));
    }
}

fn skipped_line(test: &str, reason: &str) -> String {
    format!("SKIPPED {test}: {reason}")
}

/// Appends in one write, so that lines of concurrent tests stay whole.
fn append(list: &Path, line: &str) {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(list)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .unwrap_or_else(|error| panic!("cannot append to CM3FLOW_SKIPPED={}: {error}", list.display()));
}

fn find(program: &[&str], path: &OsStr) -> Option<PathBuf> {
    let executable =
        |candidate: &PathBuf| fs::metadata(candidate).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    program.iter().flat_map(|name| env::split_paths(path).map(move |folder| folder.join(name))).find(executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &Path, mode: u32) {
        fs::write(file, "").expect("the folder was just made");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("the file is ours");
    }

    #[test]
    fn find_prefers_the_first_name_and_passes_over_what_is_not_executable() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(&folder.path().join("second"), 0o755);
        write(&folder.path().join("note"), 0o644);
        fs::create_dir(folder.path().join("folder")).expect("a new folder");
        let path = env::join_paths([Path::new("/nowhere"), folder.path()]).expect("no colon in the path");

        assert_eq!(find(&["note", "folder", "second"], &path), Some(folder.path().join("second")));
        write(&folder.path().join("first"), 0o755);
        assert_eq!(find(&["first", "second"], &path), Some(folder.path().join("first")));
        assert_eq!(find(&["note", "folder", "third"], &path), None);
    }

    #[test]
    fn append_keeps_one_line_for_each_skipped_test() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let list = folder.path().join("skipped");
        append(&list, &skipped_line("a", "chromium is not installed"));
        append(&list, &skipped_line("b", "git is not installed"));
        let lines = fs::read_to_string(&list).expect("append made it");
        assert_eq!(lines, "SKIPPED a: chromium is not installed\nSKIPPED b: git is not installed\n");
    }
}
