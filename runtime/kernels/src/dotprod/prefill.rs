//! Quantized matrix times eight vectors with SDOT: the activations of eight vectors stay in registers while 16 rows pass.
//!
//! Of 128 products (4 rows × 32 columns) a vector costs 8 SDOT, FSUB, FMUL and FMLA, and an eighth of 11 loads and stores; the activations are shared
//! by 16 rows. That is 0.099 instructions a product, and 1.38 cycles per 32 of them on two vector pipes.

use super::decode::ONES;
use crate::neon::prefill::{Group, Lot, Multiply, Sums, TOKENS};
use core::arch::asm;

/// What four vectors of sums begin with.
static STARTS: [i32; 16] = [ONES; 16];

/// The tier's loop.
pub(crate) struct Sdot;

impl Multiply for Sdot {
    const ONES: i32 = ONES;

    #[inline(always)]
    fn arrange(levels: [[i8; 16]; 8]) -> [[i8; 16]; 8] {
        levels
    }

    #[inline(always)]
    unsafe fn add<const MINIMA: bool, const NARROW: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums) {
        // SAFETY: the caller's promise is this one's.
        unsafe { groups::<MINIMA>(w, x, sums) }
    }

    #[inline(always)]
    fn rows(sums: &Sums, t: usize) -> [[f32; 4]; 4] {
        let (rows, _) = sums.as_chunks::<4>();
        core::array::from_fn(|quad| rows[quad * TOKENS + t])
    }
}

/// See [`Multiply::add`].
///
/// # Safety
/// As there.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
unsafe fn groups<const MINIMA: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums) {
    assert!(!w.is_empty() && x.scale.len() == w.len() && (!MINIMA || x.scaled_sum.len() == w.len()));
    let [x0, x1, x2, x3, x4, x5, x6, x7] = x.x;
    // SAFETY: the loop reads `w.len()` groups of 32 activations behind each pointer, which the caller promises, as many scales, which the assertion
    // says are there, and reads and writes `sums`, 512 bytes; registers are declared; SDOT is a target feature of this function.
    unsafe {
        asm!(
            r"
            .arch_extension dotprod
            // Four rows, one word of each: v\w, with lane p of each vector's.
            .macro words w, p, a, b, c, d, e, f, g, h
                sdot v16.4s, v\w\().16b, v\a\().4b[\p]
                sdot v17.4s, v\w\().16b, v\b\().4b[\p]
                sdot v18.4s, v\w\().16b, v\c\().4b[\p]
                sdot v19.4s, v\w\().16b, v\d\().4b[\p]
                sdot v20.4s, v\w\().16b, v\e\().4b[\p]
                sdot v21.4s, v\w\().16b, v\f\().4b[\p]
                sdot v22.4s, v\w\().16b, v\g\().4b[\p]
                sdot v23.4s, v\w\().16b, v\h\().4b[\p]
            .endm
            2:
            ldp q0, q1, [{x0}], #32
            ldp q2, q3, [{x1}], #32
            ldp q4, q5, [{x2}], #32
            ldp q6, q7, [{x3}], #32
            ldp q8, q9, [{x4}], #32
            ldp q10, q11, [{x5}], #32
            ldp q12, q13, [{x6}], #32
            ldp q14, q15, [{x7}], #32
            .rept 4
            ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{w}], #64
            ld1 {{v16.16b, v17.16b, v18.16b, v19.16b}}, [{ones}]
            ld1 {{v20.16b, v21.16b, v22.16b, v23.16b}}, [{ones}]
            words 24, 0, 0, 2, 4, 6, 8, 10, 12, 14
            words 25, 1, 0, 2, 4, 6, 8, 10, 12, 14
            words 26, 2, 0, 2, 4, 6, 8, 10, 12, 14
            words 27, 3, 0, 2, 4, 6, 8, 10, 12, 14
            ld1 {{v24.16b, v25.16b, v26.16b, v27.16b}}, [{w}], #64
            words 24, 0, 1, 3, 5, 7, 9, 11, 13, 15
            words 25, 1, 1, 3, 5, 7, 9, 11, 13, 15
            words 26, 2, 1, 3, 5, 7, 9, 11, 13, 15
            words 27, 3, 1, 3, 5, 7, 9, 11, 13, 15
            // 1.5·2^23 and s_w; s_x.
            ldp q24, q25, [{w}], #64
            ldp q26, q27, [{scales}]
            fsub v16.4s, v16.4s, v24.4s
            fsub v17.4s, v17.4s, v24.4s
            fsub v18.4s, v18.4s, v24.4s
            fsub v19.4s, v19.4s, v24.4s
            ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{sums}]
            fsub v20.4s, v20.4s, v24.4s
            fsub v21.4s, v21.4s, v24.4s
            fsub v22.4s, v22.4s, v24.4s
            fsub v23.4s, v23.4s, v24.4s
            fmul v24.4s, v25.4s, v26.s[0]
            fmla v28.4s, v16.4s, v24.4s
            fmul v16.4s, v25.4s, v26.s[1]
            fmul v24.4s, v25.4s, v26.s[2]
            fmul v26.4s, v25.4s, v26.s[3]
            fmla v29.4s, v17.4s, v16.4s
            fmla v30.4s, v18.4s, v24.4s
            fmla v31.4s, v19.4s, v26.4s
            fmul v16.4s, v25.4s, v27.s[0]
            fmul v17.4s, v25.4s, v27.s[1]
            fmul v18.4s, v25.4s, v27.s[2]
            fmul v19.4s, v25.4s, v27.s[3]
            .if {minima}
            ldr q27, [{w}, #-32]
            ldp q24, q26, [{mins}]
            fmla v28.4s, v27.4s, v24.s[0]
            fmla v29.4s, v27.4s, v24.s[1]
            fmla v30.4s, v27.4s, v24.s[2]
            fmla v31.4s, v27.4s, v24.s[3]
            .endif
            st1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{sums}], #64
            ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{sums}]
            fmla v28.4s, v20.4s, v16.4s
            fmla v29.4s, v21.4s, v17.4s
            fmla v30.4s, v22.4s, v18.4s
            fmla v31.4s, v23.4s, v19.4s
            .if {minima}
            fmla v28.4s, v27.4s, v26.s[0]
            fmla v29.4s, v27.4s, v26.s[1]
            fmla v30.4s, v27.4s, v26.s[2]
            fmla v31.4s, v27.4s, v26.s[3]
            .endif
            st1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{sums}], #64
            .endr
            add {scales}, {scales}, #32
            .if {minima}
            add {mins}, {mins}, #32
            .endif
            sub {sums}, {sums}, #512
            subs {n}, {n}, #1
            b.ne 2b
            .purgem words
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
