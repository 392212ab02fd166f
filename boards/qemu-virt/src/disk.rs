//! The card: a virtio block device.

use core::cell::{RefCell, UnsafeCell};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use embedded_sdmmc::{Block, BlockCount, BlockDevice, BlockIdx};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Transports, each with a device or none.
const FIRST: usize = 0x0a00_0000;
const APART: usize = 0x200;
const SLOTS: usize = 32;

/// Pages for the queues of one disk.
const PAGES: usize = 8;

#[repr(C, align(4096))]
struct Pages(UnsafeCell<[u8; PAGES * PAGE_SIZE]>);

// SAFETY: pages are handed out once each, by a counter that only rises.
unsafe impl Sync for Pages {}

static DMA: Pages = Pages(UnsafeCell::new([0; PAGES * PAGE_SIZE]));
static GIVEN: AtomicUsize = AtomicUsize::new(0);

/// Memory as a device of QEMU sees it: all of it, where it lies, through the caches.
struct Identity;

// SAFETY: pages are static, zeroed, aligned and handed out once; addresses are the same for cores and devices.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = GIVEN.fetch_add(pages, Ordering::Relaxed);
        assert!(first + pages <= PAGES, "virtio: need {pages} pages, have {}", PAGES.saturating_sub(first));
        let start = DMA.0.get().cast::<u8>().wrapping_add(first * PAGE_SIZE);
        let start = NonNull::new(start).unwrap_or(NonNull::dangling());
        (start.as_ptr().addr() as PhysAddr, start)
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        // A disk is never given back.
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(paddr as usize)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// A disk.
pub struct Disk {
    inner: RefCell<VirtIOBlk<Identity, MmioTransport<'static>>>,
}

/// The disk did not do what it was told.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    block: u32,
    cause: virtio_drivers::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk: need block {}, found: {}", self.block, self.cause)
    }
}

impl core::error::Error for Error {}

impl Disk {
    /// The first disk of the machine.
    pub fn find() -> Option<Self> {
        (0..SLOTS).find_map(|slot| {
            let header = core::ptr::with_exposed_provenance_mut::<VirtIOHeader>(FIRST + slot * APART);
            // SAFETY: QEMU's virt machine has a transport there; each is looked at once, for this is called once.
            let transport = unsafe { MmioTransport::new(NonNull::new(header)?, APART) }.ok()?;
            if transport.device_type() != DeviceType::Block {
                return None;
            }
            let inner = VirtIOBlk::new(transport).ok()?;
            Some(Self { inner: RefCell::new(inner) })
        })
    }
}

impl BlockDevice for Disk {
    type Error = Error;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), Error> {
        let error = |cause| Error { block: start.0, cause };
        let first: *mut u8 = blocks.as_mut_ptr().cast();
        // SAFETY: a block is an array of 512 bytes, so these are the bytes of `blocks`, borrowed as it is.
        let bytes = unsafe { core::slice::from_raw_parts_mut(first, size_of_val(blocks)) };
        self.inner.borrow_mut().read_blocks(start.0 as usize, bytes).map_err(error)
    }

    fn write(&self, blocks: &[Block], start: BlockIdx) -> Result<(), Error> {
        let error = |cause| Error { block: start.0, cause };
        let first: *const u8 = blocks.as_ptr().cast();
        // SAFETY: as above.
        let bytes = unsafe { core::slice::from_raw_parts(first, size_of_val(blocks)) };
        let mut disk = self.inner.borrow_mut();
        disk.write_blocks(start.0 as usize, bytes).map_err(error)?;
        disk.flush().map_err(error)
    }

    fn num_blocks(&self) -> Result<BlockCount, Error> {
        Ok(BlockCount(u32::try_from(self.inner.borrow().capacity()).unwrap_or(u32::MAX)))
    }
}
