//! MKL's matrix products on CPUs: requests those whose sums do not depend on thread timing, and names the ones in use.

use std::ffi::c_int;
use std::sync::OnceLock;

use super::library::loaded_symbol;

/// Branch AVX2 of MKL's conditional numerical reproducibility: `MKL_CBWR_AVX2` of mkl_types.h.
const AVX2: c_int = 10;
/// Request for the branch in use with its flags: `MKL_CBWR_ALL`.
const ALL: c_int = !0;
/// Flag of a branch: `MKL_CBWR_STRICT`.
const STRICT: c_int = 0x1_0000;
/// Answer to an accepted branch: `MKL_CBWR_SUCCESS`.
const SUCCESS: c_int = 0;
/// Vendor in CPUID of processors for which MKL supports all branches.
const INTEL: &str = "GenuineIntel";

/// MKL's functions to choose products, and the processor's vendor, which limits the choice.
struct Mkl {
    /// `int mkl_cbwr_set(int)` of mkl_service.h.
    set: extern "C" fn(c_int) -> c_int,
    /// `int mkl_cbwr_get(int)`.
    get: extern "C" fn(c_int) -> c_int,
    /// Name of the processor's vendor in CPUID.
    maker: String,
}

/// Makes the MKL inside libtorch use its AVX2 products, unless the user chose others by `MKL_CBWR`. MKL accepts this only before its first
/// product. Returns the products in use for the numerics class; `None` if they are those for AVX2.
///
/// On Intel's processors with AVX-512, MKL by default uses the products for AVX-512. In the first step of a process these sometimes give
/// other last bits, even if `MKL_CBWR` asks for equal bits. Convolutions and products in bf16 are oneDNN's, and stay as they are. On other
/// vendors' processors MKL refuses every named branch, and treats one in `MKL_CBWR` as `AUTO`; it knows only `COMPATIBLE`. Its default
/// stays in use there: it repeated in every measured run, as did `AUTO` (`tests/bench/RESULTS.md`). An MKL without these functions, or a
/// processor without AVX2, is left as it is.
pub(super) fn products_in_use() -> Option<&'static str> {
    static IN_USE: OnceLock<Option<String>> = OnceLock::new();
    let chosen = || std::env::var_os("MKL_CBWR").map(|products| products.to_string_lossy().into_owned());
    IN_USE.get_or_init(|| choose(loaded().as_ref(), chosen(), has_avx2())).as_deref()
}

fn choose(mkl: Option<&Mkl>, chosen_by_user: Option<String>, has_avx2: bool) -> Option<String> {
    match (mkl, chosen_by_user) {
        (Some(mkl), Some(_)) if mkl.maker != INTEL => Some(mkl.named()),
        (_, Some(products)) => Some(format!("MKL_CBWR={products}")),
        (Some(mkl), None) if has_avx2 && (mkl.set)(AVX2) != SUCCESS => Some(mkl.named()),
        _ => None,
    }
}

impl Mkl {
    /// Returns the branch in use, as `MKL_CBWR` spells it, and the processor's vendor: MKL's choice among its kernels depends on both.
    fn named(&self) -> String {
        let branch = (self.get)(ALL);
        let name = match branch & !STRICT {
            1 => "OFF".to_owned(),
            2 => "AUTO".to_owned(),
            3 => "COMPATIBLE".to_owned(),
            AVX2 => "AVX2".to_owned(),
            other => other.to_string(),
        };
        let strict = if branch & STRICT == 0 { "" } else { ",STRICT" };
        format!("MKL_CBWR={name}{strict} on {}", self.maker)
    }
}

fn loaded() -> Option<Mkl> {
    let function = |name| {
        let address = loaded_symbol(name)?;
        // SAFETY: mkl_service.h declares both as functions from int to int; these are their internal names.
        Some(unsafe { std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn(c_int) -> c_int>(address.as_ptr()) })
    };
    Some(Mkl { set: function(c"mkl_serv_cbwr_set")?, get: function(c"mkl_serv_cbwr_get")?, maker: maker() })
}

#[cfg(target_arch = "x86_64")]
fn maker() -> String {
    let leaf = std::arch::x86_64::__cpuid(0);
    String::from_utf8_lossy(&[leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat()).into_owned()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn maker() -> String {
    std::env::consts::ARCH.to_owned()
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx2() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn accept(branch: c_int) -> c_int {
        assert_eq!(branch, AVX2);
        SUCCESS
    }

    /// Answers as MKL does on AMD's processors: `MKL_CBWR_ERR_UNSUPPORTED_BRANCH`.
    extern "C" fn refuse(branch: c_int) -> c_int {
        assert_eq!(branch, AVX2);
        -3
    }

    extern "C" fn off(asked: c_int) -> c_int {
        assert_eq!(asked, ALL);
        1
    }

    extern "C" fn strictly_automatic(_: c_int) -> c_int {
        2 | STRICT
    }

    fn mkl(set: extern "C" fn(c_int) -> c_int, get: extern "C" fn(c_int) -> c_int, maker: &str) -> Mkl {
        Mkl { set, get, maker: maker.to_owned() }
    }

    #[test]
    fn products_that_mkl_accepts_need_no_name() {
        assert_eq!(choose(Some(&mkl(accept, off, INTEL)), None, true), None);
        assert_eq!(choose(Some(&mkl(accept, off, "AuthenticAMD")), None, true), None, "should MKL ever do so");
        let asked_in_vain = mkl(refuse, off, INTEL);
        assert_eq!(choose(Some(&asked_in_vain), None, false), None, "without AVX2 there is nothing to ask for");
        assert_eq!(choose(None, None, true), None, "another library computes the products");
    }

    #[test]
    fn products_in_use_after_a_refusal_are_named_with_the_processor() {
        assert_eq!(choose(Some(&mkl(refuse, off, "AuthenticAMD")), None, true).as_deref(), Some("MKL_CBWR=OFF on AuthenticAMD"));
        // On Intel, a refusal means that a product was computed before.
        assert_eq!(choose(Some(&mkl(refuse, off, INTEL)), None, true).as_deref(), Some("MKL_CBWR=OFF on GenuineIntel"));
    }

    #[test]
    fn products_of_the_user_are_named_as_mkl_took_them() {
        let chosen = || Some("AVX2,STRICT".to_owned());
        assert_eq!(choose(Some(&mkl(refuse, off, INTEL)), chosen(), true).as_deref(), Some("MKL_CBWR=AVX2,STRICT"));
        assert_eq!(choose(None, chosen(), true).as_deref(), Some("MKL_CBWR=AVX2,STRICT"));
        let elsewhere = mkl(refuse, strictly_automatic, "AuthenticAMD");
        assert_eq!(choose(Some(&elsewhere), chosen(), true).as_deref(), Some("MKL_CBWR=AUTO,STRICT on AuthenticAMD"));
    }

    /// On every vendor's processor, either MKL accepts the branch, or the class names the products in use.
    #[test]
    fn products_that_this_processor_computes_are_those_named() {
        if !has_avx2() || std::env::var_os("MKL_CBWR").is_some() {
            return;
        }
        let named = products_in_use();
        let mkl = loaded().expect("libtorch has MKL inside");
        match named {
            None => assert_eq!((mkl.get)(ALL), AVX2),
            Some(named) => assert!(named == mkl.named() && mkl.maker != INTEL, "{named} on {}", mkl.maker),
        }
    }
}
