//! Gives the tests of this crate the rpath of libtorch, because link arguments of a library do not reach its dependents.

fn main() {
    // Without this line, a change in any file of this crate would recompile all of it.
    println!("cargo::rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_CM3FLOW_MODEL_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
