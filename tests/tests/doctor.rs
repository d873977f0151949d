//! `doctor`: the offers of a machine, and why CUDA is not used.

use std::path::Path;
use std::process::Command;

use cm3flow_tests::tools::skip;
use serde_json::Value;

/// Runs `doctor --json` with the variables that decide where CUDA is looked for.
fn doctor(variables: &[(&str, &Path)]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cm3flow-faulty"));
    command.args(["doctor", "--json"]).env_remove("LIBTORCH_USE_PYTORCH").env_remove("VIRTUAL_ENV");
    let library_path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    for (name, value) in variables {
        let value = value.display().to_string();
        command.env(name, if *name == "LD_LIBRARY_PATH" { format!("{value}:{library_path}") } else { value });
    }
    let output = command.output().expect("the binary was just built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn doctor_says_what_the_machine_offers() {
    let report = doctor(&[]);
    assert_eq!((&report["libtorch"]["version"], &report["libtorch"]["problem"]), (&"2.11.0".into(), &Value::Null), "{report}");
    assert!(report["libtorch"]["path"].as_str().is_some_and(|path| Path::new(path).is_file()), "{report}");
    assert!(report["memory"]["total_bytes"].as_u64() >= report["memory"]["available_bytes"].as_u64(), "{report}");
    assert!(report["processors"].as_u64().is_some_and(|count| count > 0), "{report}");
    let shown = Command::new(env!("CARGO_BIN_EXE_cm3flow-faulty")).arg("doctor").output().expect("the binary was just built").stdout;
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.starts_with("device") && shown.contains("libtorch   2.11.0, from /"), "{shown}");
}

#[test]
fn doctor_says_exactly_why_there_is_no_cuda() {
    if doctor(&[])["cuda_missing"]["problem"] != "library_not_found" {
        return skip(
            "doctor_says_exactly_why_there_is_no_cuda",
            "the libtorch that the binary is linked against has CUDA, and it is found",
        );
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let problem = |variables: &[(&str, &Path)]| {
        let missing = doctor(variables)["cuda_missing"].clone();
        (missing["problem"].as_str().unwrap_or_default().to_owned(), format!("{}; {}", missing["reason"], missing["advice"]))
    };
    let (kind, reason) = problem(&[("LD_LIBRARY_PATH", folder.path())]);
    assert_eq!(kind, "library_not_found", "{reason}");
    assert!(reason.contains(&folder.path().display().to_string()) && reason.contains("LIBTORCH_USE_PYTORCH=1"), "{reason}");

    // A Python without PyTorch.
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).expect("a temporary folder");
    let python = |script: &str| {
        let path = bin.join("python3");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a temporary folder");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    };
    let wanted = [("LIBTORCH_USE_PYTORCH", Path::new("1")), ("PATH", bin.as_path())];
    python("echo \"PackageNotFoundError: torch\" >&2; exit 1");
    let (kind, reason) = problem(&wanted);
    assert!(kind == "library_not_found" && reason.contains("python3 has no PyTorch: PackageNotFoundError"), "{kind}: {reason}");
    python("echo 2.10.0+cu130; echo /somewhere/torch");
    let (kind, reason) = problem(&wanted);
    assert!(kind == "library_not_found" && reason.contains("PyTorch 2.10.0+cu130, cm3flow is built for 2.11.0"), "{kind}: {reason}");
    python(&format!("echo 2.11.0+cpu; echo {}", folder.path().display()));
    let (kind, reason) = problem(&wanted);
    assert!(kind == "library_not_found" && reason.contains("built without CUDA"), "{kind}: {reason}");

    // A file that is no library, found in either way.
    std::fs::create_dir(folder.path().join("lib")).expect("a temporary folder");
    std::fs::write(folder.path().join("lib/libtorch_cuda.so"), "no library").expect("a temporary folder");
    let (kind, reason) = problem(&wanted);
    assert!(kind == "library_broken" && reason.contains("lib/libtorch_cuda.so"), "{kind}: {reason}");
    let (kind, reason) = problem(&[("LD_LIBRARY_PATH", &folder.path().join("lib"))]);
    assert!(kind == "library_broken" && reason.contains("found but cannot be loaded"), "{kind}: {reason}");
}
