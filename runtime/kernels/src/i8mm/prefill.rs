//! Quantized matrix times eight vectors with SMMLA: two rows × eight columns times eight columns × two vectors at once.
//!
//! Words of four columns of four rows become eight columns of two rows by ZIP, and so do the activations of two vectors: four lanes of a sum are
//! rows 0, 0, 1, 1 with vectors 0, 1, 0, 1. Of 1024 products 32 are SMMLA, 24 end a group, 19 load and store: 0.073 instructions a product.

use crate::dotprod::decode::ONES;
use crate::neon::prefill::{Group, Lot, Multiply, Sums};
use core::arch::asm;

/// What four vectors of sums begin with.
static STARTS: [i32; 16] = [ONES; 16];

/// The tier's loop.
pub(crate) struct Smmla;

impl Multiply for Smmla {
    const ONES: i32 = ONES;

    /// `[rows 0, 1 | rows 2, 3][columns 8k .. 8k + 8]`.
    #[inline(always)]
    fn arrange(levels: [[i8; 16]; 8]) -> [[i8; 16]; 8] {
        core::array::from_fn(|v| {
            let (rows, k) = (v / 4 * 2, v % 4);
            core::array::from_fn(|i| levels[2 * k + i % 8 / 4][4 * (rows + i / 8) + i % 4])
        })
    }

    #[inline(always)]
    unsafe fn add<const MINIMA: bool, const NARROW: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums) {
        // SAFETY: the caller's promise is this one's.
        unsafe { groups::<MINIMA>(w, x, sums) }
    }

    #[inline(always)]
    fn rows(sums: &Sums, t: usize) -> [[f32; 4]; 4] {
        let at = |row: usize| ((row / 4 * 4 + t / 2) * 2 + row % 4 / 2) * 4 + row % 2 * 2 + t % 2;
        core::array::from_fn(|quad| core::array::from_fn(|row| sums[at(4 * quad + row)]))
    }
}

/// See [`Multiply::add`].
///
/// # Safety
/// As there.
#[inline(never)]
#[target_feature(enable = "neon,i8mm")]
unsafe fn groups<const MINIMA: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums) {
    assert!(!w.is_empty() && x.scale.len() == w.len() && (!MINIMA || x.scaled_sum.len() == w.len()));
    let [x0, x1, x2, x3, x4, x5, x6, x7] = x.x;
    // SAFETY: the loop reads `w.len()` groups of 32 activations behind each pointer, which the caller promises, as many scales, which the assertion
    // says are there, and reads and writes `sums`, 512 bytes; registers are declared; SMMLA is a target feature of this function.
    unsafe {
        asm!(
            r"
            .arch_extension i8mm
            // Two vectors' activations, eight columns a register.
            .macro pair a, b, c, d, x, y
                ldp q16, q17, [\x], #32
                ldp q18, q19, [\y], #32
                zip1 v\a\().2d, v16.2d, v18.2d
                zip2 v\b\().2d, v16.2d, v18.2d
                zip1 v\c\().2d, v17.2d, v19.2d
                zip2 v\d\().2d, v17.2d, v19.2d
            .endm
            // Two rows times eight vectors, to v\a to v\d.
            .macro rows a, b, c, d
                ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{w}], #64
                ld1 {{v\a\().16b, v\b\().16b, v\c\().16b, v\d\().16b}}, [{ones}]
                columns 24, 0, 4, 8, 12, \a, \b, \c, \d
                columns 25, 1, 5, 9, 13, \a, \b, \c, \d
                columns 26, 2, 6, 10, 14, \a, \b, \c, \d
                columns 27, 3, 7, 11, 15, \a, \b, \c, \d
            .endm
            .macro columns w, p, q, r, s, a, b, c, d
                smmla v\a\().4s, v\w\().16b, v\p\().16b
                smmla v\b\().4s, v\w\().16b, v\q\().16b
                smmla v\c\().4s, v\w\().16b, v\r\().16b
                smmla v\d\().4s, v\w\().16b, v\s\().16b
            .endm
            // The end of a group for vectors 2j and 2j + 1: sums v\a of rows 0, 1 and v\b of rows 2, 3.
            .macro end j, a, b
                ld1r {{v26.2d}}, [{scales}], #8
                ldp q28, q29, [{sums}]
                fmul v27.4s, v24.4s, v26.4s
                fmul v26.4s, v25.4s, v26.4s
                fmla v28.4s, v\a\().4s, v27.4s
                fmla v29.4s, v\b\().4s, v26.4s
                .if {minima}
                ld1r {{v26.2d}}, [{mins}], #8
                fmla v28.4s, v30.4s, v26.4s
                fmla v29.4s, v31.4s, v26.4s
                .endif
                stp q28, q29, [{sums}], #32
            .endm
            2:
            pair 0, 1, 2, 3, {x0}, {x1}
            pair 4, 5, 6, 7, {x2}, {x3}
            pair 8, 9, 10, 11, {x4}, {x5}
            pair 12, 13, 14, 15, {x6}, {x7}
            .rept 4
            rows 16, 17, 18, 19
            rows 20, 21, 22, 23
            // 1.5·2^23 and s_w; then s_w of rows 0, 0, 1, 1 and 2, 2, 3, 3.
            ldp q24, q25, [{w}], #64
            fsub v16.4s, v16.4s, v24.4s
            fsub v17.4s, v17.4s, v24.4s
            fsub v18.4s, v18.4s, v24.4s
            fsub v19.4s, v19.4s, v24.4s
            fsub v20.4s, v20.4s, v24.4s
            fsub v21.4s, v21.4s, v24.4s
            fsub v22.4s, v22.4s, v24.4s
            fsub v23.4s, v23.4s, v24.4s
            zip1 v24.4s, v25.4s, v25.4s
            zip2 v25.4s, v25.4s, v25.4s
            .if {minima}
            ldr q31, [{w}, #-32]
            zip1 v30.4s, v31.4s, v31.4s
            zip2 v31.4s, v31.4s, v31.4s
            .endif
            end 0, 16, 20
            end 1, 17, 21
            end 2, 18, 22
            end 3, 19, 23
            sub {scales}, {scales}, #32
            .if {minima}
            sub {mins}, {mins}, #32
            .endif
            .endr
            add {scales}, {scales}, #32
            .if {minima}
            add {mins}, {mins}, #32
            .endif
            sub {sums}, {sums}, #512
            subs {n}, {n}, #1
            b.ne 2b
            .purgem pair
            .purgem rows
            .purgem columns
            .purgem end
            ",
            minima = const MINIMA as usize,
            n = inout(reg) w.len() => _,
            w = inout(reg) w.as_ptr() => _,
            ones = in(reg) STARTS.as_ptr(),
            scales = inout(reg) x.scale.as_ptr() => _,
            mins = inout(reg) x.scaled_sum.as_ptr() => _,
            sums = inout(reg) sums.as_mut_ptr() => _,
            x0 = inout(reg) x0 => _, x1 = inout(reg) x1 => _, x2 = inout(reg) x2 => _, x3 = inout(reg) x3 => _,
            x4 = inout(reg) x4 => _, x5 = inout(reg) x5 => _, x6 = inout(reg) x6 => _, x7 = inout(reg) x7 => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        );
    }
}
