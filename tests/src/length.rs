//! How thorough a run of the tests is: `make test` takes minutes, `make test-long` hours.

use std::env;
use std::ffi::OsStr;

/// Whether tests run at full length: `CM3FLOW_LONG` is 1, as `make test-long` sets it.
///
/// For a test that looks at some places in `make test` and at all of them here. One that belongs here alone is marked `#[ignore = "long"]` instead.
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
