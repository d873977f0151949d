//! Devices: the choice of one, and settings that make its results repeatable bit by bit. CUDA is loaded here, before the first tensor.
//!
//! The binary is linked without `libtorch_cuda`. It is loaded by `dlopen` where a machine has it: in `LD_LIBRARY_PATH`, or in the PyTorch
//! of the Python that `LIBTORCH_USE_PYTORCH` selects. Its static initialisers register the device with the libtorch in the process.

mod cuda;
mod cudnn;
mod driver;
mod library;
mod libtorch;
mod mkl;
mod python;

use cm3flow_schemas::unit::NumericsClass;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

pub use cuda::{CudaMissing, CudaProblem};
pub use driver::CudaDevice;
pub use libtorch::Libtorch;

use crate::error::ModelError;

/// Choice of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// Report on the devices of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceReport {
    /// Device chosen by `auto`: `cpu` or `cuda`.
    pub device: String,
    /// CUDA devices; empty if CUDA cannot be used.
    pub cuda_devices: Vec<CudaDevice>,
    /// Reason why CUDA cannot be used, with advice; `None` if it can.
    pub cuda_missing: Option<CudaMissing>,
    /// libtorch of this process.
    pub libtorch: Libtorch,
    /// Number of threads of one operation.
    pub threads: u32,
    /// Widest instruction set that libtorch uses: `default`, `avx2` or `avx512`. MKL's matrix products are appended where they are not
    /// those for AVX2.
    pub cpu_capability: String,
}

/// Opens the device for `choice`. The first call also makes results repeatable bit by bit.
///
/// # Errors
/// [`ModelError::CudaUnavailable`] if CUDA was chosen and cannot be used.
pub fn open(choice: DeviceChoice) -> Result<Device, ModelError> {
    let _ = mkl::products_in_use();
    cudnn::choose_exact_convolutions();
    match (choice, &cuda::found().missing) {
        (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, Some(_)) => Ok(Device::Cpu),
        (DeviceChoice::Auto | DeviceChoice::Cuda, None) => Ok(Device::Cuda(0)),
        (DeviceChoice::Cuda, Some(CudaMissing { reason, advice, .. })) => {
            Err(ModelError::CudaUnavailable { reason: reason.clone(), advice: advice.clone() })
        }
    }
}

/// Reports on the devices of this machine.
#[must_use]
pub fn report() -> DeviceReport {
    let found = cuda::found();
    DeviceReport {
        device: if found.missing.is_some() { "cpu" } else { "cuda" }.to_owned(),
        cuda_devices: found.devices.clone(),
        cuda_missing: found.missing.clone(),
        libtorch: libtorch::loaded().clone(),
        threads: threads(),
        cpu_capability: cpu_capability(),
    }
}

/// Returns the numerics class: everything that decides the results of a tensor stage to the bit.
#[must_use]
pub fn numerics_class(device: Device, dtype: Kind, batch_size: u32) -> NumericsClass {
    let dtype = match dtype {
        Kind::Float => "float32".to_owned(),
        Kind::BFloat16 => "bfloat16".to_owned(),
        Kind::Half => "float16".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    NumericsClass {
        device: name(device),
        dtype,
        batch_size,
        libtorch: libtorch::loaded().version.clone(),
        threads: threads(),
        cpu_capability: cpu_capability(),
    }
}

/// Returns `cpu`, or `cuda` with the name of the GPU, by which libraries choose their kernels.
fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => {
            let found = cuda::found().devices.get(index);
            format!("cuda {}", found.map_or("unknown", |device| device.name.as_str()))
        }
        _ => "cpu".to_owned(),
    }
}

/// Loads NVRTC, the compiler of kernels.
///
/// # Errors
/// [`ModelError::Kernels`] if PyTorch's packages lack it.
pub(crate) fn open_compiler() -> Result<(), ModelError> {
    cuda::open_compiler().map_err(|reason| ModelError::Kernels { reason })
}

/// Sets the number of threads of one operation, 1 or more, for this thread and for threads that use libtorch for the first time afterwards.
pub fn set_threads(threads: u32) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

fn threads() -> u32 {
    u32::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// Returns the kernels that ATen chooses, by its own rule, and the matrix products where they are not MKL's for AVX2.
///
/// # Source
/// `compute_cpu_capability` in PyTorch's aten/src/ATen/native/DispatchStub.cpp.
fn cpu_capability() -> String {
    let kernels = match std::env::var("ATEN_CPU_CAPABILITY").as_deref() {
        Ok("default") => "default",
        Ok("avx2") => "avx2",
        Ok("avx512") => "avx512",
        _ => detected_capability(),
    };
    mkl::products_in_use().map_or_else(|| kernels.to_owned(), |products| format!("{kernels}, {products}"))
}

#[cfg(target_arch = "x86_64")]
fn detected_capability() -> &'static str {
    let fma = std::is_x86_feature_detected!("fma");
    let wide =
        std::is_x86_feature_detected!("avx512vl") && std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512dq");
    match (fma, wide, std::is_x86_feature_detected!("avx2")) {
        (true, true, _) => "avx512",
        (true, false, true) => "avx2",
        _ => "default",
    }
}

#[cfg(not(target_arch = "x86_64"))]
const fn detected_capability() -> &'static str {
    "default"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_says_what_open_does() {
        let report = report();
        assert_eq!(report.device == "cuda", report.cuda_missing.is_none());
        assert_eq!(report.cuda_devices.is_empty(), report.cuda_missing.is_some());
        assert_eq!(open(DeviceChoice::Cpu).expect("a CPU is always there"), Device::Cpu);
        assert_eq!(open(DeviceChoice::Auto).expect("auto never fails").is_cuda(), report.device == "cuda");
        match open(DeviceChoice::Cuda) {
            Ok(device) => assert_eq!(device, Device::Cuda(0)),
            Err(error) => assert!(error.to_string().starts_with("cuda was asked for"), "{error}"),
        }
    }

    #[test]
    fn choices_are_written_in_snake_case() {
        assert_eq!(serde_json::to_string(&DeviceChoice::default()).expect("plain"), "\"auto\"");
        assert_eq!(serde_json::from_str::<DeviceChoice>("\"cuda\"").expect("a choice"), DeviceChoice::Cuda);
    }

    #[test]
    fn numerics_class_names_dtype_as_pytorch_does() {
        let class = numerics_class(Device::Cpu, Kind::Float, 8);
        assert_eq!((class.device.as_str(), class.dtype.as_str(), class.batch_size), ("cpu", "float32", 8));
        assert_eq!(class.libtorch, "2.11.0");
        assert!(class.threads >= 1);
    }
}
