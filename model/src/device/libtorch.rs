//! The libtorch of the process: the loader finds it at start, and it may differ from the one at link time.

use std::sync::OnceLock;

use serde::Serialize;

use super::library::{loaded_symbol, path_of};

/// Release of libtorch that torch-sys 0.24 supports; its build script refuses others.
pub(super) const EXPECTED: &str = "2.11.0";

/// The libtorch of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Libtorch {
    /// Release; `unknown` if it does not report one, as old releases do not.
    pub version: String,
    /// Release that cm3flow is built for.
    pub expected: &'static str,
    /// File that it was loaded from.
    pub path: Option<String>,
    /// Problem with the release, and advice; `None` if there is none.
    pub problem: Option<String>,
}

/// Returns the libtorch of this process.
pub(super) fn loaded() -> &'static Libtorch {
    static LOADED: OnceLock<Libtorch> = OnceLock::new();
    LOADED.get_or_init(|| {
        let symbol = loaded_symbol(c"aoti_torch_abi_version");
        let version = symbol.map(|address| {
            // SAFETY: libtorch declares `uint64_t aoti_torch_abi_version(void)` in torch/csrc/inductor/aoti_torch/c/shim.h.
            let function = unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn() -> u64>(address.as_ptr()) };
            release(function())
        });
        let path = symbol.and_then(path_of);
        Libtorch {
            problem: problem(version.as_deref(), path.as_deref()),
            version: version.unwrap_or_else(|| "unknown".into()),
            expected: EXPECTED,
            path,
        }
    })
}

/// Decodes a release from libtorch's version number.
///
/// # Source
/// `TORCH_ABI_VERSION` in PyTorch's torch/headeronly/version.h: major, minor and patch in the three highest bytes.
fn release(number: u64) -> String {
    let byte = |shift: u32| (number >> shift) & 0xff;
    format!("{}.{}.{}", byte(56), byte(48), byte(40))
}

fn problem(version: Option<&str>, path: Option<&str>) -> Option<String> {
    if version == Some(EXPECTED) {
        return None;
    }
    let found = version.map_or_else(|| "one that does not say its release".to_owned(), |version| format!("release {version}"));
    let place = path.map(|path| format!(" ({path})")).unwrap_or_default();
    Some(format!(
        "the libtorch that was loaded is {found}{place}, cm3flow is built for {EXPECTED}: results may differ and calls may fail; take other \
         releases out of LD_LIBRARY_PATH, or name the lib folder of PyTorch {EXPECTED} there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_libtorch_is_the_one_that_was_built_for() {
        let found = loaded();
        assert_eq!((found.version.as_str(), &found.problem), (EXPECTED, &None));
        assert!(found.path.as_deref().is_some_and(|path| path.contains("libtorch_cpu")), "{found:?}");
    }

    #[test]
    fn another_release_is_named() {
        assert_eq!(release(0x020b_0000_0000_0000), "2.11.0");
        assert_eq!(release(0x0209_0100_0000_0000), "2.9.1");
        let problem = problem(Some("2.9.1"), Some("/opt/lib/libtorch_cpu.so")).expect("it is another");
        assert!(problem.contains("release 2.9.1 (/opt/lib/libtorch_cpu.so)") && problem.contains(EXPECTED), "{problem}");
        assert!(super::problem(None, None).is_some());
    }
}
