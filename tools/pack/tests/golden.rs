//! One image of every version of the format stays readable: `tests/fixtures/v1-quantized.bourn`.
//!
//! It holds each quantized type: Q4 with the linear and with the fitted table, Q4M, Q8. Its source is made here, so packing again must
//! give the same weights to the byte. `BOURN_WRITE_FIXTURES=1` writes a fixture that is not there; one that is there is never changed.

mod made;

use bourn_checkpoint::Checkpoint;
use bourn_format::layout::LINEAR;
use bourn_format::{Dtype, Image, Role};
use bourn_pack::{FITTED, Options, pack, unpack_row_of};
use made::{Stored, place};
use std::path::PathBuf;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/v1-quantized.bourn")
}

fn fresh() -> (Vec<u8>, Vec<made::Made>) {
    let (dir, out) = place();
    let source = dir.path().join("made.gguf");
    let made = made::gguf(&source, Stored::F32);
    pack(&Checkpoint::open(&source).unwrap(), &out, &Options::default(), &mut |_| {}).unwrap();
    (std::fs::read(out).unwrap(), made)
}

fn golden(fresh: &[u8]) -> Vec<u8> {
    let path = fixture();
    if std::env::var_os("BOURN_WRITE_FIXTURES").is_some() && !path.exists() {
        std::fs::write(&path, fresh).unwrap();
    }
    std::fs::read(&path).unwrap()
}

#[test]
fn version_1_is_read() {
    let (fresh, made) = fresh();
    let file = golden(&fresh);
    let image = Image::new_checked(&file).unwrap();
    assert_eq!(image.superblock().version, 1);
    assert_eq!(image.superblock().file_bytes, file.len() as u64);
    let shape = image.shape();
    assert_eq!((shape.hidden, shape.ffn, shape.vocab, shape.tied), (96, 64, 37, true));
    let layer = image.layer(0);
    for (role, dtype, table) in [
        (Role::Wq, Dtype::Q4, LINEAR),
        (Role::Wk, Dtype::Q4, FITTED),
        (Role::Gate, Dtype::Q4M, core::array::from_fn(|i| i as i8)),
    ] {
        let t = layer.get(role).unwrap();
        assert_eq!((t.dtype, t.table), (dtype, table));
    }
    assert_eq!(image.parts(Role::Embed).next().unwrap().dtype, Dtype::Q8);
    let start = image.superblock().payload_offset as usize;
    for (page, bytes) in file[start..].chunks(bourn_format::PAGE).enumerate() {
        image.check_page(page, bytes).unwrap();
    }
    // Values: exact where they were transferred, near where they were quantized.
    for (name, role, layer, bound) in [
        ("blk.0.attn_v.weight", Role::Wv, Some(0), 0.0),
        ("blk.0.ffn_down.weight", Role::Down, Some(0), 0.0),
        ("blk.0.attn_norm.weight", Role::AttnNorm, Some(0), 0.0),
        ("output_norm.weight", Role::FinalNorm, None, 0.0),
        ("token_embd.weight", Role::Embed, None, 0.001),
    ] {
        let tensor = made.iter().find(|t| t.name == name).unwrap();
        for (row, values) in tensor.values.chunks(tensor.cols).enumerate() {
            let found = unpack_row_of(&image, &file, role, layer, row).unwrap();
            assert!(found.iter().zip(values).all(|(a, b)| (a - b).abs() <= bound), "{name} row {row}");
        }
    }
}

#[test]
fn packing_again_gives_the_same_bytes() {
    let (fresh, _) = fresh();
    let file = golden(&fresh);
    let (old, new) = (Image::new_checked(&file).unwrap(), Image::new_checked(&fresh).unwrap());
    if old.provenance() == new.provenance() {
        assert!(file == fresh);
    }
    // The provenance names the packer's version; with another one all else stays.
    let payload = |image: &Image<'_>| image.superblock().payload_offset as usize;
    assert!(file[payload(&old)..] == fresh[payload(&new)..]);
    assert_eq!((old.shape(), old.license(), old.n_tensors()), (new.shape(), new.license(), new.n_tensors()));
}
