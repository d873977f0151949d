//! Matrix products on CPUs whose sums do not depend on how threads happen to run.

use std::ffi::c_int;
use std::sync::Once;

use super::library::loaded_symbol;

/// Branch AVX2 of MKL's conditional numerical reproducibility: `MKL_CBWR_AVX2` of mkl_types.h.
const AVX2: c_int = 10;

/// Makes the MKL inside libtorch take its AVX2 products, unless the user chose others by `MKL_CBWR`. MKL heeds it up to its first product.
///
/// Those for AVX-512, which are its own choice where there is AVX-512, now and then give other last bits in the first step of a process, even
/// where `MKL_CBWR` asks for the same bits; convolutions and products in bf16 are oneDNN's, and stay as they are. An MKL that does not offer
/// the function, or a processor without AVX2, is left alone.
pub(super) fn choose_reproducible_products() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        if chosen_by_user().is_some() {
            return;
        }
        if let Some(address) = loaded_symbol(c"mkl_serv_cbwr_set") {
            // SAFETY: this is what MKL declares as `int mkl_cbwr_set(int)` in mkl_service.h, under the name that it has inside.
            let set = unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn(c_int) -> c_int>(address.as_ptr()) };
            set(AVX2);
        }
    });
}

/// The products that the user chose by `MKL_CBWR`.
pub(super) fn chosen_by_user() -> Option<String> {
    std::env::var_os("MKL_CBWR").map(|products| products.to_string_lossy().into_owned())
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Asks for the branch that is in use: `MKL_CBWR_BRANCH` of mkl_types.h.
    const BRANCH: c_int = 1;

    #[test]
    fn products_are_those_of_avx2() {
        if !std::is_x86_feature_detected!("avx2") || chosen_by_user().is_some() {
            return;
        }
        choose_reproducible_products();
        let address = loaded_symbol(c"mkl_serv_cbwr_get").expect("libtorch has MKL inside");
        // SAFETY: this is what MKL declares as `int mkl_cbwr_get(int)` in mkl_service.h, under the name that it has inside.
        let get = unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn(c_int) -> c_int>(address.as_ptr()) };
        assert_eq!(get(BRANCH), AVX2);
    }
}
