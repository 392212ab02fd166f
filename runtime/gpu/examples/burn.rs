//! burn's quantized tensors beside these kernels: `y = W·x` for one token in the shapes of Qwen3-0.6B, milliseconds of both in one run.
//!
//! `cargo run -p bourn-gpu --features burn --example burn [-- ROUNDS]`. `BOURN_GPU` names the adapter (`llvmpipe` if it is not set).
//!
//! Both hold the same random matrices of as many layers, each in its own 4 bits with a scale for 32 of them: burn in `Q4S`, packed in
//! u32, in either layout, and in f32 as a yardstick; Bourn in `q4`, in an image of a Qwen3 checkpoint made here. burn chooses among its
//! kernels by measuring (its feature `autotune`), Bourn among its own (`GpuModel::tune`). Rounds alternate; medians count.
//!
//! burn's time is the host's, of many products back to back and one wait, with what it takes to launch them. Bourn's is the device's
//! clock around every product of a token (`GpuSession::profile`). burn multiplies f32 activations, Bourn int8 codes of them, which
//! the kernels before a product make, outside its time. burn's device thread polls while Bourn is measured, as ever after its first use.
//! Software adapters compute on the cores that everything else runs on: beside other work the least of a time says more than its median.
//!
//! burn's products are held to those of its own dequantized weights, computed here in f64. Bourn's are not checked here: `tests/agree.rs`
//! and `tests/fixtures.rs` hold them to the CPU's.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[path = "../tests/support/checkpoint.rs"]
mod checkpoint;

use bourn_checkpoint::Checkpoint;
use bourn_gpu::{Adapter, Choice, Device, DeviceOptions, GpuModel, GpuOptions, GpuSession, Kind};
use bourn_host::{ImageFile, StreamKind};
use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DeviceKind, Tensor, TensorData};
use checkpoint::Random;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const HIDDEN: usize = 1024;
const FFN: usize = 3072;
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const LAYERS: usize = 2;
const VOCAB: usize = 64;
/// Weights with one scale, in both.
const GROUP: usize = 32;
/// Products of a shape in a round, of either.
const BACK_TO_BACK: usize = 16;
/// Rounds, if no number of them is given.
const ROUNDS: usize = 7;
/// Largest difference of one of burn's products, in parts of the largest: f32 summed in another order.
const TOLERANCE: f64 = 1e-5;
/// Most that 4 bits may lose of the weights, in parts of their root mean square.
const LOSS: f64 = 0.15;

/// Matrices that meet the same activations, one below the other.
struct Product {
    what: &'static str,
    cols: usize,
    /// Name and rows.
    parts: &'static [(&'static str, usize)],
}

const PRODUCTS: [Product; 4] = [
    Product {
        what: "q, k, v",
        cols: HIDDEN,
        parts: &[("self_attn.q_proj", HEADS * HEAD_DIM), (KEYS, KV_HEADS * HEAD_DIM), (VALUES, KV_HEADS * HEAD_DIM)],
    },
    Product { what: "o", cols: HEADS * HEAD_DIM, parts: &[("self_attn.o_proj", HIDDEN)] },
    Product { what: "gate, up", cols: HIDDEN, parts: &[("mlp.gate_proj", FFN), ("mlp.up_proj", FFN)] },
    Product { what: "down", cols: FFN, parts: &[("mlp.down_proj", HIDDEN)] },
];
const KEYS: &str = "self_attn.k_proj";
const VALUES: &str = "self_attn.v_proj";

impl Product {
    fn rows(&self) -> usize {
        self.parts.iter().map(|(_, rows)| rows).sum()
    }
}

/// A group on the grid of 4 bits, which is packed as it is.
fn on_grid(random: &mut Random) -> [f32; GROUP] {
    let mut group = std::array::from_fn(|_| ((random.bits() >> 40) as i32 % 16 - 8) as f32 / 128.0);
    group[0] = -8.0 / 128.0;
    group
}

/// `[rows, cols]` of every product of a layer.
type Layer = [Vec<f32>; PRODUCTS.len()];

fn layer(random: &mut Random) -> Layer {
    PRODUCTS.map(|product| {
        let mut weights = Vec::with_capacity(product.rows() * product.cols);
        for (name, rows) in product.parts {
            let n = rows * product.cols;
            match *name {
                // So few keys and values are packed in 8 bits, unless they have 4 already.
                KEYS | VALUES => (0..n / GROUP).for_each(|_| weights.extend(on_grid(random))),
                _ => weights.extend((0..n).map(|_| random.value())),
            }
        }
        weights
    })
}

/// Writes the layers as a checkpoint, and that as an image.
fn pack(folder: &Path, layers: &[Layer], random: &mut Random) -> Result<ImageFile> {
    let config = format!(
        r#"{{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": {HIDDEN},
        "intermediate_size": {FFN}, "head_dim": {HEAD_DIM}, "num_attention_heads": {HEADS}, "num_key_value_heads": {KV_HEADS},
        "num_hidden_layers": {LAYERS}, "vocab_size": {VOCAB}, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": true, "attention_bias": false, "torch_dtype": "bfloat16"}}"#
    );
    let mut tensors: Vec<checkpoint::Tensor> = Vec::new();
    let mut add = |name: &str, shape: &[usize], values: &[f32]| tensors.push((name.to_owned(), shape.to_vec(), values.to_vec()));
    let embedding: Vec<f32> = (0..VOCAB * HIDDEN).map(|_| random.value()).collect();
    add("model.embed_tokens", &[VOCAB, HIDDEN], &embedding);
    add("model.norm", &[HIDDEN], &[1.0; HIDDEN]);
    for (i, layer) in layers.iter().enumerate() {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("model.layers.{i}.{norm}"), &[HIDDEN], &[1.0; HIDDEN]);
        }
        for norm in ["self_attn.q_norm", "self_attn.k_norm"] {
            add(&format!("model.layers.{i}.{norm}"), &[HEAD_DIM], &[1.0; HEAD_DIM]);
        }
        for (product, weights) in PRODUCTS.iter().zip(layer) {
            let mut rest = weights.as_slice();
            for (name, rows) in product.parts {
                let part;
                (part, rest) = rest.split_at(rows * product.cols);
                add(&format!("model.layers.{i}.{name}"), &[*rows, product.cols], part);
            }
        }
    }
    checkpoint::write(folder, &config, &tensors)?;
    let image = folder.join("image.bourn");
    bourn_pack::pack(&Checkpoint::open(folder)?, &image, &bourn_pack::Options::default(), &mut |_| {})?;
    Ok(ImageFile::open(&image, StreamKind::Resident)?)
}

/// How burn holds a matrix. `x: [1, cols]` meets `[cols, rows]`.
#[derive(Clone, Copy)]
enum Form {
    /// Quantized as `[rows, cols]` and transposed: 32 neighbours of a row have a scale, as Bourn's.
    Q4Rows,
    /// Quantized as `[cols, rows]`: 32 neighbours of a column have a scale.
    Q4Cols,
    F32Rows,
    F32Cols,
}

impl Form {
    const ALL: [Self; 4] = [Self::Q4Rows, Self::Q4Cols, Self::F32Rows, Self::F32Cols];

    const fn name(self) -> &'static str {
        match self {
            Self::Q4Rows => "burn Q4S by rows",
            Self::Q4Cols => "burn Q4S by columns",
            Self::F32Rows => "burn f32 by rows",
            Self::F32Cols => "burn f32 by columns",
        }
    }

    const fn is_quantized(self) -> bool {
        matches!(self, Self::Q4Rows | Self::Q4Cols)
    }

    /// `w`: `[rows, cols]`; what is returned is seen as `[cols, rows]`.
    fn tensor(self, w: &[f32], rows: usize, cols: usize, device: &burn::tensor::Device) -> Tensor<2> {
        let tensor = |values: Vec<f32>, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, shape), device);
        let scheme = QuantScheme::default()
            .with_value(QuantValue::Q4S)
            .with_store(QuantStore::PackedU32(0))
            .per_block([GROUP as u8], ScaleDtype::F32);
        let by_rows = || tensor(w.to_vec(), [rows, cols]);
        let by_columns = || tensor((0..cols).flat_map(|c| (0..rows).map(move |r| w[r * cols + c])).collect(), [cols, rows]);
        match self {
            Self::Q4Rows => by_rows().quantize_dynamic(&scheme).transpose(),
            Self::Q4Cols => by_columns().quantize_dynamic(&scheme),
            Self::F32Rows => by_rows().transpose(),
            Self::F32Cols => by_columns(),
        }
    }
}

/// One product in one form: every layer's matrix.
struct Theirs {
    x: Tensor<2>,
    w: Vec<Tensor<2>>,
}

impl Theirs {
    /// The host's milliseconds of a product.
    fn time(&self, device: &burn::tensor::Device) -> Result<f64> {
        let start = Instant::now();
        for w in self.w.iter().cycle().take(BACK_TO_BACK) {
            drop(self.x.clone().matmul(w.clone()));
        }
        device.sync()?;
        Ok(1e3 * start.elapsed().as_secs_f64() / BACK_TO_BACK as f64)
    }

    /// Fails unless the first layer's product is that of what its weights are when dequantized, and these are near `weights`.
    fn check(&self, x: &[f32], weights: &[f32]) -> Result<()> {
        let (rows, cols) = (weights.len() / x.len(), x.len());
        let held = self.w[0].clone().dequantize().try_into_data()?.try_into_vec_as::<f32>()?;
        let found = self.x.clone().matmul(self.w[0].clone()).try_into_data()?.try_into_vec_as::<f32>()?;
        let (mut lost, mut all) = (0.0, 0.0);
        let (mut apart, mut largest) = (0.0f64, 0.0f64);
        for (r, found) in found.iter().enumerate() {
            let mut want = 0.0;
            for (c, x) in x.iter().enumerate() {
                let (held, weight) = (f64::from(held[c * rows + r]), f64::from(weights[r * cols + c]));
                want += held * f64::from(*x);
                lost += (held - weight) * (held - weight);
                all += weight * weight;
            }
            apart = apart.max((f64::from(*found) - want).abs());
            largest = largest.max(want.abs());
        }
        let (apart, loss) = (apart / largest, (lost / all).sqrt());
        if apart <= TOLERANCE && loss <= LOSS {
            return Ok(());
        }
        Err(format!("{apart:e} from the product of its weights, {TOLERANCE:e} allowed; {loss:.3} of them lost, {LOSS} allowed")
            .into())
    }
}

/// The device of burn's that is `adapter`.
fn burns(adapter: &Adapter) -> Result<burn::tensor::Device> {
    let device = burn::tensor::Device::wgpu(match adapter.kind {
        Kind::Discrete => DeviceKind::DiscreteGpu(0),
        Kind::Integrated => DeviceKind::IntegratedGpu(0),
        Kind::Virtual => DeviceKind::VirtualGpu(0),
        Kind::Software => DeviceKind::Cpu,
        Kind::Other => DeviceKind::DefaultDevice,
    });
    let found = device.identity().map_or_else(String::new, |identity| identity.name);
    if found != adapter.name {
        return Err(format!("burn computes on {found:?}, Bourn on {:?}", adapter.name).into());
    }
    Ok(device)
}

/// Calls `f`, and returns what kernels of burn's died of meanwhile on its device thread: it takes another when one dies while it is tried.
fn casualties<T>(f: impl FnOnce() -> T) -> (T, Vec<String>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let (kept, before) = (Arc::clone(&all), Arc::new(std::panic::take_hook()));
    let hook = Arc::clone(&before);
    std::panic::set_hook(Box::new(move |panic| match std::thread::current().name() {
        Some("main") => hook(panic),
        _ => kept.lock().unwrap_or_else(PoisonError::into_inner).push(panic.payload_as_str().unwrap_or("?").to_owned()),
    }));
    let value = f();
    std::panic::set_hook(Box::new(move |panic| before(panic)));
    let all = std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner));
    (value, all)
}

/// The device's milliseconds of every product.
fn ours(session: &mut GpuSession, file: &ImageFile) -> Result<[f64; PRODUCTS.len()]> {
    let mut sums = [(Duration::ZERO, 0); PRODUCTS.len()];
    session.rewind(0)?;
    for token in 0..BACK_TO_BACK / LAYERS {
        let kernels = session.profile(file.image(), &mut file.stream(), token as u32)?;
        for (product, sum) in PRODUCTS.iter().zip(&mut sums) {
            let shape = format!(" {}x{}", product.rows(), product.cols);
            let kernel = kernels.iter().find(|k| k.kernel.starts_with("matvec_q4") && k.kernel.ends_with(&shape));
            let Some(kernel) = kernel else {
                let names: Vec<&str> = kernels.iter().map(|k| k.kernel.as_str()).collect();
                return Err(format!("no kernel matvec_q4{shape} among {}", names.join(", ")).into());
            };
            *sum = (sum.0 + kernel.time, sum.1 + kernel.dispatches);
        }
    }
    Ok(sums.map(|(time, n)| 1e3 * time.as_secs_f64() / n as f64))
}

/// What Cargo.lock says of a package.
fn version(package: &str) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let after = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map_or("", |(_, after)| after);
    format!("{package} {}", after.split('"').next().unwrap_or(""))
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |n| n.parse::<usize>())?.max(1);
    let name = std::env::var("BOURN_GPU").unwrap_or_else(|_| "llvmpipe".to_owned());
    let adapter = Adapter::choose(&Choice::Named(name))?;
    let versions = ["burn", "cubecl-wgpu", "wgpu"].map(version).join(", ");
    println!("{}, {} ({}); {}, {versions}", adapter.name, adapter.driver, adapter.kind.name(), version("bourn-gpu"));
    load();
    let device = burns(&adapter)?;

    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let layers: [Layer; LAYERS] = std::array::from_fn(|_| layer(&mut random));
    let folder = tempfile::tempdir()?;
    let file = pack(folder.path(), &layers, &mut random)?;
    let image = file.image();
    let model = Arc::new(GpuModel::new(Device::open(adapter, &DeviceOptions::default())?, image, &mut file.stream())?);
    model.tune(image)?;
    let options = GpuOptions { context: 64, ..GpuOptions::default() };
    let mut session = GpuSession::new(Arc::clone(&model), image, &options)?;

    let (mut theirs, mut deaths) = (Vec::new(), BTreeMap::new());
    for (i, product) in PRODUCTS.iter().enumerate() {
        let x: Vec<f32> = (0..product.cols).map(|_| random.value()).collect();
        for form in Form::ALL {
            let w = layers.iter().map(|layer| form.tensor(&layer[i], product.rows(), product.cols, &device)).collect();
            let held = Theirs { x: Tensor::from_data(TensorData::new(x.clone(), [1, product.cols]), &device), w };
            let (checked, died) = casualties(|| held.check(&x, &layers[0][i]));
            checked.map_err(|e| format!("{} {}: {e}", product.what, form.name()))?;
            died.into_iter().for_each(|of| *deaths.entry(of).or_insert(0) += 1);
            theirs.push(held);
        }
    }
    for (of, n) in deaths {
        println!("{n} of burn's kernels died while it tried them: {of}");
    }

    // Bourn's after burn's, round by round.
    let columns = Form::ALL.len() + 1;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); PRODUCTS.len() * columns];
    for round in 0..=rounds {
        let mut took = Vec::with_capacity(times.len());
        for forms in theirs.chunks(Form::ALL.len()) {
            for form in forms {
                took.push(form.time(&device)?);
            }
            took.push(0.0);
        }
        for (i, time) in ours(&mut session, &file)?.into_iter().enumerate() {
            took[i * columns + Form::ALL.len()] = time;
        }
        // The first is not counted: pipelines and pages are met for the first time.
        if round > 0 {
            times.iter_mut().zip(took).for_each(|(times, time)| times.push(time));
        }
    }

    load();
    println!("milliseconds of a product, median (least) of {rounds} rounds of {BACK_TO_BACK}");
    println!("burn: f32 activations; Bourn: int8, fused multiply-add {:?}", model.device().fma());
    let names = Form::ALL.map(Form::name).join(" | ");
    println!("| | rows x cols | {names} | Bourn q4 | the faster Q4S / q4 |");
    println!("|---|---|{}", "---|".repeat(columns + 1));
    let mut sums = vec![(0.0, 0.0); columns];
    for (product, times) in PRODUCTS.iter().zip(times.chunks_mut(columns)) {
        let row: Vec<(f64, f64)> = times.iter_mut().map(|times| median_and_least(times)).collect();
        sums.iter_mut().zip(&row).for_each(|(sum, time)| *sum = (sum.0 + time.0, sum.1 + time.1));
        show(product.what, &format!("{}x{}", product.rows(), product.cols), &row);
    }
    show("a layer", "", &sums);
    Ok(())
}

/// What else the machine does.
fn load() {
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        println!("load {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    }
}

fn median_and_least(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

/// A row of the table: burn's forms, Bourn's, and burn's time in the faster of its quantized forms in parts of Bourn's.
fn show(what: &str, shape: &str, row: &[(f64, f64)]) {
    let forms = || Form::ALL.iter().zip(row).filter(|(form, _)| form.is_quantized()).map(|(_, time)| *time);
    let (median, least) = row[Form::ALL.len()];
    let median = forms().map(|time| time.0).fold(f64::INFINITY, f64::min) / median;
    let least = forms().map(|time| time.1).fold(f64::INFINITY, f64::min) / least;
    let cells: Vec<String> =
        row.iter().chain(&[(median, least)]).map(|(median, least)| format!("{median:.2} ({least:.2})")).collect();
    println!("| {what} | {shape} | {} |", cells.join(" | "));
}
