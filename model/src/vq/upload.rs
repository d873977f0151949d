//! The way of pixels to the device: from memory that a GPU reads by itself, while the processor goes on.

use tch::{Device, Kind, TchError, Tensor};

/// Sends bytes to a device.
#[derive(Debug)]
pub(super) struct Upload {
    device: Device,
    /// Pinned memory that batches wait in by turns; none yet, or always on a CPU.
    rooms: [Option<Tensor>; 2],
    next: usize,
}

impl Upload {
    pub(super) const fn new(device: Device) -> Self {
        Self { device, rooms: [None, None], next: 0 }
    }

    /// Bytes on the device, followed by zeros up to `size`: u8 `[size]`. A GPU may fetch them later: of what was sent, results of all but the
    /// last must have been read before.
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
            // Its public name warns of the argument that this one takes too.
            None => Tensor::f_empty([size as i64], (Kind::Uint8, Device::Cpu))?.f_internal_pin_memory(self.device)?,
        };
        let memory = room.insert(memory).f_narrow(0, 0, size as i64)?;
        // SAFETY: these are `size` bytes of dense memory of this process, kept by `room`. Nobody else looks at them: what was sent from here
        // has been fetched, since its results were read.
        let waiting = unsafe { std::slice::from_raw_parts_mut(memory.data_ptr().cast::<u8>(), size) };
        let (given, padding) = waiting.split_at_mut(bytes.len());
        given.copy_from_slice(bytes);
        padding.fill(0);
        memory.f_to_device_(self.device, Kind::Uint8, true, false)
    }
}
