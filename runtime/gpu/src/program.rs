//! Dispatches, recorded once: pipelines with their buffers, encoded anew for every pass into one command buffer.

use crate::compile::{Pipeline, Pipelines, begin, buffer};
use crate::kernels::tiles::{self, Levels};
use crate::kernels::{matmul, matvec};
use crate::tune::{Choices, Product};
use crate::weights::Weights;
use crate::{Device, Error};
use bourn_format::{Dtype, Image, Role, Tensor, layout};
use cubecl_core::prelude::CubeKernel;
use std::sync::Arc;

/// Words between two sets of parameters: offsets of bindings are multiples of 256 bytes.
const PARAM_WORDS: usize = 64;
/// Workgroups in a row of a grid: more are refused beyond 65 535.
const ROW: u32 = 32_768;

/// How many workgroups, in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Fixed(u32),
    /// One for each token.
    Tokens,
    /// One for so many tokens.
    Blocks(u32),
}

impl Count {
    fn of(self, tokens: u32) -> u32 {
        match self {
            Self::Fixed(n) => n,
            Self::Tokens => tokens,
            Self::Blocks(n) => tokens.div_ceil(n),
        }
    }
}

/// A buffer as an argument.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    Whole(wgpu::Buffer),
    /// The parameters at this word.
    Params(usize),
}

/// A dispatch to be.
#[derive(Debug)]
struct Draft {
    pipeline: Arc<Pipeline>,
    args: Vec<Arg>,
    grid: [Count; 3],
    name: String,
    bytes: u64,
}

/// A dispatch.
#[derive(Debug)]
pub(crate) struct Step {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [Count; 3],
    /// The kernel, and of a product its type and shape.
    pub name: String,
    /// Bytes of weights that it reads.
    pub bytes: u64,
}

impl Step {
    /// Encodes the dispatch for `tokens` tokens.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        let [x, y, z] = self.grid.map(|count| count.of(tokens));
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Dispatches in order.
#[derive(Debug)]
pub(crate) struct Program {
    steps: Vec<Step>,
}

impl Program {
    /// The dispatches.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Bytes of weights that one token, or one block of them, reads.
    pub fn bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.bytes).sum()
    }

    /// Encodes all dispatches for `tokens` tokens.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, tokens: u32) {
        for step in &self.steps {
            step.encode(pass, tokens);
        }
    }
}

/// Records programs.
pub(crate) struct Recorder<'r> {
    pub device: &'r Device,
    pub pipelines: &'r mut Pipelines,
    pub weights: &'r Weights,
    pub choices: Choices,
    products: Vec<Product>,
    drafts: Vec<Draft>,
    params: Vec<u32>,
}

/// Where a product's input and output lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MulBuffers<'b> {
    pub codes: &'b wgpu::Buffer,
    pub scales: &'b wgpu::Buffer,
    pub float: &'b wgpu::Buffer,
    pub step: &'b wgpu::Buffer,
    pub out: &'b wgpu::Buffer,
}

/// One matrix of a dispatch, or parts of one at even distances.
#[derive(Clone, Copy, Debug)]
struct Run<'t> {
    tensor: Tensor<'t>,
    buffer: usize,
    word: u32,
    out_row: u32,
    tiles: u32,
    tiles_of_part: u32,
    part_words: u32,
    /// Parts joined so far, and whether the last one was short: then none can follow.
    parts: u32,
    ended: bool,
}

/// Parts of a matrix at even distances in one buffer, and of another one that lies beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub buffer: usize,
    pub first_row: u32,
    /// Rows of all.
    pub rows: u32,
    /// Rows of each but the last.
    pub rows_of_part: u32,
    /// The first words of both matrices.
    pub words: [u32; 2],
    /// Words from part to part.
    pub part_words: u32,
    /// Bytes of both matrices.
    pub bytes: u64,
    n: u32,
}

impl<'r> Recorder<'r> {
    pub fn new(device: &'r Device, pipelines: &'r mut Pipelines, weights: &'r Weights, choices: Choices) -> Self {
        Self { device, pipelines, weights, choices, products: Vec::new(), drafts: Vec::new(), params: Vec::new() }
    }

    /// Keeps parameters; returns their argument.
    pub fn params(&mut self, words: &[u32]) -> Arg {
        let at = self.params.len();
        self.params.extend_from_slice(words);
        self.params.resize((at + words.len()).next_multiple_of(PARAM_WORDS), 0);
        Arg::Params(at)
    }

    /// Adds a dispatch of `kernel`, whose name `key` begins with.
    pub fn add(
        &mut self,
        key: &str,
        args: Vec<Arg>,
        grid: [Count; 3],
        kernel: impl FnOnce() -> Box<dyn CubeKernel>,
    ) -> Result<(), Error> {
        let pipeline = self.pipelines.get(self.device, key, args.len(), kernel)?;
        let name = key.split(' ').next().unwrap_or(key).to_owned();
        self.drafts.push(Draft { pipeline, args, grid, name, bytes: 0 });
        Ok(())
    }

    /// Adds `y = [m₀·x; m₁·x; …]`: matrix `i`'s rows begin at `matrices[i].1` of the output, whose tokens stand `stride` apart. As few
    /// dispatches as types and buffers allow.
    pub fn mul(
        &mut self,
        image: &Image<'_>,
        matrices: &[(Tensor<'_>, u32)],
        buffers: MulBuffers<'_>,
        stride: u32,
        lanes: u32,
    ) -> Result<(), Error> {
        let mut runs: Vec<Run<'_>> = Vec::new();
        for &(tensor, out_row) in matrices {
            let (buffer, word) = self.weights.place(image, &tensor);
            let tiles = layout::n_tiles(tensor.rows) as u32;
            if let Some(run) = runs.last_mut() {
                let same =
                    run.buffer == buffer && run.tensor.role == tensor.role && run.tensor.dtype == tensor.dtype && !run.ended;
                let distance = word.wrapping_sub(run.word + (run.parts - 1) * run.part_words);
                let even = run.parts == 1 || distance == run.part_words;
                let joins = run.tensor.table == tensor.table && tensor.role.is_parted() && tiles <= run.tiles_of_part;
                let follows = run.out_row + run.parts * run.tiles_of_part * 16 == out_row;
                if same && even && joins && follows {
                    run.part_words = distance;
                    run.tiles += tiles;
                    run.parts += 1;
                    run.ended = tiles < run.tiles_of_part;
                    continue;
                }
            }
            runs.push(Run { tensor, buffer, word, out_row, tiles, tiles_of_part: tiles, part_words: 0, parts: 1, ended: false });
        }
        let mut rest = runs.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest.iter().take_while(|r| r.tensor.dtype == first.tensor.dtype && r.buffer == first.buffer);
            let n = alike.count().min(4);
            self.mul_runs(&rest[..n], buffers, stride, lanes)?;
            rest = &rest[n..];
        }
        Ok(())
    }

    fn mul_runs(&mut self, runs: &[Run<'_>], b: MulBuffers<'_>, stride: u32, lanes: u32) -> Result<(), Error> {
        let first = &runs[0];
        let dtype = first.tensor.dtype;
        let cols = first.tensor.cols as u32;
        let steps = if dtype.is_quantized() { cols.div_ceil(64) * 2 } else { cols };
        let kernel = match (dtype.is_quantized(), lanes) {
            (true, 1) if dtype == Dtype::Q8R => "matvec_rows",
            (true, 1) => "matvec",
            (true, _) => "matmul",
            (false, 1) => "matvec_float",
            (false, _) => "matmul_float",
        };
        let splits = match kernel {
            "matvec" => {
                let product = Product::new(dtype, cols, runs.iter().map(|run| run.tiles).sum());
                self.products.push(product);
                self.choices.splits(product)
            }
            // 256 units at most.
            "matvec_rows" => 16,
            // Sums of 16 tokens take 1 KiB of workgroup memory for each set of units.
            "matmul" => 8,
            _ => 4,
        };
        let splits = match kernel {
            // As few as do the same number of rounds; 16 units at least add up a tile.
            "matvec" => steps.div_ceil(steps.div_ceil(splits)).max(4),
            _ => splits,
        };
        let stride = if lanes == 1 { 0 } else { stride };
        let levels = Levels::of(&first.tensor.table);
        let alike = runs.iter().all(|run| Levels::of(&run.tensor.table) == levels);
        let levels = if alike { levels } else { Levels::Table };
        let spec = tiles::Spec { dtype, levels, cols, splits, matrices: runs.len() as u32, stride };
        let mut words = vec![0; (tiles::HEADER_WORDS + tiles::MATRIX_WORDS * spec.matrices) as usize];
        let mut tiles = 0;
        for (run, words) in runs.iter().zip(words[tiles::HEADER_WORDS as usize..].chunks_mut(tiles::MATRIX_WORDS as usize)) {
            words[..5].copy_from_slice(&[tiles, run.word, run.tiles_of_part, run.part_words, run.out_row]);
            for (word, levels) in words[5..9].iter_mut().zip(run.tensor.table.chunks(4)) {
                *word = u32::from_le_bytes([levels[0] as u8, levels[1] as u8, levels[2] as u8, levels[3] as u8]);
            }
            tiles += run.tiles;
        }
        words[0] = tiles;
        let params = self.params(&words);
        let weights = Arg::Whole(self.weights.buffers[first.buffer].clone());
        let [codes, scales, float, step, out] = [b.codes, b.scales, b.float, b.step, b.out].map(|x| Arg::Whole(x.clone()));
        let z = if lanes == 1 { Count::Fixed(1) } else { Count::Blocks(lanes) };
        let grid = [Count::Fixed(tiles.min(ROW)), Count::Fixed(tiles.div_ceil(ROW)), z];
        let (s, p, t) = begin(if kernel == "matvec" { spec.units() } else { 16 * splits });
        let args = match kernel {
            "matvec" | "matvec_rows" => vec![weights, codes, scales, params, out],
            "matmul" => vec![weights, codes, scales, params, step, out],
            "matvec_float" => vec![weights, float, params, out],
            _ => vec![weights, float, params, step, out],
        };
        self.add(&format!("{kernel} {spec:?}"), args, grid, || {
            let [a, b, c, d, e, f] = [0; 6].map(|_| buffer());
            match kernel {
                "matvec" => Box::new(matvec::matvec::Matvec::new(s, p, t, a, b, c, d, e, spec)),
                "matvec_rows" => Box::new(matvec::matvec_rows::MatvecRows::new(s, p, t, a, b, c, d, e, spec)),
                "matmul" => Box::new(matmul::matmul::Matmul::new(s, p, t, a, b, c, d, e, f, spec)),
                "matvec_float" => Box::new(matvec::matvec_float::MatvecFloat::new(s, p, t, a, b, c, d, spec)),
                _ => Box::new(matmul::matmul_float::MatmulFloat::new(s, p, t, a, b, c, d, e, spec)),
            }
        })?;
        if let Some(draft) = self.drafts.last_mut() {
            let kernel = if lanes == 1 { "matvec" } else { "matmul" };
            draft.name = format!("{kernel}_{} {}x{cols}", dtype.name(), 16 * tiles);
        }
        self.reads(u64::from(tiles) * layout::tile_bytes(dtype, cols as usize) as u64);
        Ok(())
    }

    /// The quantized products of one token that were added since this was asked last.
    pub fn products(&mut self) -> Vec<Product> {
        std::mem::take(&mut self.products)
    }

    /// Counts bytes of weights that the dispatch added last reads.
    pub fn reads(&mut self, bytes: u64) {
        if let Some(draft) = self.drafts.last_mut() {
            draft.bytes += bytes;
        }
    }

    /// The parts of the matrices of two roles, whose rows are the same, in as few runs as buffers and distances allow.
    pub fn parts(&self, image: &Image<'_>, roles: [Role; 2]) -> Vec<Parts> {
        let mut runs: Vec<Parts> = Vec::new();
        for (a, b) in image.parts(roles[0]).zip(image.parts(roles[1])) {
            let [(buffer, word), (_, beside)] = [a, b].map(|t| self.weights.place(image, &t));
            let (rows, bytes) = (a.rows as u32, a.bytes + b.bytes);
            if let Some(run) = runs.last_mut() {
                let part_words = if run.n == 1 { word.wrapping_sub(run.words[0]) } else { run.part_words };
                let follows = [word, beside].iter().zip(run.words).all(|(&w, first)| w.wrapping_sub(first) == run.n * part_words);
                let full = run.rows == run.n * run.rows_of_part && rows <= run.rows_of_part;
                if buffer == run.buffer && follows && full {
                    *run = Parts { rows: run.rows + rows, part_words, bytes: run.bytes + bytes, n: run.n + 1, ..*run };
                    continue;
                }
            }
            let first_row = a.first_row as u32;
            runs.push(Parts { buffer, first_row, rows, rows_of_part: rows, words: [word, beside], part_words: 0, bytes, n: 1 });
        }
        runs
    }

    /// The dispatches added since the last program, as one.
    pub fn program(&mut self) -> Result<Program, Error> {
        let params = std::mem::take(&mut self.params);
        let bytes: &[u8] = bytemuck::cast_slice(&params);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.buffer("parameters", bytes.len() as u64, usage)?;
        if !bytes.is_empty() {
            self.device.queue.write_buffer(&buffer, 0, bytes);
        }
        let mut steps = Vec::with_capacity(self.drafts.len());
        for draft in self.drafts.drain(..) {
            debug_assert_eq!(draft.args.len(), draft.pipeline.n_buffers);
            let entries: Vec<_> = (0u32..)
                .zip(&draft.args)
                .map(|(binding, arg)| wgpu::BindGroupEntry {
                    binding,
                    resource: match arg {
                        Arg::Whole(buffer) => buffer.as_entire_binding(),
                        Arg::Params(at) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                            buffer: &buffer,
                            offset: 4 * *at as u64,
                            size: wgpu::BufferSize::new(4 * PARAM_WORDS as u64),
                        }),
                    },
                })
                .collect();
            let group = self.device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &draft.pipeline.layout,
                entries: &entries,
            });
            let Draft { grid, name, bytes, .. } = draft;
            steps.push(Step { pipeline: draft.pipeline.pipeline.clone(), group, grid, name, bytes });
        }
        self.device.check()?;
        Ok(Program { steps })
    }
}
