//! Shared libraries opened at run time. Only this module calls the dynamic loader.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

/// A loaded library. It is never closed, so its registrations and functions stay valid.
pub(super) struct Library(NonNull<c_void>);

/// Visibility of a library's symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// For all libraries loaded later.
    Everyone,
    /// For the holder of the [`Library`].
    Holder,
}

impl Library {
    /// Loads a library by path, or by file name along the loader's search path.
    ///
    /// # Errors
    /// The message of the loader.
    pub(super) fn open(name: &CStr, scope: Scope) -> Result<Self, String> {
        let visibility = if scope == Scope::Everyone { libc::RTLD_GLOBAL } else { libc::RTLD_LOCAL };
        // SAFETY: the name is a valid C string. The initialisers of the libraries loaded here (libtorch, the CUDA driver and its management
        // library) are meant to be run by dlopen; PyTorch and the CUDA runtime load them so.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | visibility) };
        NonNull::new(handle).map(Self).ok_or_else(last_error)
    }

    /// Returns the function `name` as a pointer of type `F`.
    ///
    /// # Safety
    /// `F` must be an `extern "C"` function pointer of the type that the library declares for `name`.
    pub(super) unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle came from dlopen and is never closed; the name is a valid C string.
        let address = NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })?;
        // SAFETY: both have the size of a pointer, and the caller guarantees the type.
        Some(unsafe { std::mem::transmute_copy::<NonNull<c_void>, F>(&address) })
    }
}

/// Returns the address of a symbol that some library of the process exports.
pub(super) fn loaded_symbol(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: RTLD_DEFAULT needs no handle, and the name is a valid C string.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Returns the path of the library that has `symbol`.
pub(super) fn path_of(symbol: NonNull<c_void>) -> Option<String> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: `info` is a valid place for the answer; the address is only compared with those of loaded libraries.
    let is_found = unsafe { libc::dladdr(symbol.as_ptr(), &raw mut info) } != 0;
    // SAFETY: after success, the name is null or a C string that lives as long as the library, which is never closed.
    (is_found && !info.dli_fname.is_null()).then(|| unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned())
}

fn last_error() -> String {
    // SAFETY: dlerror returns null or a C string that is valid until this thread's next call of the loader.
    let message = unsafe {
        let message = libc::dlerror();
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    message.unwrap_or_else(|| "the dynamic loader gives no reason".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_c_library_are_found_and_called() {
        let library = Library::open(c"libc.so.6", Scope::Holder).expect("every Linux has one");
        // SAFETY: `int abs(int)`.
        let abs = unsafe { library.function::<extern "C" fn(i32) -> i32>(c"abs") }.expect("part of C");
        assert_eq!(abs(-3), 3);
        // SAFETY: the symbol does not exist, so nothing is called.
        assert!(unsafe { library.function::<extern "C" fn()>(c"no_such_function") }.is_none());
    }

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let Err(error) = Library::open(c"libno_such_thing.so", Scope::Holder) else { panic!("it does not exist") };
        assert!(error.contains("libno_such_thing.so"), "{error}");
    }

    #[test]
    fn symbols_are_traced_to_their_files() {
        let path = loaded_symbol(c"dlopen").and_then(path_of).expect("it was just called");
        assert!(path.contains(".so"), "{path}");
        assert!(loaded_symbol(c"no_such_symbol").is_none());
    }
}
