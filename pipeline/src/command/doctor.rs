//! `doctor`: devices and memory of this machine, capabilities of a configuration's store, and causes of missing ones.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use cm3flow_model::device::{self, CudaDevice, DeviceReport};
use serde::Serialize;
use serde_json::json;

use super::{ConfigArgs, Session, output};
use crate::error::Result;
use crate::store::{Finding, Probe, Store};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// A configuration, whose store is tried out too: creates, ranges, listings, deletions, clock, free space
    config: Option<PathBuf>,
    /// Store to use instead of the configuration's
    #[arg(long, value_name = "PATH OR URL", requires = "config")]
    store: Option<String>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
    /// Limit of the container in bytes, if below the total.
    limit_bytes: Option<u64>,
}

pub(super) async fn doctor(args: DoctorArgs, session: &Session) -> Result<()> {
    // The store comes first: a mistake in the configuration then shows before libtorch is loaded.
    let probe = match args.config {
        Some(config) => Some(probe(ConfigArgs { config, store: args.store }, session).await?),
        None => None,
    };
    let report = device::report();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = memory();
    if args.json {
        let mut all = json!(report);
        all["processors"] = json!(processors);
        all["memory"] = json!(memory);
        all["store"] = json!(probe);
        output::print(&all.to_string());
    } else {
        output::print(&format!("{}{}", text(&report, processors, memory), probe.map(|probe| store_text(&probe)).unwrap_or_default()));
    }
    Ok(())
}

/// Probes the store of a configuration, and leaves the store as it was.
async fn probe(args: ConfigArgs, session: &Session) -> Result<Probe> {
    let (config, folder) = args.load(session)?;
    let was_there = Store::may_exist(&config.dataset.store, &folder);
    let store = Store::open_with(&config.dataset.store, &folder, &config.store)?;
    let probe = Probe::of(&store).await;
    if !was_there {
        // The address of a local store is its folder; the probe left it empty.
        let _ = std::fs::remove_dir(Path::new(store.address()));
    }
    Ok(probe)
}

fn store_text(probe: &Probe) -> String {
    let mut out = format!("store      {}\n", probe.store);
    for Finding { check, is_good, found, advice } in &probe.findings {
        let _ = writeln!(out, "  {check:<8} {} {found}", if *is_good { "ok  " } else { "LACKS" });
        if !is_good {
            let _ = writeln!(out, "           {advice}");
        }
    }
    out
}

fn text(report: &DeviceReport, processors: usize, memory: Option<Memory>) -> String {
    let DeviceReport { device, cuda_devices, cuda_missing, libtorch, threads, cpu_capability } = report;
    let mut out = format!("device     {device}\n");
    for CudaDevice { index, name, compute_capability, memory_bytes, free_bytes } in cuda_devices {
        let free = free_bytes.map(|free| format!(", {} free", output::bytes(free))).unwrap_or_default();
        let _ = writeln!(out, "cuda {index}     {name}, {}{free}, compute capability {compute_capability}", output::bytes(*memory_bytes));
    }
    if let Some(missing) = cuda_missing {
        let _ = writeln!(out, "no CUDA    {}\n           {}", missing.reason, missing.advice);
    }
    let _ = writeln!(out, "libtorch   {}, from {}", libtorch.version, libtorch.path.as_deref().unwrap_or("an unknown place"));
    if let Some(problem) = &libtorch.problem {
        let _ = writeln!(out, "           {problem}");
    }
    let _ = writeln!(out, "processor  {processors} threads of the machine, {threads} of an operation, kernels for {cpu_capability}");
    match memory {
        Some(Memory { total_bytes, available_bytes, limit_bytes }) => {
            let limit = limit_bytes.map(|limit| format!("; the container may take {}", output::bytes(limit))).unwrap_or_default();
            let _ = writeln!(out, "memory     {}, {} available{limit}", output::bytes(total_bytes), output::bytes(available_bytes));
        }
        None => out.push_str("memory     unknown: /proc/meminfo cannot be read\n"),
    }
    out
}

fn memory() -> Option<Memory> {
    let read = |path| std::fs::read_to_string(path).ok();
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].into_iter().find_map(read);
    memory_of(&read("/proc/meminfo")?, limit.as_deref())
}

/// Parses memory from the text of `/proc/meminfo` and a control group's limit.
fn memory_of(meminfo: &str, limit: Option<&str>) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes << 10)
    };
    let total_bytes = bytes("MemTotal:")?;
    let limit_bytes = limit.and_then(|limit| limit.trim().parse().ok()).filter(|limit| *limit < total_bytes);
    Some(Memory { total_bytes, available_bytes: bytes("MemAvailable:")?, limit_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_the_kernel_writes() {
        let meminfo = "MemTotal:       24000000 kB\nMemFree:          100 kB\nMemAvailable:   22000000 kB\n";
        let expected = Memory { total_bytes: 24_000_000 << 10, available_bytes: 22_000_000 << 10, limit_bytes: None };
        assert_eq!(memory_of(meminfo, None), Some(expected));
        assert_eq!(memory_of(meminfo, Some("max\n")), Some(expected));
        assert_eq!(memory_of(meminfo, Some("9223372036854771712\n")), Some(expected));
        assert_eq!(memory_of(meminfo, Some("1073741824\n")), Some(Memory { limit_bytes: Some(1 << 30), ..expected }));
        assert_eq!(memory_of("MemTotal: 5 kB\n", None), None);
    }
}
