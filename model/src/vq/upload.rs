//! Upload of pixels to the device, from memory that a GPU reads by itself while the processor continues.

use tch::{Device, Kind, TchError, Tensor};

/// Sender of bytes to a device.
#[derive(Debug)]
pub(super) struct Upload {
    device: Device,
    /// Two pinned buffers, used in turn; `None` before their first use, and always on a CPU.
    rooms: [Option<Tensor>; 2],
    next: usize,
}

impl Upload {
    pub(super) const fn new(device: Device) -> Self {
        Self { device, rooms: [None, None], next: 0 }
    }

    /// Sends bytes to the device, followed by zeros up to `size`: u8 `[size]`. A GPU may read them later, so the results of all earlier
    /// calls but the last must have been read before.
    pub(super) fn send(&mut self, bytes: &[u8], size: usize) -> Result<Tensor, TchError> {
        if !self.device.is_cuda() {
            let mut padded = bytes.to_vec();
            padded.resize(size, 0);
            return Tensor::f_from_slice(&padded);
        }
        let room = &mut self.rooms[self.next];
        self.next = 1 - self.next;
        let large_enough = room.take().filter(|room| room.numel() >= size);
        let memory = match large_enough {
            Some(memory) => memory,
            // The public `pin_memory` warns about the device argument, which this one takes as well.
            None => Tensor::f_empty([size as i64], (Kind::Uint8, Device::Cpu))?.f_internal_pin_memory(self.device)?,
        };
        let memory = room.insert(memory).f_narrow(0, 0, size as i64)?;
        // SAFETY: these are `size` bytes of dense memory of this process, kept by `room`. Nothing else accesses them: the bytes sent from
        // here before have been read, since their results were.
        let waiting = unsafe { std::slice::from_raw_parts_mut(memory.data_ptr().cast::<u8>(), size) };
        let (given, padding) = waiting.split_at_mut(bytes.len());
        given.copy_from_slice(bytes);
        padding.fill(0);
        memory.f_to_device_(self.device, Kind::Uint8, true, false)
    }
}
