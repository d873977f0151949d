//! Loader of CUDA, with a diagnosis if that fails.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use serde::Serialize;
use tch::Cuda;

use super::driver::{self, CudaDevice, Driver, DriverProblem};
use super::library::{Library, Scope, loaded_symbol, path_of};
use super::libtorch::EXPECTED;
use super::python;

/// File name of the CUDA library.
const LIBRARY: &str = "libtorch_cuda.so";
/// File name of the library that has NVRTC; it lies beside the CUDA library.
const COMPILER: &str = "libcaffe2_nvrtc.so";

/// Kinds of problems that prevent the use of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CudaProblem {
    /// No libtorch for CUDA in the searched places.
    LibraryNotFound,
    /// A dependency of the library is missing.
    DependencyNotFound,
    /// The library is of another release than the loaded libtorch.
    VersionMismatch,
    /// The library cannot be loaded.
    LibraryBroken,
    /// The NVIDIA driver is not installed.
    DriverMissing,
    /// The driver is older than the CUDA of libtorch.
    DriverTooOld,
    /// The driver reports an error.
    DriverFailed,
    /// The driver sees no device.
    NoDevice,
    /// Driver and library exist, but libtorch sees no device.
    Unexplained,
}

/// Reason why CUDA cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CudaMissing {
    /// Kind of the problem.
    pub problem: CudaProblem,
    /// Findings, for people.
    pub reason: String,
    /// Advice, for people.
    pub advice: String,
}

/// What came of looking for CUDA.
pub(super) struct Found {
    /// CUDA devices; empty if CUDA cannot be used.
    pub(super) devices: Vec<CudaDevice>,
    /// Reason why CUDA cannot be used; `None` if it can.
    pub(super) missing: Option<CudaMissing>,
}

/// Loads CUDA once.
pub(super) fn found() -> &'static Found {
    static FOUND: OnceLock<Found> = OnceLock::new();
    FOUND.get_or_init(|| {
        let loaded = load();
        // libtorch searches for CUDA once, and misses libraries that are loaded later.
        let available = Cuda::is_available();
        tracing::debug!(cuda = available, loaded = loaded.is_ok(), "looked for CUDA");
        match (available, loaded) {
            (true, _) => Found { devices: devices(), missing: None },
            (false, Err(missing)) => Found { devices: Vec::new(), missing: Some(missing) },
            (false, Ok(())) => Found { devices: Vec::new(), missing: Some(unavailable(driver::ask(), runtime_release())) },
        }
    })
}

fn devices() -> Vec<CudaDevice> {
    driver::ask().map(|driver| driver.devices).unwrap_or_else(|problem| {
        tracing::warn!(?problem, "libtorch uses CUDA, but the driver cannot be asked what the devices are");
        let unknown =
            |index| CudaDevice { index, name: "unknown".into(), compute_capability: "unknown".into(), memory_bytes: 0, free_bytes: None };
        (0..u32::try_from(Cuda::device_count()).unwrap_or(0)).map(unknown).collect()
    })
}

/// Returns the CUDA release of libtorch as `(major, minor)`; `None` if libtorch does not report it.
fn runtime_release() -> Option<(u32, u32)> {
    // SAFETY: the call has no arguments and returns a number. If it fails, libtorch keeps a message, which the caller must free.
    let version = unsafe {
        let version = torch_sys::at_context_version_cudart();
        let message = torch_sys::get_and_reset_last_err();
        let failed = !message.is_null();
        libc::free(message.cast());
        if failed { 0 } else { version }
    };
    let version = u32::try_from(version).ok().filter(|version| *version > 0)?;
    Some((version / 1000, version % 1000 / 10))
}

/// Loads the library by the loader's search path, then from the PyTorch of the user's Python.
fn load() -> Result<(), CudaMissing> {
    let searched = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let name = CString::new(LIBRARY).expect("a constant without zero bytes");
    let message = match Library::open(&name, Scope::Everyone) {
        Ok(_) => return Ok(()),
        Err(message) => message,
    };
    if !is_not_found(&message, LIBRARY) {
        return Err(cannot_load(&message));
    }
    if !python::is_wanted() {
        return Err(not_found(&searched, None));
    }
    let path = python::cuda_library().map_err(|problem| not_found(&searched, Some(&problem)))?;
    if !path.exists() {
        return Err(not_found(&searched, Some(&format!("its PyTorch is built without CUDA: there is no {}", path.display()))));
    }
    open_path(&path).map_err(|message| cannot_load(&message))
}

/// Loads NVRTC, from the folder of the library through which libtorch itself uses it.
pub(super) fn open_compiler() -> Result<(), String> {
    let symbol = loaded_symbol(c"_ZN2at4cuda26getCurrentDevicePropertiesEv").and_then(path_of);
    let folder = symbol.as_deref().and_then(|library| Path::new(library).parent()).ok_or("libtorch for CUDA is not loaded")?;
    open_path(&folder.join(COMPILER))
}

fn open_path(path: &Path) -> Result<(), String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    Library::open(&name, Scope::Everyone).map(drop)
}

/// Checks whether the loader reports that `file` itself is missing.
fn is_not_found(message: &str, file: &str) -> bool {
    message.starts_with(&format!("{file}: cannot open shared object file"))
}

fn not_found(searched: &str, python: Option<&str>) -> CudaMissing {
    let place = if searched.is_empty() { "LD_LIBRARY_PATH is not set".to_owned() } else { format!("not in LD_LIBRARY_PATH={searched}") };
    let python = python.map(|problem| format!("; {} is set, but {problem}", python::VARIABLE)).unwrap_or_default();
    CudaMissing {
        problem: CudaProblem::LibraryNotFound,
        reason: format!("{LIBRARY} was not found: {place}{python}"),
        advice: format!(
            "to compute on a GPU, name the lib folder of PyTorch {EXPECTED} with CUDA in LD_LIBRARY_PATH, or activate its Python environment \
             and set {}=1",
            python::VARIABLE
        ),
    }
}

/// Diagnoses from the loader's message why an existing library cannot be loaded.
fn cannot_load(message: &str) -> CudaMissing {
    let missing = message.split_once(": cannot open shared object file").map(|(file, _)| file);
    let (problem, advice) = if let Some(file) = missing {
        let advice =
            format!("install {file} (PyTorch's wheels bring it in packages named nvidia-…), and name its folder in LD_LIBRARY_PATH");
        (CudaProblem::DependencyNotFound, advice)
    } else if message.contains("undefined symbol") || message.contains("version `") {
        let advice = format!("it does not fit the libtorch that is loaded: take both from one PyTorch {EXPECTED}");
        (CudaProblem::VersionMismatch, advice)
    } else {
        (CudaProblem::LibraryBroken, format!("install PyTorch {EXPECTED} with CUDA anew, or take the file out of LD_LIBRARY_PATH"))
    };
    CudaMissing { problem, reason: format!("{LIBRARY} was found but cannot be loaded: {message}"), advice }
}

/// Diagnoses from the driver's answer why libtorch sees no device although its CUDA part is loaded.
fn unavailable(driver: Result<Driver, DriverProblem>, runtime: Option<(u32, u32)>) -> CudaMissing {
    let release = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let (problem, reason, advice) = match driver {
        Err(DriverProblem::Missing(message)) => (
            CudaProblem::DriverMissing,
            format!("libtorch for CUDA is loaded, but there is no NVIDIA driver: {message}"),
            "install the driver; in a container, start it with access to the GPU (docker run --gpus all)".to_owned(),
        ),
        Err(DriverProblem::Failed(message)) => (
            CudaProblem::DriverFailed,
            format!("the NVIDIA driver fails: {message}"),
            "see whether nvidia-smi works; after an update of the driver, restart the machine".to_owned(),
        ),
        Err(DriverProblem::NoDevice) => (
            CudaProblem::NoDevice,
            format!("the NVIDIA driver sees no device{}", hidden(std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())),
            "see whether nvidia-smi lists one and whether CUDA_VISIBLE_DEVICES hides it".to_owned(),
        ),
        Ok(Driver { cuda, .. }) if runtime.is_some_and(|runtime| cuda.0 < runtime.0) => (
            CudaProblem::DriverTooOld,
            format!(
                "the NVIDIA driver runs CUDA up to {}, libtorch is built for {}",
                release(cuda),
                runtime.map(release).unwrap_or_default()
            ),
            "update the driver, or take a PyTorch that is built for an older CUDA".to_owned(),
        ),
        Ok(driver) => (
            CudaProblem::Unexplained,
            format!("the NVIDIA driver (CUDA {}) sees {} devices, but libtorch uses none", release(driver.cuda), driver.devices.len()),
            format!("check that all parts of libtorch come from one PyTorch {EXPECTED}"),
        ),
    };
    CudaMissing { problem, reason, advice }
}

fn hidden(visible: Option<&str>) -> String {
    visible.map(|visible| format!(" (CUDA_VISIBLE_DEVICES={visible:?})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> CudaProblem {
        cannot_load(message).problem
    }

    #[test]
    fn messages_of_the_loader_are_told_apart() {
        let absent = "libtorch_cuda.so: cannot open shared object file: No such file or directory";
        assert!(is_not_found(absent, LIBRARY) && !is_not_found("libcublas.so.13: cannot open shared object file: No such file", LIBRARY));
        assert_eq!(problem("libcublas.so.13: cannot open shared object file: No such file or directory"), CudaProblem::DependencyNotFound);
        assert_eq!(problem("/a/libtorch_cuda.so: undefined symbol: _ZN3c104cuda"), CudaProblem::VersionMismatch);
        assert_eq!(problem("/a/libtorch_cuda.so: file too short"), CudaProblem::LibraryBroken);
        assert!(cannot_load("libcublas.so.13: cannot open shared object file").advice.contains("libcublas.so.13"));
    }

    #[test]
    fn the_driver_explains_what_libtorch_does_not() {
        let driver = |cuda| Ok(Driver { cuda, devices: Vec::new() });
        let cases = [
            (Err(DriverProblem::Missing("gone".into())), CudaProblem::DriverMissing),
            (Err(DriverProblem::Failed("error 803".into())), CudaProblem::DriverFailed),
            (Err(DriverProblem::NoDevice), CudaProblem::NoDevice),
            (driver((12, 4)), CudaProblem::DriverTooOld),
            (driver((13, 0)), CudaProblem::Unexplained),
        ];
        for (driver, problem) in cases {
            assert_eq!(unavailable(driver, Some((13, 0))).problem, problem);
        }
        assert!(unavailable(driver((12, 4)), Some((13, 0))).reason.contains("CUDA up to 12.4, libtorch is built for 13.0"));
        assert_eq!(unavailable(driver((12, 4)), None).problem, CudaProblem::Unexplained);
    }

    #[test]
    fn where_it_was_looked_for_is_said() {
        assert!(not_found("", None).reason.ends_with("LD_LIBRARY_PATH is not set"));
        let reason = not_found("/a:/b", Some("python3 has no PyTorch")).reason;
        assert!(reason.contains("not in LD_LIBRARY_PATH=/a:/b; LIBTORCH_USE_PYTORCH is set, but python3 has no PyTorch"), "{reason}");
    }
}
