//! Passes the versions of the decoding crates from the lock file to `derive`: codes depend on them.

use std::path::Path;

/// Crates that decide the values of a prepared picture.
const CRATES: [&str; 7] = ["gif", "image", "image-webp", "imageproc", "png", "tiff", "zune-jpeg"];

fn main() {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder of the crate");
    let lock = Path::new(&folder).join("../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    println!("cargo::rerun-if-changed=build.rs");
    let text = std::fs::read_to_string(&lock).expect("the workspace has a Cargo.lock");
    let versions: Vec<String> = CRATES.iter().map(|name| format!("{name} {}", locked(&text, name))).collect();
    println!("cargo::rustc-env=CM3FLOW_DECODERS={}", versions.join(","));
}

/// Returns the version of the crate `name`, or all its versions joined by `+`.
fn locked(lock: &str, name: &str) -> String {
    let field = |entry: &str, field: &str| {
        let value = entry.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(" = \""))?;
        Some(value.trim_end_matches('"').to_owned())
    };
    let of_name = lock.split("[[package]]").filter(|entry| field(entry, "name").as_deref() == Some(name));
    let versions: Vec<String> = of_name.filter_map(|entry| field(entry, "version")).collect();
    assert!(!versions.is_empty(), "Cargo.lock has no crate {name}");
    versions.join("+")
}
