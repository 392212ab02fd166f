//! The image's weights on the device, in the layout in which they lie in the file: one pass of writes, nothing is repacked.

use crate::{Device, Error};
use bourn_core::WeightStream;
use bourn_format::{Image, Role, SegmentKind, Tensor};
use std::collections::HashMap;

/// Bytes written before the driver is asked to take them: bounds what it holds twice.
const AT_ONCE: u64 = 64 << 20;

/// Where a segment lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    buffer: usize,
    offset: u64,
}

/// An image's matrices and vectors on a device. Any number of sessions may share them.
#[derive(Debug)]
pub struct Weights {
    pub(crate) buffers: Vec<wgpu::Buffer>,
    /// Norms and biases, one after another: read by kernels that must not depend on which buffer a layer lies in.
    pub(crate) vectors: wgpu::Buffer,
    places: HashMap<usize, Place>,
    vector_at: HashMap<u64, u32>,
    bytes: u64,
}

/// Whether the GPU needs the segment: an untied embedding is read row by row on the host.
fn wanted(kind: SegmentKind) -> bool {
    !matches!(kind, SegmentKind::Embed)
}

/// Whether a tensor is one of the short vectors that are gathered.
fn is_vector(tensor: &Tensor<'_>) -> bool {
    tensor.role.is_flat() && tensor.role != Role::ScreenBooks
}

impl Weights {
    /// Writes the weights of `image` to the device.
    ///
    /// # Errors
    /// [`Error::BindingTooLarge`], [`Error::OutOfMemory`], [`Error::Core`] when a page is damaged.
    pub fn upload(device: &Device, image: &Image<'_>, stream: &mut dyn WeightStream) -> Result<Self, Error> {
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let (mut places, mut sizes) = (HashMap::new(), Vec::new());
        for i in 0..image.n_segments() {
            let segment = image.segment(i);
            if !wanted(segment.kind) {
                continue;
            }
            if segment.bytes > device.binding_bytes() {
                let what = format!("{:?} {} of the image", segment.kind, segment.layer).to_lowercase();
                return Err(Error::BindingTooLarge { what, need: segment.bytes, found: device.binding_bytes() });
            }
            match sizes.last_mut() {
                Some(size) if *size + segment.bytes <= device.binding_bytes() => {
                    places.insert(i, Place { buffer: sizes.len() - 1, offset: sizes[sizes.len() - 1] });
                    if let Some(size) = sizes.last_mut() {
                        *size += segment.bytes;
                    }
                }
                _ => {
                    places.insert(i, Place { buffer: sizes.len(), offset: 0 });
                    sizes.push(segment.bytes);
                }
            }
        }
        let buffers = sizes.iter().map(|&size| device.buffer("weights", size, storage)).collect::<Result<Vec<_>, _>>()?;
        let vectors_of: Vec<Tensor<'_>> = (0..image.n_tensors()).map(|i| image.tensor(i)).filter(is_vector).collect();
        let (mut vector_at, mut vectors) = (HashMap::new(), Vec::<u8>::new());
        let mut written = 0;
        for i in 0..image.n_segments() {
            let Some(place) = places.get(&i) else { continue };
            let bytes = stream.segment(i)?;
            device.queue.write_buffer(&buffers[place.buffer], place.offset, bytes);
            for tensor in vectors_of.iter().filter(|t| t.segment == i) {
                vector_at.insert(tensor.offset, (vectors.len() / 4) as u32);
                vectors.extend_from_slice(tensor.within(&image.segment(i), bytes));
            }
            written += bytes.len() as u64;
            if written >= AT_ONCE {
                device.queue.submit([]);
                device.wait()?;
                written = 0;
            }
        }
        let buffer = device.buffer("norms and biases", vectors.len() as u64, storage)?;
        vectors.resize(vectors.len().next_multiple_of(4), 0);
        device.queue.write_buffer(&buffer, 0, &vectors);
        device.queue.submit([]);
        device.wait()?;
        let bytes = sizes.iter().sum::<u64>() + vectors.len() as u64;
        Ok(Self { buffers, vectors: buffer, places, vector_at, bytes })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Buffers that hold matrices.
    pub fn n_buffers(&self) -> usize {
        self.buffers.len()
    }

    /// Buffer and first word of a tensor.
    pub(crate) fn place(&self, image: &Image<'_>, tensor: &Tensor<'_>) -> (usize, u32) {
        let place = self.places.get(&tensor.segment).copied().unwrap_or(Place { buffer: 0, offset: 0 });
        let within = tensor.offset - image.segment(tensor.segment).offset;
        (place.buffer, ((place.offset + within) / 4) as u32)
    }

    /// Index of a vector's first element among [`Self::vectors`].
    pub(crate) fn vector(&self, tensor: Option<Tensor<'_>>) -> u32 {
        tensor.and_then(|t| self.vector_at.get(&t.offset).copied()).unwrap_or(0)
    }
}
