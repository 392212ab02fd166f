//! A model under a RAM budget: the plan is made when the first session opens, and there is room for one session at a time.

use crate::session::{SessionOptions, Speculate};
use crate::{Error, Model};
use bourn_core::{HeadMode, Options, workspace_bytes};
use bourn_host::stream::plan::PROGRAM_BYTES;
use bourn_host::{RamOptions, RamPlan, ReadOptions, machine, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How to keep a model within a RAM budget.
#[derive(Clone, Debug, Default)]
pub struct Ram {
    /// Bytes of resident memory of the whole process, all told: program, KV cache, workspace, weights.
    pub budget: u64,
    /// Keep pinned weights and the ring from being swapped out (`mlock`).
    pub lock: bool,
    /// Read at most so many bytes per second: models a slower device.
    pub throttle: Option<u64>,
    /// Ends the wait for weights when set, with [`bourn_core::Error::Cancelled`].
    pub cancel: Option<Arc<AtomicBool>>,
}

/// What a process takes beyond what it has when a model is opened: stacks, template, text.
const STILL_TO_COME: u64 = 3 << 20;

/// What part of a budget the logits of speculation may take: one in so many.
const LOGITS_SHARE: u64 = 16;

/// The room of a budget's one session; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room<'m>(&'m AtomicBool);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Ram {
    /// The plan, in a process that has the head of the image in memory by now.
    fn plan(&self, model: &Model, options: &SessionOptions) -> Result<RamPlan, Error> {
        let shape = model.image().shape();
        let here = machine::rss_bytes().saturating_sub(model.image().superblock().head_bytes) + STILL_TO_COME;
        let with = |rows: usize| {
            let ram = RamOptions {
                context: options.context,
                prefill_block: options.prefill_block,
                logit_rows: options.logit_rows.unwrap_or(1).max(1 + rows),
                retain: options.core(model).retain,
                program_bytes: PROGRAM_BYTES.max(here.next_multiple_of(1 << 20)) + model.reserved(),
                page: stream::page_bytes(),
                whole_head: model.head() == HeadMode::Exact,
                ..RamOptions::new(self.budget, options.kv.unwrap_or_else(|| model.default_kv()))
            };
            RamPlan::new(model.image(), &ram)
        };
        // Rows of logits that speculation verifies at once: as many as a share of the budget holds, none where that is too much.
        let vocab = shape.vocab as usize;
        let most = options.speculate.most(vocab, options.prefill_block.unwrap_or(usize::MAX));
        let rows = match options.speculate {
            Speculate::Auto => most.min((self.budget / LOGITS_SHARE) as usize / (4 * vocab)),
            Speculate::Off | Speculate::Tokens(_) => most,
        };
        match with(rows) {
            Err(bourn_host::Error::Ram { .. }) if options.speculate == Speculate::Auto && rows > 0 => Ok(with(0)?),
            plan => Ok(plan?),
        }
    }
}

impl Model {
    /// The plan for a session under the model's budget; `None` if it has none.
    ///
    /// # Errors
    /// [`bourn_host::Error::Ram`] with the smallest budget that works.
    pub fn ram_plan(&self, options: &SessionOptions) -> Result<Option<RamPlan>, Error> {
        let Some(ram) = self.ram() else { return Ok(None) };
        ram.plan(self, options).map(Some)
    }

    /// The core's options for a session; under a budget as much as fits, and the budget's room for it.
    pub(crate) fn prepare(&self, options: &SessionOptions) -> Result<(Options, Option<Room<'_>>), Error> {
        let Some(ram) = self.ram() else { return Ok((options.core(self), None)) };
        let too_large = |need: u64, have: u64| Error::Host(bourn_host::Error::RamSession { need, have });
        let room = (!self.taken().swap(true, Ordering::Acquire)).then(|| Room(self.taken()));
        let pager = match self.file().pager() {
            Some(pager) => pager,
            None => {
                let plan = ram.plan(self, options)?;
                let read = ReadOptions { throttle: ram.throttle, cancel: ram.cancel.clone(), ..ReadOptions::default() };
                self.file().page(&plan, &read, ram.lock)?
            }
        };
        let plan = pager.plan();
        let core = Options {
            context: options.context.unwrap_or(plan.context),
            prefill_block: options.prefill_block.unwrap_or(plan.prefill_block),
            logit_rows: options.logit_rows.unwrap_or(1).max(plan.logit_rows),
            ..options.core(self)
        };
        let need = workspace_bytes(self.image(), &core)? as u64;
        match room {
            Some(room) if need <= plan.workspace_bytes => Ok((core, Some(room))),
            Some(_) => Err(too_large(need, plan.workspace_bytes)),
            None => Err(too_large(need, 0)),
        }
    }
}
