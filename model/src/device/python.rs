//! Search for CUDA in the PyTorch of the user's Python, when `LIBTORCH_USE_PYTORCH` is set.

use std::path::PathBuf;
use std::process::Command;

use super::libtorch::EXPECTED;

/// Name of the variable that also makes torch-sys take libtorch from Python.
pub(super) const VARIABLE: &str = "LIBTORCH_USE_PYTORCH";

/// Script that finds PyTorch without importing it, which would take seconds and load another libtorch into that process.
const SCRIPT: &str = "import importlib.metadata as m, importlib.util as u\nprint(m.version('torch'))\nprint(u.find_spec('torch').submodule_search_locations[0])";

/// Checks whether the user wants PyTorch's libraries.
pub(super) fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Returns the path of PyTorch's `libtorch_cuda.so`, which may not exist.
///
/// # Errors
/// The reason why none can be used: no Python, no PyTorch, or another release.
pub(super) fn cuda_library() -> Result<PathBuf, String> {
    // torch-sys makes the same choice when it links.
    let python = if std::env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" };
    let output = Command::new(python).args(["-c", SCRIPT]).output().map_err(|error| format!("{python} cannot be run: {error}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{python} has no PyTorch: {}", error.lines().last().unwrap_or("it gives no reason")));
    }
    library_of(&String::from_utf8_lossy(&output.stdout)).map_err(|problem| format!("{python} has {problem}"))
}

/// Returns the library, given the output of the script: release, and folder of the package.
fn library_of(printed: &str) -> Result<PathBuf, String> {
    let mut lines = printed.lines();
    let (Some(version), Some(folder)) = (lines.next(), lines.next()) else { return Err("a PyTorch that cannot be found".into()) };
    // A suffix behind a plus names the build, not the release.
    if version.split('+').next() == Some(EXPECTED) {
        Ok(PathBuf::from(folder).join("lib/libtorch_cuda.so"))
    } else {
        Err(format!("PyTorch {version}, cm3flow is built for {EXPECTED}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_release_is_taken() {
        let found = library_of("2.11.0+cu130\n/venv/site-packages/torch\n").expect("the release");
        assert_eq!(found, PathBuf::from("/venv/site-packages/torch/lib/libtorch_cuda.so"));
        assert!(library_of("2.11.0\n/t\n").is_ok());
        for other in ["2.10.0+cu130\n/t\n", "2.11.01\n/t\n", "2.11.1\n/t\n"] {
            let error = library_of(other).expect_err("another release");
            assert!(error.contains("cm3flow is built for 2.11.0"), "{error}");
        }
        assert!(library_of("").is_err());
    }
}
