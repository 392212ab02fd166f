//! Quantized matrix times one vector with SDOT: 16 rows at a time, every weight read once, in order.
//!
//! A *quad* is four rows, the bytes of one vector. SDOT begins at the bits of 1.5·2²³, plus `first level · Σx` where levels are consecutive: its
//! result is then that float plus the dot, and a subtraction, for which there are two pipes, makes the f32 for which SCVTF has one.
//!
//! Port bound per 128 weights of consecutive levels on two vector pipes (Neoverse N1, Cortex-A76): 8 SDOT, 8 to take nibbles apart, FCVTL
//! (two slots), FMUL, FSUB, FMLA: 21 slots, 2.63 cycles per 32 weights. No prefetch: these cores follow a stream by themselves.

use crate::neon::levels::Levels;
use crate::neon::token::Token;
use bourn_format::layout::TILE_ROWS;
use core::arch::asm;

/// Bits of 1.5·2²³: an f32 whose last place is 1.
pub(crate) const ONES: i32 = 0x4b40_0000;

/// Kinds of codes.
pub(super) const CONSECUTIVE: usize = 0;
/// Nibbles to look up.
pub(super) const LOOK_UP: usize = 1;
/// Signed bytes.
pub(super) const BYTES: usize = 2;

/// `y = tile · x`; `KIND` of codes, `N` bytes of a block: 576, with minima 640, of signed bytes 1088.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn tile<const KIND: usize, const N: usize>(
    levels: Levels<'_>,
    tile: &[[u8; N]],
    x: Token<'_>,
    y: &mut [f32; TILE_ROWS],
) {
    let blocks = tile.len();
    assert!(blocks > 0 && x.q.len() == blocks && x.scale.len() == blocks && x.sum.len() == blocks);
    // SAFETY: the loop reads `blocks` blocks of `N` bytes and as many elements of each part of `x`, which the assertion says are there, and the
    // 16 levels, and writes `y`; registers are declared; SDOT is a target feature of this function.
    unsafe {
        asm!(
            r"
            .arch_extension dotprod
            // Words p and 4 + p of all quads: nibbles in v20-23, then the next ones.
            .macro nibbles p, next
                and v8.16b, v20.16b, v18.16b
                and v9.16b, v21.16b, v18.16b
                and v10.16b, v22.16b, v18.16b
                and v11.16b, v23.16b, v18.16b
                ushr v12.16b, v20.16b, #4
                ushr v13.16b, v21.16b, #4
                ushr v14.16b, v22.16b, #4
                ushr v15.16b, v23.16b, #4
                .if \next >= 0
                ldp q20, q21, [{w}, #\next]
                ldp q22, q23, [{w}, #(\next + 32)]
                .endif
                .if {kind} == 1
                tbl v8.16b, {{v19.16b}}, v8.16b
                tbl v9.16b, {{v19.16b}}, v9.16b
                tbl v10.16b, {{v19.16b}}, v10.16b
                tbl v11.16b, {{v19.16b}}, v11.16b
                tbl v12.16b, {{v19.16b}}, v12.16b
                tbl v13.16b, {{v19.16b}}, v13.16b
                tbl v14.16b, {{v19.16b}}, v14.16b
                tbl v15.16b, {{v19.16b}}, v15.16b
                .endif
                sdot v0.4s, v8.16b, v4.4b[\p]
                sdot v1.4s, v9.16b, v4.4b[\p]
                sdot v2.4s, v10.16b, v4.4b[\p]
                sdot v3.4s, v11.16b, v4.4b[\p]
                sdot v0.4s, v12.16b, v5.4b[\p]
                sdot v1.4s, v13.16b, v5.4b[\p]
                sdot v2.4s, v14.16b, v5.4b[\p]
                sdot v3.4s, v15.16b, v5.4b[\p]
            .endm
            // Words p of all quads, against lane p of v4 or v5.
            .macro bytes v, p
                ldp q8, q9, [{bytes}], #32
                ldp q10, q11, [{bytes}], #32
                sdot v0.4s, v8.16b, v\v\().4b[\p]
                sdot v1.4s, v9.16b, v\v\().4b[\p]
                sdot v2.4s, v10.16b, v\v\().4b[\p]
                sdot v3.4s, v11.16b, v\v\().4b[\p]
            .endm
            .macro group g, start, at
                ldp q4, q5, [{q}], #32
                ldp q28, q30, [{w}, #(32 * \g)]
                dup v0.4s, \start
                dup v1.4s, \start
                dup v2.4s, \start
                dup v3.4s, \start
                .if {kind} == 2
                bytes 4, 0
                bytes 4, 1
                fcvtl2 v29.4s, v28.8h
                bytes 4, 2
                fcvtl v28.4s, v28.4h
                bytes 4, 3
                fcvtl2 v31.4s, v30.8h
                bytes 5, 0
                fcvtl v30.4s, v30.4h
                bytes 5, 1
                bytes 5, 2
                bytes 5, 3
                .else
                ldp q20, q21, [{w}, #(\at)]
                ldp q22, q23, [{w}, #(\at + 32)]
                nibbles 0, \at + 64
                fcvtl2 v29.4s, v28.8h
                nibbles 1, \at + 128
                fcvtl v28.4s, v28.4h
                nibbles 2, \at + 192
                fcvtl2 v31.4s, v30.8h
                nibbles 3, -1
                fcvtl v30.4s, v30.4h
                .endif
                fmul v29.4s, v29.4s, v6.s[\g]
                fmul v28.4s, v28.4s, v6.s[\g]
                fmul v31.4s, v31.4s, v6.s[\g]
                fmul v30.4s, v30.4s, v6.s[\g]
                fsub v0.4s, v0.4s, v16.4s
                fsub v1.4s, v1.4s, v16.4s
                fsub v2.4s, v2.4s, v16.4s
                fsub v3.4s, v3.4s, v16.4s
                fmla v24.4s, v0.4s, v28.4s
                fmla v25.4s, v1.4s, v29.4s
                fmla v26.4s, v2.4s, v30.4s
                fmla v27.4s, v3.4s, v31.4s
                .if {minima}
                ldp q28, q30, [{w}, #(64 + 32 * \g)]
                fcvtl2 v29.4s, v28.8h
                fcvtl v28.4s, v28.4h
                fcvtl2 v31.4s, v30.8h
                fcvtl v30.4s, v30.4h
                fmla v24.4s, v28.4s, v7.s[\g]
                fmla v25.4s, v29.4s, v7.s[\g]
                fmla v26.4s, v30.4s, v7.s[\g]
                fmla v27.4s, v31.4s, v7.s[\g]
                .endif
            .endm

            movi v18.16b, #15
            dup v16.4s, {ones:w}
            ldr q19, [{table}]
            movi v24.4s, #0
            movi v25.4s, #0
            movi v26.4s, #0
            movi v27.4s, #0
            2:
            ldr d6, [{scales}], #8
            .if {minima}
            ldr d7, [{sums}]
            scvtf v7.2s, v7.2s
            fmul v7.2s, v7.2s, v6.2s
            .endif
            .if {kind} == 0
            ldp {start0:w}, {start1:w}, [{sums}], #8
            madd {start0:w}, {start0:w}, {first:w}, {ones:w}
            madd {start1:w}, {start1:w}, {first:w}, {ones:w}
            group 0, {start0:w}, {codes}
            group 1, {start1:w}, {codes} + 256
            .else
            .if {minima}
            add {sums}, {sums}, #8
            .endif
            group 0, {ones:w}, {codes}
            group 1, {ones:w}, {codes} + 256
            .endif
            .if {kind} == 2
            add {bytes}, {bytes}, #64
            .endif
            add {w}, {w}, #{n}
            subs {blocks}, {blocks}, #1
            b.ne 2b
            stp q24, q25, [{y}]
            stp q26, q27, [{y}, #32]
            .purgem nibbles
            .purgem bytes
            .purgem group
            ",
            kind = const KIND,
            minima = const (N == 640) as usize,
            codes = const if N == 640 { 128 } else { 64 },
            n = const N,
            w = inout(reg) tile.as_ptr() => _,
            // Signed bytes reach farther than an offset does.
            bytes = inout(reg) tile.as_ptr().cast::<u8>().wrapping_add(64) => _,
            blocks = inout(reg) blocks => _,
            q = inout(reg) x.q.as_ptr() => _,
            scales = inout(reg) x.scale.as_ptr() => _,
            sums = inout(reg) x.sum.as_ptr() => _,
            table = in(reg) levels.table.as_ptr(),
            first = in(reg) i32::from(levels.table[0]),
            ones = in(reg) ONES,
            y = in(reg) y.as_mut_ptr(),
            start0 = out(reg) _,
            start1 = out(reg) _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _,
            out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        );
    }
}
