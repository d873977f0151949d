//! Queries of the CUDA driver about devices, since libtorch's bindings report only their number.
//!
//! # Source
//! CUDA driver API, <https://docs.nvidia.com/cuda/cuda-driver-api/>; NVML, <https://docs.nvidia.com/deploy/nvml-api/>.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use serde::Serialize;

use super::library::{Library, Scope};

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];
/// Size of the buffer for a name or bus id.
const NAME_BYTES: usize = 256;

/// A CUDA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CudaDevice {
    /// Index among the devices that this process sees, from 0.
    pub index: u32,
    /// Product name.
    pub name: String,
    /// Compute capability, as in `9.0`.
    pub compute_capability: String,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Free memory in bytes; `None` if the management library does not report it.
    pub free_bytes: Option<u64>,
}

/// Answer of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Driver {
    /// Latest CUDA release that the driver supports, as `(major, minor)`.
    pub(super) cuda: (u32, u32),
    pub(super) devices: Vec<CudaDevice>,
}

/// Reason why the driver gives no devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DriverProblem {
    /// Its library cannot be loaded, with the reason.
    Missing(String),
    /// A call failed, with number and text.
    Failed(String),
    /// It works, but sees no device.
    NoDevice,
}

type Initialise = unsafe extern "C" fn(c_uint) -> c_int;
type AskNumber = unsafe extern "C" fn(*mut c_int) -> c_int;
type AskDevice = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type AskText = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type AskMemory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
type AskAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
type ErrorText = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;

/// Functions of libcuda.
struct Functions {
    initialise: Initialise,
    version: AskNumber,
    count: AskNumber,
    device: AskDevice,
    name: AskText,
    bus_id: AskText,
    memory: AskMemory,
    attribute: AskAttribute,
    error_text: ErrorText,
}

impl Functions {
    fn of(library: &Library) -> Option<Self> {
        // SAFETY: the types match cuda.h of all releases from 12 on.
        unsafe {
            Some(Self {
                initialise: library.function(c"cuInit")?,
                version: library.function(c"cuDriverGetVersion")?,
                count: library.function(c"cuDeviceGetCount")?,
                device: library.function(c"cuDeviceGet")?,
                name: library.function(c"cuDeviceGetName")?,
                bus_id: library.function(c"cuDeviceGetPCIBusId")?,
                memory: library.function(c"cuDeviceTotalMem_v2")?,
                attribute: library.function(c"cuDeviceGetAttribute")?,
                error_text: library.function(c"cuGetErrorString")?,
            })
        }
    }

    fn check(&self, code: c_int) -> Result<(), DriverProblem> {
        match code {
            0 => Ok(()),
            NO_DEVICE => Err(DriverProblem::NoDevice),
            _ => {
                let mut text = std::ptr::null();
                // SAFETY: `text` is a place for a pointer to a string that the driver keeps; it stays null for an unknown number.
                unsafe { (self.error_text)(code, &raw mut text) };
                // SAFETY: if it is not null, it points to such a string.
                let text = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
                Err(DriverProblem::Failed(format!("error {code}, {}", text.as_deref().unwrap_or("which it has no name for"))))
            }
        }
    }

    fn number(&self, ask: AskNumber) -> Result<u32, DriverProblem> {
        let mut number = 0;
        // SAFETY: `number` is a place for the answer.
        self.check(unsafe { ask(&raw mut number) })?;
        Ok(number.unsigned_abs())
    }

    fn text(&self, ask: AskText, device: c_int) -> Result<String, DriverProblem> {
        let mut text: [c_char; NAME_BYTES] = [0; NAME_BYTES];
        // SAFETY: the driver writes at most the given number of bytes, with a final zero; the last place is not given to it.
        self.check(unsafe { ask(text.as_mut_ptr(), NAME_BYTES as c_int - 1, device) })?;
        // SAFETY: the last byte is always zero.
        Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    fn attribute(&self, attribute: c_int, device: c_int) -> Result<c_int, DriverProblem> {
        let mut value = 0;
        // SAFETY: `value` is a place for the answer.
        self.check(unsafe { (self.attribute)(&raw mut value, attribute, device) })?;
        Ok(value)
    }

    fn device(&self, index: u32, management: Option<&Management>) -> Result<CudaDevice, DriverProblem> {
        let (mut device, mut memory_bytes) = (0, 0);
        // SAFETY: `device` is a place for the answer.
        self.check(unsafe { (self.device)(&raw mut device, index as c_int) })?;
        // SAFETY: `memory_bytes` is a place for the answer.
        self.check(unsafe { (self.memory)(&raw mut memory_bytes, device) })?;
        let [major, minor] = COMPUTE_CAPABILITY.map(|attribute| self.attribute(attribute, device));
        Ok(CudaDevice {
            index,
            name: self.text(self.name, device)?,
            compute_capability: format!("{}.{}", major?, minor?),
            memory_bytes: memory_bytes as u64,
            free_bytes: management.zip(self.text(self.bus_id, device).ok()).and_then(|(management, bus_id)| management.free_bytes(&bus_id)),
        })
    }
}

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// Management library of the driver. It reports free memory; the driver itself would need a context, and thus memory, on the device.
struct Management {
    find: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
    memory: unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int,
}

impl Management {
    fn open() -> Option<Self> {
        let library = Library::open(c"libnvidia-ml.so.1", Scope::Holder).ok()?;
        // SAFETY: the types match nvml.h.
        unsafe {
            let initialise = library.function::<unsafe extern "C" fn() -> c_int>(c"nvmlInit_v2")?;
            let management = Self {
                find: library.function(c"nvmlDeviceGetHandleByPciBusId_v2")?,
                memory: library.function(c"nvmlDeviceGetMemoryInfo")?,
            };
            (initialise() == 0).then_some(management)
        }
    }

    fn free_bytes(&self, bus_id: &str) -> Option<u64> {
        let bus_id = std::ffi::CString::new(bus_id).ok()?;
        let (mut device, mut memory) = (std::ptr::null_mut(), Memory::default());
        // SAFETY: the id is a valid C string, and `device` is a place for the answer, which is only used after success.
        let is_found = unsafe { (self.find)(bus_id.as_ptr(), &raw mut device) } == 0;
        // SAFETY: the handle is from the call above; `memory` has the layout of the first version of the call.
        (is_found && unsafe { (self.memory)(device, &raw mut memory) } == 0).then_some(memory.free)
    }
}

/// Queries the driver.
///
/// # Errors
/// [`DriverProblem`] if it gives no devices.
pub(super) fn ask() -> Result<Driver, DriverProblem> {
    let library = Library::open(c"libcuda.so.1", Scope::Holder).map_err(DriverProblem::Missing)?;
    let functions = Functions::of(&library).ok_or_else(|| DriverProblem::Failed("it is too old: it lacks functions of CUDA 12".into()))?;
    // SAFETY: 0 is the only valid argument.
    functions.check(unsafe { (functions.initialise)(0) })?;
    let version = functions.number(functions.version)?;
    let management = Management::open();
    let devices: Vec<CudaDevice> =
        (0..functions.number(functions.count)?).map(|index| functions.device(index, management.as_ref())).collect::<Result<_, _>>()?;
    if devices.is_empty() { Err(DriverProblem::NoDevice) } else { Ok(Driver { cuda: (version / 1000, version % 1000 / 10), devices }) }
}
