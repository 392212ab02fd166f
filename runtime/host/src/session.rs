//! A session of the core together with the memory lent to it.

#![allow(unsafe_code)]

use bourn_core::snapshot::{Extent, Origin};
use bourn_core::{Engine, Error, HeadMode, Observed, Options, Session, workspace_bytes};
use bourn_format::Image;
use bourn_kernels::Kernels;
use memmap2::MmapMut;
use std::ops::Range;

/// A core session that owns its workspace: anonymous memory that costs nothing until it is touched.
#[derive(Debug)]
pub struct OwnedSession {
    /// Borrows from `memory`; lent only through the methods below, so that it cannot be swapped out of reach of it.
    session: Session<'static>,
    memory: MmapMut,
}

impl OwnedSession {
    /// A session at position 0.
    ///
    /// # Errors
    /// [`Error::Option`] when an option is outside what the image allows, [`Error::Workspace`] when the system has not that
    /// much memory.
    pub fn new(image: &Image<'_>, options: &Options) -> Result<Self, Error> {
        let need = workspace_bytes(image, options)?;
        let mut memory = MmapMut::map_anon(need).map_err(|_| Error::Workspace { need: need as u64, have: 0 })?;
        // No huge pages: each head of the KV ring begins far from the next, and would fill one that it does not use.
        let (start, len) = (memory.as_mut_ptr(), memory.len());
        // SAFETY: `memory` is a private anonymous map of `len` initialised (zero) bytes that keeps its address and stays
        // mapped until it is dropped, with `Self` and after nothing else uses `session` (which has no destructor). From here
        // on `memory` itself is only asked for its length, so this is the only borrow of the bytes.
        let workspace: &'static mut [u8] = unsafe { std::slice::from_raw_parts_mut(start, len) };
        Ok(Self { session: Session::new(image, options, workspace)?, memory })
    }

    /// Bytes of the workspace.
    pub fn workspace_bytes(&self) -> usize {
        self.memory.len()
    }

    /// [`Session::position`].
    pub fn position(&self) -> usize {
        self.session.position()
    }

    /// [`Session::context`].
    pub fn context(&self) -> usize {
        self.session.context()
    }

    /// [`Session::rewind`].
    ///
    /// # Errors
    /// [`Error::Rewind`].
    pub fn rewind(&mut self, image: &Image<'_>, to: usize) -> Result<(), Error> {
        self.session.rewind(image, to)
    }

    /// [`Session::prefill`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn prefill(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<&mut [f32], Error> {
        self.session.prefill(engine, tokens)
    }

    /// [`Session::set_head_mode`].
    pub fn set_head_mode(&mut self, mode: HeadMode) {
        self.session.set_head_mode(mode);
    }

    /// [`Session::prefill_allowed`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn prefill_allowed(&mut self, engine: &mut Engine<'_>, tokens: &[u32], allowed: &[u32]) -> Result<&mut [f32], Error> {
        self.session.prefill_allowed(engine, tokens, allowed)
    }

    /// [`Session::observe`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn observe(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        observer: &mut dyn FnMut(Observed<'_>),
    ) -> Result<(), Error> {
        self.session.observe(engine, tokens, observer)
    }

    /// [`Session::logits_at`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn logits_at(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        wanted: &dyn Fn(usize) -> bool,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.session.logits_at(engine, tokens, wanted, sink)
    }

    /// [`Session::verify`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn verify(&mut self, engine: &mut Engine<'_>, tokens: &[u32]) -> Result<(), Error> {
        self.session.verify(engine, tokens)
    }

    /// [`Session::verify_limit`].
    pub fn verify_limit(&self) -> usize {
        self.session.verify_limit()
    }

    /// [`Session::logits`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn logits(&mut self, kernels: &Kernels, image: &Image<'_>, row: usize) -> Result<&mut [f32], Error> {
        self.session.logits(kernels, image, row)
    }

    /// [`Session::origin`].
    pub fn origin(&self, image: &Image<'_>) -> Origin {
        self.session.origin(image)
    }

    /// [`Session::extent`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn extent(&self, image: &Image<'_>, to: usize) -> Result<Extent, Error> {
        self.session.extent(image, to)
    }

    /// [`Session::export`].
    pub fn export(&self, image: &Image<'_>, extent: &Extent, sliding: bool, block: usize, out: &mut [u8]) {
        self.session.export(image, extent, sliding, block, out);
    }

    /// [`Session::import_from`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn import_from(&self, image: &Image<'_>, extent: &Extent, to: usize) -> Result<usize, Error> {
        self.session.import_from(image, extent, to)
    }

    /// [`Session::import`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn import(
        &mut self,
        image: &Image<'_>,
        sliding: bool,
        block: usize,
        valid: Range<usize>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.session.import(image, sliding, block, valid, bytes)
    }

    /// [`Session::resume`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn resume(&mut self, to: usize, from: usize) -> Result<(), Error> {
        self.session.resume(to, from)
    }

    /// [`Session::logits_of_all`].
    ///
    /// # Errors
    /// [`Error`].
    pub fn logits_of_all(
        &mut self,
        engine: &mut Engine<'_>,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.session.logits_of_all(engine, tokens, sink)
    }
}
