//! Matrix of signed bytes times one vector without dot instructions: 16 rows at a time, every weight read once, in order.
//!
//! A 16-bit lane holds two products, `|sum| ≤ 128·127·2 = 32 512`; every second product is followed by a widening sum of neighbours. Of 128
//! weights 16 are SMLAL of eight, 8 SADALP, 7 the end of a group, 2 DUP: 8.2 cycles per 32 weights on one port (A53), 5.1 on two (A57, A72), where
//! SADALP has the port that SMLAL has not.

use super::mul_quantized::Q8;
use super::token::Token;
use bourn_format::layout::TILE_ROWS;
use core::arch::asm;

/// `y = tile · x`.
#[target_feature(enable = "neon")]
pub(super) fn tile(tile: &[[u8; Q8]], x: Token<'_>, y: &mut [f32; TILE_ROWS]) {
    let blocks = tile.len();
    assert!(blocks > 0 && x.q.len() == blocks && x.scale.len() == blocks);
    // SAFETY: the loop reads `blocks` blocks and as many elements of each part of `x`, which the assertion says are there, and writes `y`;
    // registers are declared; NEON is a target feature of this function.
    unsafe {
        asm!(
            r"
            // Quad i with the first word of a pair; then the next pair's is loaded.
            .macro first i, w, t, u, next
                smull v\t\().8h, v\w\().8b, v28.8b
                smull2 v\u\().8h, v\w\().16b, v28.16b
                .if \next
                ldr q\w, [{w}, #(\next + 16 * \i)]
                .endif
            .endm
            .macro second i, w, t, u, next
                smlal v\t\().8h, v\w\().8b, v29.8b
                smlal2 v\u\().8h, v\w\().16b, v29.16b
                .if \next
                ldr q\w, [{w}, #(\next + 64 + 16 * \i)]
                .endif
            .endm
            // Words k and k + 1, lanes l and l + 1 of v\x; `next` is where the next pair's codes are.
            .macro pair x, l, sum, next
                dup v28.4s, v\x\().s[\l]
                dup v29.4s, v\x\().s[\l + 1]
                first 0, 8, 16, 20, \next
                first 1, 9, 17, 21, \next
                first 2, 10, 18, 22, \next
                first 3, 11, 19, 23, \next
                second 0, 12, 16, 20, \next
                second 1, 13, 17, 21, \next
                second 2, 14, 18, 22, \next
                second 3, 15, 19, 23, \next
                \sum v0.4s, v16.8h
                \sum v4.4s, v20.8h
                \sum v1.4s, v17.8h
                \sum v5.4s, v21.8h
                \sum v2.4s, v18.8h
                \sum v6.4s, v22.8h
                \sum v3.4s, v19.8h
                \sum v7.4s, v23.8h
            .endm
            // Group g of a block, codes from at on.
            .macro group g, at
                ldr q30, [{q}, #(32 * \g)]
                ldr q31, [{q}, #(32 * \g + 16)]
                ldr q8, [{w}, #(\at)]
                ldr q9, [{w}, #(\at + 16)]
                ldr q10, [{w}, #(\at + 32)]
                ldr q11, [{w}, #(\at + 48)]
                ldr q12, [{w}, #(\at + 64)]
                ldr q13, [{w}, #(\at + 80)]
                ldr q14, [{w}, #(\at + 96)]
                ldr q15, [{w}, #(\at + 112)]
                pair 30, 0, saddlp, \at + 128
                prfm pldl1strm, [{w}, #(2048 + 512 * \g)]
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 64)]
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 128)]
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 192)]
                pair 30, 2, sadalp, \at + 256
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 256)]
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 320)]
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 384)]
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 448)]
                .if \g
                prfm pldl1strm, [{w}, #(2048 + 512 * \g + 512)]
                .endif
                pair 31, 0, sadalp, \at + 384
                pair 31, 2, sadalp, 0
                ldr q30, [{w}, #(32 * \g)]
                ldr q31, [{w}, #(32 * \g + 16)]
                ldr s12, [{scales}, #(4 * \g)]
                addp v0.4s, v0.4s, v4.4s
                addp v1.4s, v1.4s, v5.4s
                addp v2.4s, v2.4s, v6.4s
                addp v3.4s, v3.4s, v7.4s
                fcvtl v8.4s, v30.4h
                fcvtl2 v9.4s, v30.8h
                fcvtl v10.4s, v31.4h
                fcvtl2 v11.4s, v31.8h
                scvtf v0.4s, v0.4s
                scvtf v1.4s, v1.4s
                scvtf v2.4s, v2.4s
                scvtf v3.4s, v3.4s
                fmul v8.4s, v8.4s, v12.s[0]
                fmul v9.4s, v9.4s, v12.s[0]
                fmul v10.4s, v10.4s, v12.s[0]
                fmul v11.4s, v11.4s, v12.s[0]
                fmla v24.4s, v0.4s, v8.4s
                fmla v25.4s, v1.4s, v9.4s
                fmla v26.4s, v2.4s, v10.4s
                fmla v27.4s, v3.4s, v11.4s
            .endm

            movi v24.4s, #0
            movi v25.4s, #0
            movi v26.4s, #0
            movi v27.4s, #0
            2:
            group 0, 64
            group 1, 576
            add {w}, {w}, #{n}
            add {q}, {q}, #64
            add {scales}, {scales}, #8
            subs {blocks}, {blocks}, #1
            b.ne 2b
            stp q24, q25, [{y}]
            stp q26, q27, [{y}, #32]
            .purgem first
            .purgem second
            .purgem pair
            .purgem group
            ",
            n = const Q8,
            w = inout(reg) tile.as_ptr() => _,
            blocks = inout(reg) blocks => _,
            q = inout(reg) x.q.as_ptr() => _,
            scales = inout(reg) x.scale.as_ptr() => _,
            y = in(reg) y.as_mut_ptr(),
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        );
    }
}
