//! Gives the `cm3flow` binary and this crate's tests the rpath of libtorch: link arguments of a library do not reach its dependents.

fn main() {
    // Without this line, a change of any file of this crate, even of a test, would recompile the whole crate.
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_CM3FLOW_MODEL_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
