//! 4-bit matrix times eight vectors without dot instructions: the levels of eight rows stay in registers while the vectors pass in pairs.
//!
//! Of 512 products (8 rows × 32 columns × 2 vectors) 64 are SMLAL of eight each; 16 loads repeat the words of both vectors in all lanes, the end of a
//! group is 24 instructions or, where sums of 16 products fit 16 bits, 20. Loads of levels are shared by eight vectors: 0.22 instructions a product.
//! A sum is met again after 8 instructions, on an A53 after all that it waits for.

use super::prefill::{Group, Lot, Multiply, Sums, TOKENS};
use core::arch::asm;

/// The tier's loop.
pub(crate) struct Smlal;

impl Multiply for Smlal {
    const ONES: i32 = 0;

    #[inline(always)]
    fn arrange(levels: [[i8; 16]; 8]) -> [[i8; 16]; 8] {
        levels
    }

    #[inline(always)]
    unsafe fn add<const MINIMA: bool, const NARROW: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums) {
        // SAFETY: the caller's promise is this one's.
        unsafe { groups::<MINIMA, NARROW>(w, x, sums) }
    }

    #[inline(always)]
    fn rows(sums: &Sums, t: usize) -> [[f32; 4]; 4] {
        let (rows, _) = sums.as_chunks::<4>();
        core::array::from_fn(|quad| rows[(quad / 2 * TOKENS + t) * 2 + quad % 2])
    }
}

/// See [`Multiply::add`]. `NARROW` if no level is beyond ±15.
///
/// # Safety
/// As there.
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn groups<const MINIMA: bool, const NARROW: bool>(w: &[Group], x: Lot<'_>, sums: &mut Sums) {
    assert!(!w.is_empty() && x.scale.len() == w.len() && (!MINIMA || x.scaled_sum.len() == w.len()));
    let [x0, x1, x2, x3, x4, x5, x6, x7] = x.x;
    // SAFETY: the loop reads `w.len()` groups of 32 activations behind each pointer, which the caller promises, as many scales, which the assertion
    // says are there, and reads and writes `sums`, 512 bytes; registers are declared; NEON is a target feature of this function.
    unsafe {
        asm!(
            r"
            // Word k, of two quads v\a and v\b, times two vectors' in v\x and v\y.
            .macro products mul, a, b, x, y
                \mul v16.8h, v\a\().8b, v\x\().8b
                \mul\()2 v17.8h, v\a\().16b, v\x\().16b
                \mul v18.8h, v\b\().8b, v\x\().8b
                \mul\()2 v19.8h, v\b\().16b, v\x\().16b
                \mul v20.8h, v\a\().8b, v\y\().8b
                \mul\()2 v21.8h, v\a\().16b, v\y\().16b
                \mul v22.8h, v\b\().8b, v\y\().8b
                \mul\()2 v23.8h, v\b\().16b, v\y\().16b
            .endm
            // Two vectors, the first number t, times eight rows.
            .macro pair t, x, y
                ld1r {{v24.4s}}, [\x], #4
                ld1r {{v25.4s}}, [\y], #4
                ld1r {{v26.4s}}, [\x], #4
                ld1r {{v27.4s}}, [\y], #4
                products smull, 0, 8, 24, 25
                ld1r {{v24.4s}}, [\x], #4
                ld1r {{v25.4s}}, [\y], #4
                products smlal, 1, 9, 26, 27
                ld1r {{v26.4s}}, [\x], #4
                ld1r {{v27.4s}}, [\y], #4
                products smlal, 2, 10, 24, 25
                ld1r {{v24.4s}}, [\x], #4
                ld1r {{v25.4s}}, [\y], #4
                products smlal, 3, 11, 26, 27
                ld1r {{v26.4s}}, [\x], #4
                ld1r {{v27.4s}}, [\y], #4
                products smlal, 4, 12, 24, 25
                ld1r {{v24.4s}}, [\x], #4
                ld1r {{v25.4s}}, [\y], #4
                products smlal, 5, 13, 26, 27
                ld1r {{v26.4s}}, [\x], #4
                ld1r {{v27.4s}}, [\y], #4
                products smlal, 6, 14, 24, 25
                ldr d30, [{scales}, #(4 * \t)]
                products smlal, 7, 15, 26, 27
                .if {narrow}
                addp v16.8h, v16.8h, v17.8h
                addp v18.8h, v18.8h, v19.8h
                addp v20.8h, v20.8h, v21.8h
                addp v22.8h, v22.8h, v23.8h
                fmul v24.4s, v28.4s, v30.s[0]
                fmul v25.4s, v29.4s, v30.s[0]
                saddlp v16.4s, v16.8h
                saddlp v18.4s, v18.8h
                saddlp v20.4s, v20.8h
                saddlp v22.4s, v22.8h
                .else
                saddlp v16.4s, v16.8h
                saddlp v17.4s, v17.8h
                saddlp v18.4s, v18.8h
                saddlp v19.4s, v19.8h
                saddlp v20.4s, v20.8h
                saddlp v21.4s, v21.8h
                saddlp v22.4s, v22.8h
                saddlp v23.4s, v23.8h
                fmul v24.4s, v28.4s, v30.s[0]
                fmul v25.4s, v29.4s, v30.s[0]
                addp v16.4s, v16.4s, v17.4s
                addp v18.4s, v18.4s, v19.4s
                addp v20.4s, v20.4s, v21.4s
                addp v22.4s, v22.4s, v23.4s
                .endif
                fmul v26.4s, v28.4s, v30.s[1]
                fmul v27.4s, v29.4s, v30.s[1]
                ldp q17, q19, [{sums}, #(32 * \t)]
                ldp q21, q23, [{sums}, #(32 * \t + 32)]
                scvtf v16.4s, v16.4s
                scvtf v18.4s, v18.4s
                scvtf v20.4s, v20.4s
                scvtf v22.4s, v22.4s
                fmla v17.4s, v16.4s, v24.4s
                fmla v19.4s, v18.4s, v25.4s
                fmla v21.4s, v20.4s, v26.4s
                fmla v23.4s, v22.4s, v27.4s
                .if {minima}
                ldr d30, [{mins}, #(4 * \t)]
                ldr q24, [{w}, #-160]
                ldr q25, [{w}, #32]
                fmla v17.4s, v24.4s, v30.s[0]
                fmla v19.4s, v25.4s, v30.s[0]
                fmla v21.4s, v24.4s, v30.s[1]
                fmla v23.4s, v25.4s, v30.s[1]
                .endif
                stp q17, q19, [{sums}, #(32 * \t)]
                stp q21, q23, [{sums}, #(32 * \t + 32)]
            .endm
            .macro half
                ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{w}], #64
                ld1 {{v4.16b, v5.16b, v6.16b, v7.16b}}, [{w}], #64
                ldr q28, [{w}, #16]
                add {w}, {w}, #64
                ld1 {{v8.16b, v9.16b, v10.16b, v11.16b}}, [{w}], #64
                ld1 {{v12.16b, v13.16b, v14.16b, v15.16b}}, [{w}], #64
                ldr q29, [{w}, #16]
                pair 0, {x0}, {x1}
                pair 2, {x2}, {x3}
                pair 4, {x4}, {x5}
                pair 6, {x6}, {x7}
                add {w}, {w}, #64
            .endm
            2:
            half
            .irp x, {x0}, {x1}, {x2}, {x3}, {x4}, {x5}, {x6}, {x7}
            sub \x, \x, #32
            .endr
            add {sums}, {sums}, #256
            half
            sub {sums}, {sums}, #256
            add {scales}, {scales}, #32
            .if {minima}
            add {mins}, {mins}, #32
            .endif
            subs {n}, {n}, #1
            b.ne 2b
            .purgem products
            .purgem pair
            .purgem half
            ",
            minima = const MINIMA as usize,
            narrow = const NARROW as usize,
            n = inout(reg) w.len() => _,
            w = inout(reg) w.as_ptr() => _,
            scales = inout(reg) x.scale.as_ptr() => _,
            mins = inout(reg) x.scaled_sum.as_ptr() => _,
            sums = inout(reg) sums.as_mut_ptr() => _,
            x0 = inout(reg) x0 => _, x1 = inout(reg) x1 => _, x2 = inout(reg) x2 => _, x3 = inout(reg) x3 => _,
            x4 = inout(reg) x4 => _, x5 = inout(reg) x5 => _, x6 = inout(reg) x6 => _, x7 = inout(reg) x7 => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _,
            options(nostack),
        );
    }
}
