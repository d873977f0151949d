//! Length of a test run: `make test` takes minutes, `make test-long` hours.

use std::env;
use std::ffi::OsStr;

/// Checks whether tests run at full length: `CM3FLOW_LONG` is 1, as `make test-long` sets it.
///
/// It is for a test that tries some places in `make test` and all of them in `make test-long`. A test for `make test-long` alone is marked
/// `#[ignore = "long"]` instead.
///
/// ```
/// let step = if cm3flow_tests::long() { 1 } else { 7 };
/// for request in (0..100).step_by(step) {
///     // …
/// }
/// ```
#[must_use]
pub fn long() -> bool {
    env::var_os("CM3FLOW_LONG").as_deref() == Some(OsStr::new("1"))
}
