//! What is in the image is what was in the checkpoint, as far as the element type can say it.

mod made;

use bourn_checkpoint::Checkpoint;
use bourn_format::layout::{LINEAR, tile_bytes};
use bourn_format::{Dtype, Image, Role};
use bourn_pack::{Error, FITTED, Levels, Options, Report, Weights, pack, unpack_row, unpack_row_of};
use half::{bf16, f16};
use made::{Made, Stored, place};
use std::path::Path;
use std::sync::atomic::Ordering;

fn packed(source: &Path, image: &Path, options: &Options) -> (Vec<u8>, Report) {
    let report = pack(&Checkpoint::open(source).unwrap(), image, options, &mut |_| {}).unwrap();
    (std::fs::read(image).unwrap(), report)
}

fn of(weights: Weights) -> Options {
    Options { weights, ..Options::default() }
}

/// The tensor of that name, whole, out of the image.
fn unpacked(image: &Image<'_>, file: &[u8], name: &str) -> Vec<f32> {
    let mut values = Vec::new();
    for t in (0..image.n_tensors()).map(|i| image.tensor(i)).filter(|t| t.name == name) {
        let bytes = &file[t.offset as usize..][..t.bytes as usize];
        for row in 0..t.rows {
            values.extend(unpack_row(&t, bytes, row).unwrap());
        }
    }
    values
}

fn check_all(file: &[u8], made: &[Made], expected: impl Fn(&Made) -> Vec<f32>) {
    let image = Image::new_checked(file).unwrap();
    for tensor in made {
        let found = unpacked(&image, file, &tensor.name);
        let need = expected(tensor);
        assert_eq!(found.len(), need.len(), "{}", tensor.name);
        for (i, (found, need)) in found.iter().zip(&need).enumerate() {
            assert_eq!(found.to_bits(), need.to_bits(), "{} element {i}: {found} {need}", tensor.name);
        }
    }
}

#[test]
fn the_page_names_every_tensor_and_needs_no_other_file() {
    let (dir, out) = place();
    let made = made::folder(dir.path(), false, "F32", |_| {});
    let (_, report) = packed(dir.path(), &out, &of(Weights::Q4));
    let page = report.to_html("<a model> & its image");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.contains("<h1>&lt;a model&gt; &amp; its image</h1>"));
    for t in &made {
        assert!(page.contains(&format!("<td>{}<td>", t.name)), "{}", t.name);
    }
    for outside in ["http", "src=", "href=", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf<"));
}

#[test]
fn f32_images_hold_every_weight_exactly() {
    for tied in [false, true] {
        let (dir, out) = place();
        let made = made::folder(dir.path(), tied, "F32", |_| {});
        let (file, report) = packed(dir.path(), &out, &of(Weights::F32));
        check_all(&file, &made, |t| t.values.clone());
        assert!(report.tensors.iter().all(|t| t.relative_error() == 0.0));
        assert_eq!(report.parameters, made.iter().map(|t| t.values.len() as u64).sum::<u64>());
        assert_eq!(report.file_bytes, file.len() as u64);
    }
}

#[test]
fn bf16_sources_keep_their_bits_and_half_types_round_to_even() {
    let (dir, out) = place();
    let made = made::folder(dir.path(), true, "BF16", |_| {});
    let (file, _) = packed(dir.path(), &out, &of(Weights::Bf16));
    check_all(&file, &made, |t| t.values.clone());
    let made = made::folder(dir.path(), true, "F32", |_| {});
    let flat = |t: &Made| t.rows == 1;
    let (file, _) = packed(dir.path(), &out, &of(Weights::Bf16));
    check_all(&file, &made, |t| t.values.iter().map(|v| if flat(t) { *v } else { bf16::from_f32(*v).to_f32() }).collect());
    let (file, _) = packed(dir.path(), &out, &of(Weights::F16));
    check_all(&file, &made, |t| t.values.iter().map(|v| if flat(t) { *v } else { f16::from_f32(*v).to_f32() }).collect());
}

#[test]
fn every_code_is_the_nearest_level_and_the_report_tells_the_error() {
    let (dir, out) = place();
    let made = made::folder(dir.path(), false, "F32", |_| {});
    for (options, body) in
        [(of(Weights::Q4), FITTED), (Options { levels: Levels::linear(), ..of(Weights::Q4) }, LINEAR), (of(Weights::Q8), [0; 16])]
    {
        let (file, report) = packed(dir.path(), &out, &options);
        let image = Image::new_checked(&file).unwrap();
        for tensor in &made {
            let entry = report.tensors.iter().find(|t| t.name == tensor.name).unwrap();
            let found = unpacked(&image, &file, &tensor.name);
            let error: f64 = found.iter().zip(&tensor.values).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            assert!((error - entry.squared_error).abs() <= 1e-4 * error, "{}: {error} {}", tensor.name, entry.squared_error);
            let head = matches!(entry.role, Role::Embed | Role::Head);
            let want = match (entry.role.is_flat(), options.weights, head) {
                (true, ..) => Dtype::F32,
                (_, Weights::Q4, false) => Dtype::Q4,
                _ => Dtype::Q8,
            };
            assert_eq!(entry.dtype, want);
            let bound = match want {
                Dtype::F32 => 0.0,
                Dtype::Q8 => 1e-4,
                _ => 0.012,
            };
            assert!(entry.relative_error() <= bound, "{} {}", tensor.name, entry.relative_error());
            if want == Dtype::Q4 {
                let t = image.layer(entry.layer.unwrap()).get(entry.role).unwrap();
                assert_eq!(t.table, body);
                nearest(&t, &file, tensor);
            }
        }
    }
}

/// No other level of its table would bring a weight nearer.
fn nearest(t: &bourn_format::Tensor<'_>, file: &[u8], made: &Made) {
    let bytes = &file[t.offset as usize..][..t.bytes as usize];
    for row in 0..t.rows {
        let tile = &bytes[row / 16 * tile_bytes(t.dtype, t.cols)..];
        let found = unpack_row(t, bytes, row).unwrap();
        for (col, (x, y)) in made.values[row * t.cols..].iter().zip(&found).enumerate() {
            let at = bourn_format::layout::scale_offset(t.dtype, row % 16, col);
            let scale = f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32();
            let least = t.table.iter().map(|l| (x - scale * f32::from(*l)).abs()).fold(f32::MAX, f32::min);
            assert!((x - y).abs() <= least + 1e-6 * x.abs(), "row {row} col {col}: {x} {y} scale {scale}");
        }
    }
}

#[test]
fn padding_is_zero() {
    let (dir, out) = place();
    made::folder(dir.path(), true, "F32", |_| {});
    let (file, _) = packed(dir.path(), &out, &of(Weights::Q4));
    let image = Image::new_checked(&file).unwrap();
    // head: 50 rows of 40 columns in Q8: rows 50…63 and columns 40…63 do not exist.
    let t = image.parts(Role::Head).next().unwrap();
    let last = &file[t.offset as usize..][..t.bytes as usize][3 * tile_bytes(Dtype::Q8, 40)..];
    for row in 0..16 {
        for col in 0..64 {
            let outside = row >= 2 || col >= 40;
            assert!(!outside || last[bourn_format::layout::byte_offset(row, col)] == 0, "code {row} {col}");
        }
        for group in 0..2 {
            let at = bourn_format::layout::scale_offset(Dtype::Q8, row, group * 32);
            assert_eq!(row < 2, last[at..at + 2] != [0, 0], "scale {row} {group}");
        }
    }
    let mut used = vec![false; file.len()];
    for t in (0..image.n_tensors()).map(|i| image.tensor(i)) {
        used[t.offset as usize..][..t.bytes as usize].fill(true);
    }
    let start = image.superblock().head_bytes as usize;
    assert!(file[start..].iter().zip(&used[start..]).all(|(byte, used)| *used || *byte == 0));
}

#[test]
fn q4_0_and_q4_1_sources_keep_their_values_exactly() {
    for embedding in [Stored::Q4_0, Stored::Q4_1, Stored::F32] {
        let (dir, out) = place();
        let source = dir.path().join("made.gguf");
        let made = made::gguf(&source, embedding);
        let (file, report) = packed(&source, &out, &of(Weights::Q4));
        let image = Image::new_checked(&file).unwrap();
        for tensor in &made {
            let entry = report.tensors.iter().find(|t| t.name == tensor.name).unwrap();
            let f32_matrix =
                tensor.name.contains("attn_k") || (tensor.rows > 1 && entry.role == Role::Head && embedding == Stored::F32);
            assert_eq!(entry.transferred, tensor.rows > 1 && !f32_matrix, "{}", tensor.name);
            if entry.role == Role::Wq || f32_matrix {
                continue;
            }
            let found = unpacked(&image, &file, &tensor.name);
            assert!(found.iter().zip(&tensor.values).all(|(a, b)| a.to_bits() == b.to_bits() || a == b), "{}", tensor.name);
        }
        // Queries lie in another order in GGUF: against the checkpoint's own rows.
        let checkpoint = Checkpoint::open(&source).unwrap();
        for t in checkpoint.tensors().iter().filter(|t| t.name.contains("attn_q")) {
            let mut row = vec![0.0; t.cols];
            for r in 0..t.rows {
                checkpoint.rows_f32(t, r..r + 1, &mut row).unwrap();
                assert_eq!(unpack_row_of(&image, &file, Role::Wq, Some(0), r).unwrap(), row);
            }
        }
        let layer = image.layer(0);
        assert_eq!((layer.get(Role::Wq).unwrap().dtype, layer.get(Role::Wq).unwrap().table), (Dtype::Q4, LINEAR));
        assert_eq!((layer.get(Role::Wk).unwrap().dtype, layer.get(Role::Wk).unwrap().table), (Dtype::Q4, FITTED));
        let down = layer.get(Role::Down).unwrap();
        assert_eq!((down.dtype, down.table), (Dtype::Q4M, core::array::from_fn(|i| i as i8)));
        assert_eq!(image.license(), "cc0-1.0");
    }
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let (dir, out) = place();
    made::folder(dir.path(), false, "F32", |_| {});
    for weights in [Weights::Q4, Weights::Q8, Weights::F16] {
        let (one, _) = packed(dir.path(), &out, &Options { threads: 1, ..of(weights) });
        for threads in [2, 3, 16] {
            assert!(packed(dir.path(), &out, &Options { threads, ..of(weights) }).0 == one, "{threads} threads");
        }
    }
}

#[test]
fn groups_of_every_size_are_quantized() {
    let (dir, out) = place();
    // Columns of one matrix run from the smallest to the largest size that f16 scales reach.
    let made = made::folder(dir.path(), true, "F32", |t| {
        if t.name == "model.layers.0.self_attn.o_proj.weight" {
            for (i, v) in t.values.iter_mut().enumerate() {
                *v *= f32::powi(10.0, (i / 32 % 15) as i32 - 9);
            }
        }
    });
    let tensor = made.iter().find(|t| t.name.contains("0.self_attn.o_proj")).unwrap();
    for (weights, worst) in [(Weights::Q4, 0.14f32), (Weights::Q8, 0.02)] {
        let (file, _) = packed(dir.path(), &out, &of(weights));
        let image = Image::new_checked(&file).unwrap();
        let found = unpacked(&image, &file, &tensor.name);
        for (group, (x, y)) in tensor.values.chunks(32).zip(found.chunks(32)).enumerate() {
            let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // The smallest scale is 2⁻²⁴: below 31 of them nothing finer can be asked for.
            let bound = (worst * max).max(f32::powi(2.0, -24) * if weights == Weights::Q4 { 4.0 } else { 1.0 });
            for (x, y) in x.iter().zip(y) {
                assert!((x - y).abs() <= bound, "group {group}: {x:e} {y:e} of {max:e}");
            }
        }
    }
}

#[test]
fn rejects_weights_that_do_not_fit() {
    for (weights, value) in [
        (Weights::F16, 65505.0),
        (Weights::F16, f32::NAN),
        (Weights::F32, f32::INFINITY),
        (Weights::Bf16, 3.4e38),
        (Weights::Q4, 1e30),
        (Weights::Q8, 1e30),
        (Weights::Q8, f32::NAN),
    ] {
        let (dir, out) = place();
        made::folder(dir.path(), true, "F32", |t| {
            if t.name == "model.layers.1.mlp.up_proj.weight" {
                t.values[7 * 40 + 11] = value;
            }
        });
        let error = pack(&Checkpoint::open(dir.path()).unwrap(), &out, &of(weights), &mut |_| {}).unwrap_err();
        assert!(
            matches!(&error, Error::DoesNotFit { tensor, row: 7, .. } if tensor == "model.layers.1.mlp.up_proj.weight"),
            "{error}"
        );
        nothing_left(dir.path());
    }
}

#[test]
fn nothing_is_left_of_a_cancelled_run() {
    let (dir, out) = place();
    made::folder(dir.path(), true, "F32", |_| {});
    let options = Options::default();
    let cancel = options.cancel.clone();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let mut seen = 0;
    let result = pack(&checkpoint, &out, &options, &mut |p| {
        seen += 1;
        assert!(p.done <= p.total && !out.exists());
        if p.done * 2 > p.total {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(result, Err(Error::Cancelled)) && seen > 3);
    nothing_left(dir.path());
}

#[test]
fn a_file_left_by_a_killed_process_is_no_obstacle() {
    let (dir, out) = place();
    made::folder(dir.path(), true, "F32", |_| {});
    let name = out.file_name().unwrap().to_str().unwrap();
    std::fs::write(out.with_file_name(format!(".{name}.{}.tmp", std::process::id())), b"half").unwrap();
    packed(dir.path(), &out, &Options::default());
    assert!(Image::new_checked(&std::fs::read(&out).unwrap()).is_ok());
}

#[test]
fn an_image_that_is_there_stays_until_the_new_one_is_whole() {
    let (dir, out) = place();
    made::folder(dir.path(), true, "F32", |t| t.values[0] = f32::NAN);
    std::fs::write(&out, b"old").unwrap();
    assert!(pack(&Checkpoint::open(dir.path()).unwrap(), &out, &Options::default(), &mut |_| {}).is_err());
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    made::folder(dir.path(), true, "F32", |_| {});
    packed(dir.path(), &out, &Options::default());
    assert!(Image::new_checked(&std::fs::read(&out).unwrap()).is_ok());
}

#[test]
fn rejects_a_folder_that_is_not_there() {
    let (dir, _) = place();
    made::folder(dir.path(), true, "F32", |_| {});
    let out = dir.path().join("missing").join("out.bourn");
    let error = pack(&Checkpoint::open(dir.path()).unwrap(), &out, &Options::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Io { what: "create", .. }), "{error}");
}

#[test]
fn generation_defaults_are_the_authors() {
    let (dir, out) = place();
    made::folder(dir.path(), true, "F32", |_| {});
    let (file, _) = packed(dir.path(), &out, &Options::default());
    let g = *Image::new_checked(&file).unwrap().generation();
    assert_eq!((g.temperature, g.top_k, g.top_p, g.min_p, g.repetition_penalty), (1.0, 9, 1.0, 0.0, 1.0));
    assert_eq!(g.eos().collect::<Vec<_>>(), [3, 7]);
    std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    let (file, _) = packed(dir.path(), &out, &Options::default());
    let g = *Image::new_checked(&file).unwrap().generation();
    assert_eq!((g.temperature, g.top_k, g.top_p, g.min_p), (0.7, 40, 0.95, 0.05));
    std::fs::write(dir.path().join("generation_config.json"), r#"{"do_sample": false}"#).unwrap();
    let (file, _) = packed(dir.path(), &out, &Options::default());
    assert_eq!(Image::new_checked(&file).unwrap().generation().temperature, 0.0);
}

fn nothing_left(dir: &Path) {
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|n| !n.contains("bourn")), "{names:?}");
}
