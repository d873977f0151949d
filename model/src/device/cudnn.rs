//! Convolutions on GPUs that compute in the type that is asked for, with the same bits each time.

use std::ffi::c_void;
use std::sync::Once;

use super::library::loaded_symbol;

/// Makes cuDNN compute f32 in f32, where PyTorch lets it round factors to TF32 (ten bits), and take only algorithms whose results repeat.
///
/// libtorch has no C function for either; these are methods of the one [`at::Context`] under their C++ names. A libtorch without them is left alone:
/// [`super::Libtorch::problem`] says that it is not the release that cm3flow is built for.
///
/// [`at::Context`]: https://github.com/pytorch/pytorch/blob/v2.11.0/aten/src/ATen/Context.h
pub(super) fn choose_exact_convolutions() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        set(c"_ZN2at7Context17setAllowTF32CuDNNEb", false);
        set(c"_ZN2at7Context21setDeterministicCuDNNEb", true);
    });
}

/// Calls `void at::Context::…(bool)`.
fn set(method: &std::ffi::CStr, value: bool) {
    let (Some(method), Some(context)) = (loaded_symbol(method), context()) else { return };
    // SAFETY: this is how the C++ ABI calls such a method: with the object's address before its argument.
    let method = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, bool)>(method.as_ptr()) };
    method(context, value);
}

/// Address of the context: what `Context& at::globalContext()` returns.
fn context() -> Option<*mut c_void> {
    let function = loaded_symbol(c"_ZN2at13globalContextEv")?;
    // SAFETY: the function takes nothing; a reference is returned as an address, which is that of a static.
    let function = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(function.as_ptr()) };
    Some(function())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_what_was_chosen() {
        choose_exact_convolutions();
        let method = loaded_symbol(c"_ZNK2at7Context18deterministicCuDNNEv").expect("libtorch 2.11 has it");
        // SAFETY: `bool at::Context::deterministicCuDNN() const`.
        let is_deterministic = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void) -> bool>(method.as_ptr()) };
        assert!(is_deterministic(context().expect("libtorch has a context")));
        assert!(loaded_symbol(c"_ZN2at7Context17setAllowTF32CuDNNEb").is_some(), "the other choice has the name that is called");
    }
}
