//! Packing by what a calibration run shows: error feedback, 8 bits where they buy most, grids that are found.

mod made;

use bourn_checkpoint::Checkpoint;
use bourn_format::layout::LINEAR;
use bourn_format::{Dtype, Image, Role};
use bourn_pack::{Error, Method, Options, Report, Screening, Weights, pack, unpack_row};
use made::place;
use std::path::{Path, PathBuf};

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny")
}

fn packed(source: &Path, options: &Options) -> (Vec<u8>, Report) {
    let (_dir, out) = place();
    let report = pack(&Checkpoint::open(source).unwrap(), &out, options, &mut |_| {}).unwrap();
    (std::fs::read(&out).unwrap(), report)
}

fn with(method: Method) -> Options {
    Options { method: Some(method), ..Options::default() }
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let bytes = |threads| packed(&tiny(), &Options { threads, bits: Some(5.0), ..with(Method::Gptq) }).0;
    let one = bytes(1);
    assert!(one == bytes(3) && one == bytes(1));
}

#[test]
fn feedback_is_the_default_where_there_is_a_tokenizer() {
    let (_, report) = packed(&tiny(), &Options::default());
    assert_eq!(report.method, Method::Gptq);
    let down = report.tensors.iter().find(|t| t.role == Role::Down).unwrap();
    let lost = down.relative_output_error().unwrap();
    assert!(lost > 0.0 && lost < 0.02, "{lost}");
    // Nearer in what comes out, farther in the weights.
    let (_, nearest) = packed(&tiny(), &with(Method::Rtn));
    assert!(report.body_error() > nearest.body_error());
    assert!(nearest.tensors.iter().all(|t| t.relative_output_error().is_none()));

    let (dir, out) = place();
    made::folder(dir.path(), true, "F32", |_| {});
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.tokenizer.is_none());
    assert_eq!(pack(&checkpoint, &out, &Options::default(), &mut |_| {}).unwrap().method, Method::Rtn);
    let error = pack(&checkpoint, &out, &with(Method::Gptq), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Calibration { .. }) && error.to_string().contains("tokenizer"), "{error}");
}

#[test]
fn bits_are_spent_and_kept_to() {
    let weights = |report: &Report, dtype: Dtype| -> usize {
        let layers = report.tensors.iter().filter(|t| t.layer.is_some() && t.rows > 1 && t.dtype == dtype);
        layers.map(|t| t.rows * t.cols).sum()
    };
    let mut before = 0;
    for bits in [4.5, 5.0, 6.5, 8.5] {
        let (_, report) = packed(&tiny(), &Options { bits: Some(bits), ..Options::default() });
        let (four, eight) = (weights(&report, Dtype::Q4), weights(&report, Dtype::Q8));
        let spent = (4.5 * four as f64 + 8.5 * eight as f64) / (four + eight) as f64;
        assert!(spent <= bits + 1e-9, "{spent} of {bits}");
        assert!(eight >= before, "{bits}");
        before = eight;
        match bits {
            4.5 => assert_eq!(eight, 0),
            _ => assert!(eight > 0, "{bits}"),
        }
    }
    for (bits, weights) in [(4.0, Weights::Q4), (9.0, Weights::Q4), (f64::NAN, Weights::Q4), (5.0, Weights::F16)] {
        let (_dir, out) = place();
        let options = Options { bits: Some(bits), weights, ..Options::default() };
        let error = pack(&Checkpoint::open(&tiny()).unwrap(), &out, &options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Bits { .. }), "{error}");
    }
}

#[test]
fn floats_on_the_grid_of_q4_0_are_packed_without_loss() {
    for stored in ["F32", "BF16"] {
        let (dir, out) = place();
        let name = "model.layers.0.self_attn.o_proj.weight";
        let made = made::folder(dir.path(), true, stored, |t| {
            if t.name != name {
                return;
            }
            for (g, group) in t.values.chunks_mut(32).enumerate() {
                let scale = half::f16::from_f32(0.003 * (1 + g % 5) as f32).to_f32();
                for (i, v) in group.iter_mut().enumerate() {
                    let q = if i == g % 32 { -8 } else { ((i * 7 + g * 3) % 16) as i32 - 8 };
                    *v = if g % 2 == 0 { scale } else { -scale } * q as f32;
                }
            }
        });
        let options = Options { screening: Some(Screening::Never), ..Options::default() };
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        pack(&checkpoint, &out, &options, &mut |_| {}).unwrap();
        let file = std::fs::read(&out).unwrap();
        let image = Image::new_checked(&file).unwrap();
        let want = &made.iter().find(|t| t.name == name).unwrap().values;
        let tensor = (0..image.n_tensors()).map(|i| image.tensor(i)).find(|t| t.name == name).unwrap();
        assert!(tensor.cols.is_multiple_of(32));
        assert_eq!((tensor.dtype, tensor.table), (Dtype::Q4, LINEAR), "{stored}");
        let bytes = &file[tensor.offset as usize..][..tensor.bytes as usize];
        for (row, want) in want.chunks(tensor.cols).enumerate() {
            for (found, want) in unpack_row(&tensor, bytes, row).unwrap().iter().zip(want) {
                // To the bits of the stored type.
                let near = if stored == "BF16" { 1.0 / 256.0 } else { 1.0 / 2048.0 };
                assert!((found - want).abs() <= near * want.abs(), "{stored}: {found} for {want}");
            }
        }
        // Any other matrix is not on it.
        let other = (0..image.n_tensors()).map(|i| image.tensor(i)).find(|t| t.role == Role::Up).unwrap();
        assert_ne!(other.table, LINEAR);
    }
}
