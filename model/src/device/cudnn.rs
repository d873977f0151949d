//! Settings of cuDNN: convolutions in the requested type, with repeatable bits.

use std::ffi::c_void;
use std::sync::Once;

use super::library::loaded_symbol;

/// Makes cuDNN compute f32 in f32 and use only algorithms with repeatable results. By default PyTorch lets it round factors to TF32 (ten
/// bits), which changed 2 of 1,024 codes.
///
/// libtorch has no C function for either setting. Both are methods of the global [`at::Context`], called by their C++ names. A libtorch
/// without them is left as it is; [`super::Libtorch::problem`] then reports that cm3flow is built for another release.
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
    // SAFETY: the C++ ABI calls such a method with the object's address before its argument.
    let method = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void, bool)>(method.as_ptr()) };
    method(context, value);
}

/// Returns the address of the context, as `Context& at::globalContext()` does.
fn context() -> Option<*mut c_void> {
    let function = loaded_symbol(c"_ZN2at13globalContextEv")?;
    // SAFETY: the function has no arguments, and returns a reference as the address of a static.
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
