//! The messages of the protocol.
//!
//! The specification is "Vhost-user Protocol", in QEMU's documentation.

use std::fs::File;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::{
    Error as ProtocolError, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    message::{
        VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags,
        VhostUserInflight, VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures,
        VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
        VhostUserVringAddrFlags, VhostUserVringState,
    },
};

use super::{
    Device,
    error::Refusal,
    memory::{Place, REGIONS_MAX},
    rings::{Address, Event, event},
    session::{FEATURES, Session},
};

/// Entries of the largest ring there is.
const SIZE_MAX: u32 = 32768;

/// What is offered.
fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::RESET_DEVICE
}

impl<D: Device + ?Sized> Session<D> {
    /// Keeps why something was refused: the library's errors cannot say it.
    fn answer<T>(&mut self, result: std::result::Result<T, Refusal>) -> Result<T> {
        result.map_err(|refusal| {
            self.refusal = Some(refusal);
            ProtocolError::BackendInternalError
        })
    }

    fn not_offered<T>(&mut self) -> Result<T> {
        self.answer(Err(Refusal::NotOffered))
    }

    fn try_set_num(&mut self, index: u32, number: u32) -> std::result::Result<(), Refusal> {
        let ring = self.stopped_ring(index)?;
        let what = "size";
        let wrong = Refusal::Number { index: ring.index, what, number };
        ring.size = match u16::try_from(number) {
            Ok(size) if size.is_power_of_two() && number <= SIZE_MAX => size,
            _ => return Err(wrong),
        };
        self.settle(index)
    }

    fn try_set_base(&mut self, index: u32, number: u32) -> std::result::Result<(), Refusal> {
        let ring = self.stopped_ring(index)?;
        let wrong = Refusal::Number { index: ring.index, what: "index", number };
        ring.next = u16::try_from(number).map_err(|_| wrong)?;
        Ok(())
    }

    fn try_get_base(&mut self, index: u32) -> std::result::Result<u16, Refusal> {
        self.stop(index)?;
        let ring = self.ring(index)?;
        ring.kick = None;
        ring.call.set(None);
        Ok(ring.next)
    }

    fn try_set_kick(&mut self, index: u32, file: Option<File>) -> std::result::Result<(), Refusal> {
        let ring = self.ring(index)?;
        let kick = file.map(|file| event(ring.index, file, Event::Kick)).transpose()?;
        // It looks at the ring when it starts: what the old descriptor told may not have been seen.
        self.stop(index)?;
        self.ring(index)?.kick = kick;
        self.settle(index)
    }

    fn try_set_call(&mut self, index: u32, file: Option<File>) -> std::result::Result<(), Refusal> {
        let ring = self.ring(index)?;
        let call = file.map(|file| event(ring.index, file, Event::Call)).transpose()?;
        ring.set_call(call);
        Ok(())
    }

    fn try_set_err(&mut self, index: u32, file: Option<File>) -> std::result::Result<(), Refusal> {
        let ring = self.ring(index)?;
        let error = file.map(|file| event(ring.index, file, Event::Error)).transpose()?;
        ring.error.set(error);
        Ok(())
    }

    fn try_enable(&mut self, index: u32, enable: bool) -> std::result::Result<(), Refusal> {
        let ring = self.ring(index)?;
        ring.is_enabled = enable;
        if let Some(running) = ring.running.as_ref().filter(|_| enable) {
            running.control.look();
        }
        self.settle(index)
    }

    fn try_reset(&mut self) -> std::result::Result<(), Refusal> {
        self.disable_all()?;
        for ring in &mut self.rings {
            (ring.kick, ring.next) = (None, 0);
        }
        self.device.reset();
        Ok(())
    }

    fn try_set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> std::result::Result<(), Refusal> {
        let regions: Vec<_> = regions.iter().map(place).zip(files).collect();
        let (memory, departing) = self.memory.replaced(&regions)?;
        self.set_memory(memory, departing)
    }

    fn try_add(&mut self, region: Place, file: &File) -> std::result::Result<(), Refusal> {
        let memory = self.memory.with(region, file)?;
        self.set_memory(memory, Vec::new())
    }

    fn try_remove(&mut self, region: Place) -> std::result::Result<(), Refusal> {
        let (memory, departing) = self.memory.without(region)?;
        self.set_memory(memory, departing)
    }
}

impl<D: Device + ?Sized> VhostUserBackendReqHandlerMut for Session<D> {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    // The specification does not want it any more. QEMU's own back-ends disable all rings.
    fn reset_owner(&mut self) -> Result<()> {
        let result = self.disable_all();
        self.answer(result)
    }

    fn reset_device(&mut self) -> Result<()> {
        let result = self.try_reset();
        self.answer(result)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let result = Session::set_features(self, features);
        self.answer(result)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !protocol_features().bits();
        if unknown != 0 {
            return self.answer(Err(Refusal::Features(unknown)));
        }
        self.protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.device.queues_max().into())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let result = self.try_set_mem_table(regions, files);
        self.answer(result).map(|()| None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let result = self.try_add(place(region), &file);
        self.answer(result).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let result = self.try_remove(place(region));
        self.answer(result)
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let result = self.log.replace(&file, log.mmap_offset, log.mmap_size);
        self.answer(result.map_err(Refusal::Log))
    }

    fn set_vring_num(&mut self, index: u32, number: u32) -> Result<()> {
        let result = self.try_set_num(index, number);
        self.answer(result)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        desc: u64,
        used: u64,
        avail: u64,
        log: u64,
    ) -> Result<()> {
        let is_logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        let address = Address { desc, avail, used, used_log: is_logged.then_some(log) };
        let result = self.set_address(index, address);
        self.answer(result)
    }

    fn set_vring_base(&mut self, index: u32, number: u32) -> Result<()> {
        let result = self.try_set_base(index, number);
        self.answer(result)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let result = self.try_get_base(index);
        self.answer(result).map(|next| VhostUserVringState::new(index, next.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let result = self.try_set_kick(index.into(), file);
        self.answer(result)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let result = self.try_set_call(index.into(), file);
        self.answer(result)
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let result = self.try_set_err(index.into(), file);
        self.answer(result)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let result = self.try_enable(index, enable);
        self.answer(result)
    }

    // What is behind the end reads as zero, as other back-ends have it: front-ends ask for what they
    // know of the structure.
    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // The library has bounded both by 4096.
        let (offset, size) = (offset as usize, size as usize);
        let config = self.device.config_space();
        let mut part: Vec<u8> = config.into_iter().skip(offset).take(size).collect();
        part.resize(size, 0);
        Ok(part)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        self.answer(Err(Refusal::ConfigIsFixed))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        self.not_offered()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        self.not_offered()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        self.not_offered()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        self.not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        self.not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.not_offered()
    }
}

fn place(region: &VhostUserMemoryRegion) -> Place {
    Place {
        guest: region.guest_phys_addr,
        len: region.memory_size,
        user: region.user_addr,
        offset: region.mmap_offset,
    }
}
