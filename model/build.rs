//! Links binaries to the libtorch that torch-sys found, so that they start without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        // `cargo::metadata` reaches the build scripts of direct dependents as `DEP_CM3FLOW_MODEL_LIBTORCH_LIB`.
        println!("cargo::metadata=libtorch_lib={folder}");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
