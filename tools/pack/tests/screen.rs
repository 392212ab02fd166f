//! The screened head: fitted, packed, and held to the whole head's logits.

use bourn_checkpoint::Checkpoint;
use bourn_core::{Engine, HeadMode, KvDtype, Options as CoreOptions, Session, workspace_bytes};
use bourn_format::{Dtype, Image, Role, layout};
use bourn_host::{ImageFile, Pool, StreamKind};
use bourn_kernels::{Kernels, OneCore, Rows};
use bourn_pack::{Options, Screening, pack, unpack_row_of};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The tiny checkpoint with a screened head.
fn packed(options: &Options) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("screened.bourn");
    pack(&Checkpoint::open(&fixtures().join("tiny")).unwrap(), &out, options, &mut |_| {}).unwrap();
    (dir, out)
}

fn standard() -> Options {
    Options { screening: Some(Screening::Standard), ..Options::default() }
}

/// Logits after each of `ids`, `[ids, vocab]`.
fn logits(
    file: &ImageFile,
    mode: HeadMode,
    kernels: &'static Kernels,
    rows: &dyn Rows,
    logit_rows: usize,
    ids: &[u32],
) -> Vec<f32> {
    let image = file.image();
    let options = CoreOptions { context: ids.len(), prefill_block: 8, kv: KvDtype::F16, logit_rows, retain: 0 };
    let mut workspace = vec![0; workspace_bytes(image, &options).unwrap()];
    let mut session = Session::new(image, &options, &mut workspace).unwrap();
    session.set_head_mode(mode);
    let mut stream = file.stream();
    let mut engine = Engine { image, stream: &mut stream, kernels, decode: rows, prefill: rows };
    let mut all = Vec::new();
    session.logits_of_all(&mut engine, ids, &mut |_, row| all.extend_from_slice(row)).unwrap();
    all
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 67 + 5) % 271).collect()
}

fn open(path: &Path) -> ImageFile {
    ImageFile::open(path, StreamKind::Resident).unwrap()
}

fn best(row: &[f32]) -> usize {
    (bourn_kernels::by_name("scalar").unwrap().argmax)(row)
}

#[test]
fn candidates_have_the_bits_of_the_whole_head() {
    let (_dir, out) = packed(&standard());
    let file = open(&out);
    let (image, ids) = (file.image(), ids(200));
    let screen = image.screen().unwrap();
    assert_eq!(image.superblock().version, 2);
    let most = screen.candidates();
    assert!(most < 271 / 4);
    let scalar = bourn_kernels::by_name("scalar").unwrap();
    let whole = logits(&file, HeadMode::Exact, scalar, &OneCore, 4, &ids);
    let screened = logits(&file, HeadMode::Screened, scalar, &OneCore, 4, &ids);
    let (mut agreed, mut candidates) = (0, 0);
    for (whole, screened) in whole.chunks(271).zip(screened.chunks(271)) {
        let same = (0..271).filter(|&i| whole[i].to_bits() == screened[i].to_bits()).count();
        // The rest are scores, which may be right by chance.
        assert!(same <= most + 8, "{same} of {most}");
        candidates += same;
        let top = best(whole);
        if whole[top].to_bits() == screened[top].to_bits() {
            assert_eq!(best(screened), top, "the whole head's best is a candidate, so it is the best");
            agreed += 1;
        }
    }
    assert!(candidates > 200 * most / 2, "{candidates}");
    assert!(agreed >= 196, "{agreed} of 200");
}

#[test]
fn every_tier_thread_count_and_block_gives_the_same_bits() {
    let (_dir, out) = packed(&standard());
    let file = open(&out);
    let ids = ids(40);
    let scalar = bourn_kernels::by_name("scalar").unwrap();
    let pool = Pool::new(3);
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for mode in [HeadMode::Screened, HeadMode::Exact] {
        let want = bits(logits(&file, mode, scalar, &OneCore, 1, &ids));
        for kernels in bourn_kernels::available() {
            for threads in [1, 3] {
                for logit_rows in [1, 7] {
                    let found = bits(logits(&file, mode, kernels, &pool.limited(threads), logit_rows, &ids));
                    assert!(found == want, "{mode:?} {} {threads} threads, {logit_rows} rows", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn only_allowed_tokens_have_logits_and_they_are_exact() {
    for screening in [Screening::Standard, Screening::Never] {
        let (_dir, out) = packed(&Options { screening: Some(screening), ..Options::default() });
        let file = open(&out);
        let (image, ids) = (file.image(), ids(20));
        let kernels = bourn_kernels::best();
        let whole = logits(&file, HeadMode::Exact, kernels, &OneCore, 1, &ids);
        let last = &whole[19 * 271..];
        let options = CoreOptions { context: 21, prefill_block: 8, kv: KvDtype::F16, logit_rows: 1, retain: 0 };
        let mut workspace = vec![0; workspace_bytes(image, &options).unwrap()];
        let mut session = Session::new(image, &options, &mut workspace).unwrap();
        let mut stream = file.stream();
        let mut engine = Engine { image, stream: &mut stream, kernels, decode: &OneCore, prefill: &OneCore };
        let allowed = [270, 3, 16, 3];
        let found = session.prefill_allowed(&mut engine, &ids, &allowed).unwrap();
        for (id, logit) in found.iter().enumerate() {
            let want = if allowed.contains(&(id as u32)) { last[id] } else { f32::NEG_INFINITY };
            assert_eq!(logit.to_bits(), want.to_bits(), "{id}");
        }
        let error = session.prefill_allowed(&mut engine, &[1], &[271]).unwrap_err();
        assert_eq!(error.to_string(), "token id 271 out of range: the model has 271");
    }
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let (_a, one) = packed(&Options { threads: 1, ..standard() });
    let (_b, three) = packed(&Options { threads: 3, ..standard() });
    assert!(std::fs::read(one).unwrap() == std::fs::read(three).unwrap());
}

#[test]
fn the_rows_are_those_of_an_8_bit_head() {
    let (_a, screened) = packed(&standard());
    let (_b, plain) = packed(&Options { screening: Some(Screening::Never), ..Options::default() });
    let (a, b) = (std::fs::read(screened).unwrap(), std::fs::read(plain).unwrap());
    let (with, without) = (Image::new_checked(&a).unwrap(), Image::new_checked(&b).unwrap());
    assert_eq!(without.superblock().version, 1, "an image that needs nothing new is of the old version");
    assert_eq!(with.parameters(), without.parameters());
    for row in [0, 15, 16, 270] {
        let rows = [(&with, &a), (&without, &b)].map(|(i, f)| unpack_row_of(i, f, Role::Head, None, row).unwrap());
        assert_eq!(rows[0], rows[1]);
    }
    let screen = with.screen().unwrap();
    let bytes = |roles: &[Role]| -> u64 {
        (0..with.n_tensors()).map(|i| with.tensor(i)).filter(|t| roles.contains(&t.role)).map(|t| t.bytes).sum()
    };
    let head: u64 = without.parts(Role::Head).map(|t| t.bytes).sum();
    let coarse = bytes(&[Role::ScreenMean, Role::ScreenMap, Role::ScreenBooks, Role::ScreenBias, Role::ScreenCodes]);
    let exact = (screen.candidates() * layout::row_bytes(64)) as u64;
    assert_eq!(with.bytes_per_token(), without.bytes_per_token() - head + coarse + exact);
}

#[test]
fn heads_and_screens_that_do_not_fit_are_refused() {
    let (_dir, out) = packed(&standard());
    let file = std::fs::read(out).unwrap();
    let head = u64::from_le_bytes(file[24..32].try_into().unwrap()) as usize;
    let section = |kind: u32| {
        let entries = file[256..].chunks(24).take(usize::from(file[40]));
        let entry = entries.into_iter().find(|e| e[..4] == kind.to_le_bytes()).unwrap();
        u64::from_le_bytes(entry[8..16].try_into().unwrap()) as usize
    };
    let refused = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let sum = bourn_format::checksum(&file[256..head]);
        file[48..56].copy_from_slice(&sum.to_le_bytes());
        let sum = bourn_format::checksum(&file[..248]);
        file[248..256].copy_from_slice(&sum.to_le_bytes());
        Image::new_checked(&file).err().map(|e| e.to_string())
    };
    let screen = section(8);
    for (word, value, what) in [
        (0, 0u32, "n_subs of the screen is 0"),
        (0, 3, "n_subs of the screen is 3"),
        (0, 1024, "n_subs of the screen is 1024"),
        (1, 1, "n_wide of the screen is 1"),
        (1, 1 << 20, "n_wide of the screen"),
        (2, 65, "dims of the screen is 65"),
        (3, 0, "candidates of the screen is 0"),
        (3, 272, "candidates of the screen is 272"),
        (4, f32::NAN.to_bits(), "margin of the screen"),
        (4, 0, "margin of the screen is 0"),
        (8, 0x0000_0001, "dimensions of a sub-quantizer"),
        (8, 0x0011_0000, "dimensions of a sub-quantizer"),
    ] {
        let error = refused(screen + 4 * word, &value.to_le_bytes()).expect(what);
        assert!(error.contains(what), "{error} is not about {what}");
    }
    // Tensors: a head that cannot be read by rows, codes of another type, a screen's tensor without a screen.
    let image = Image::new_checked(&file).unwrap();
    let tensors = section(4);
    let at = |role| tensors + 80 * (0..image.n_tensors()).find(|&i| image.tensor(i).role == role).unwrap();
    assert!(refused(at(Role::Head) + 4, &[Dtype::Q8 as u8]).is_some());
    assert!(refused(at(Role::ScreenCodes) + 4, &[Dtype::Q4 as u8]).unwrap().contains("dtype for this role"));
    assert!(refused(at(Role::ScreenCodes), &(Role::ScreenBias as u16).to_le_bytes()).is_some());
    assert!(refused(at(Role::ScreenMap), &(Role::ScreenMean as u16).to_le_bytes()).is_some());
    assert!(refused(8, &1u32.to_le_bytes()).is_some(), "version 1 has no screens");
}

#[test]
fn a_calibration_text_that_says_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.bourn");
    let options = Options { calibration: Some("Too short.".into()), ..standard() };
    let error = pack(&Checkpoint::open(&fixtures().join("tiny")).unwrap(), &out, &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("need at least 1024 tokens"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}
