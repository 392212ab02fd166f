//! 4-bit matrix times one vector without dot instructions: 16 rows at a time, every weight read once, in order.
//!
//! Products of 16 bits add up in 16 bits: a lane meets eight of them in a group, `|sum| ≤ 31·127·8 = 31 496`. A *quad* is four rows, the
//! bytes of one vector; a group of it needs two vectors of sums: rows 0, 1 and rows 2, 3, four lanes a row.
//!
//! Written in assembly for the order of instructions, because Cortex-A53 runs them in order and the compiler schedules for no core in
//! particular: a sum is met again after 12 instructions, a load is used after 4 or more, and the end of a group, five dependent
//! instructions a quad, is done between the first products of the next. Port bound per 32 weights of consecutive levels: 30 vector
//! instructions a quad on one port are 7.5 cycles (A53); 16 multiplications on one of two ports and 20 slots elsewhere, 4.5 cycles (A57, A72).
//! Weights are asked for two blocks, about 500 cycles on an A53, before they are used: its memory answers in 150 to 200.

use super::levels::Levels;
use super::token::Token;
use bourn_format::layout::TILE_ROWS;
use core::arch::asm;

/// Minima of the group before the first.
static NO_MINIMA: [u8; 32] = [0; 32];

/// `y = tile · x`. `LOOK_UP` if levels are not consecutive; `N`, the bytes of a block, says whether groups have minima.
///
/// Two blocks' worth of addresses after the tile may be prefetched, which is no access.
#[target_feature(enable = "neon")]
pub(super) fn tile<const LOOK_UP: bool, const N: usize>(
    levels: Levels<'_>,
    tile: &[[u8; N]],
    x: Token<'_>,
    y: &mut [f32; TILE_ROWS],
) {
    let blocks = tile.len();
    assert!(blocks > 0 && x.q.len() == blocks && x.scale.len() == blocks && x.sum.len() == blocks);
    // SAFETY: the loop reads `blocks` blocks of `N` bytes and as many elements of each part of `x`, which the assertion says are there, the 16
    // levels and the 32 zeros, and writes `y`; vector registers and those named are declared; NEON is a target feature of this function.
    unsafe {
        asm!(
            // Of a quad: i its number; s, t its sums; l low nibbles; c codes, then high nibbles; d whole sums; y; f s_w·s_x.
            r"
            // Products of low nibbles; high nibbles made; the next words' codes loaded (or, at the end, scales).
            .macro low_part i, s, t, l, c, n, at
                smlal v\s\().8h, v\l\().8b, v8.8b
                ushr v\c\().16b, v\c\().16b, #4
                smlal2 v\t\().8h, v\l\().16b, v8.16b
                .if \at >= 0
                ldr q\n, [{w}, #(\at + 16 * \i)]
                .endif
            .endm
            // Products of high nibbles; the next words' low nibbles made.
            .macro high_part s, t, l, c, n
                smlal v\s\().8h, v\c\().8b, v9.8b
                and v\l\().16b, v\n\().16b, v18.16b
                smlal2 v\t\().8h, v\c\().16b, v9.16b
            .endm
            .macro look_up a, b, c, d
                .if {look_up}
                tbl v\a\().16b, {{v19.16b}}, v\a\().16b
                tbl v\b\().16b, {{v19.16b}}, v\b\().16b
                tbl v\c\().16b, {{v19.16b}}, v\c\().16b
                tbl v\d\().16b, {{v19.16b}}, v\d\().16b
                .endif
            .endm
            // Words p and 4 + p, p = 1 or 2: codes in c, the next ones to n.
            .macro words p, c0, c1, c2, c3, n0, n1, n2, n3, at
                low_part 0, 0, 4, 10, \c0, \n0, \at
                dup v9.4s, v31.s[\p]
                low_part 1, 1, 5, 11, \c1, \n1, \at
                low_part 2, 2, 6, 12, \c2, \n2, \at
                low_part 3, 3, 7, 13, \c3, \n3, \at
                look_up \c0, \c1, \c2, \c3
                high_part 0, 4, 10, \c0, \n0
                dup v8.4s, v29.s[\p + 1]
                high_part 1, 5, 11, \c1, \n1
                high_part 2, 6, 12, \c2, \n2
                high_part 3, 7, 13, \c3, \n3
                look_up 10, 11, 12, 13
            .endm
            // The sums of a quad, whole.
            .macro narrow s, t, d
                .if {look_up}
                saddlp v\s\().4s, v\s\().8h
                saddlp v\t\().4s, v\t\().8h
                .else
                addp v\d\().8h, v\s\().8h, v\t\().8h
                .endif
            .endm
            .macro widen s, t, d
                .if {look_up}
                addp v\d\().4s, v\s\().4s, v\t\().4s
                .else
                saddlp v\d\().4s, v\d\().8h
                .endif
            .endm
            .macro first_part i, s, t, l, c, d
                smull v\s\().8h, v\l\().8b, v8.8b
                ushr v\c\().16b, v\c\().16b, #4
                smull2 v\t\().8h, v\l\().16b, v8.16b
                scvtf v\d\().4s, v\d\().4s
            .endm
            // The minima of the group before: v9 has been used, its first lane becomes s_x·Σx.
            .macro add_minima
                .if {minima}
                fmov s9, {sum_x:w}
                ldp q20, q21, [{m}]
                fcvtl v22.4s, v20.4h
                fcvtl v23.4s, v21.4h
                fcvtl2 v20.4s, v20.8h
                fcvtl2 v21.4s, v21.8h
                fmla v24.4s, v22.4s, v9.s[0]
                fmla v25.4s, v20.4s, v9.s[0]
                fmla v26.4s, v23.4s, v9.s[0]
                fmla v27.4s, v21.4s, v9.s[0]
                .endif
            .endm
            // Group g of a block, codes from at on.
            .macro group g, at
                ldr q14, [{w}, #(\at)]
                ldr q15, [{w}, #(\at + 16)]
                ldr q16, [{w}, #(\at + 32)]
                ldr q17, [{w}, #(\at + 48)]
                ld1r {{v8.4s}}, [{xl}]
                ld1r {{v9.4s}}, [{xh}]
                narrow 0, 4, 20
                narrow 1, 5, 21
                narrow 2, 6, 22
                narrow 3, 7, 23
                and v10.16b, v14.16b, v18.16b
                and v11.16b, v15.16b, v18.16b
                widen 0, 4, 20
                widen 1, 5, 21
                widen 2, 6, 22
                widen 3, 7, 23
                and v12.16b, v16.16b, v18.16b
                and v13.16b, v17.16b, v18.16b
                look_up 10, 11, 12, 13
                .if {look_up} == 0
                add v20.4s, v20.4s, v19.4s
                add v21.4s, v21.4s, v19.4s
                add v22.4s, v22.4s, v19.4s
                add v23.4s, v23.4s, v19.4s
                .endif
                first_part 0, 0, 4, 10, 14, 20
                first_part 1, 1, 5, 11, 15, 21
                first_part 2, 2, 6, 12, 16, 22
                first_part 3, 3, 7, 13, 17, 23
                look_up 14, 15, 16, 17
                smlal v0.8h, v14.8b, v9.8b
                smlal2 v4.8h, v14.16b, v9.16b
                smlal v1.8h, v15.8b, v9.8b
                fmla v24.4s, v20.4s, v28.4s
                fmla v25.4s, v21.4s, v29.4s
                fmla v26.4s, v22.4s, v30.4s
                fmla v27.4s, v23.4s, v31.4s
                smlal2 v5.8h, v15.16b, v9.16b
                smlal v2.8h, v16.8b, v9.8b
                smlal2 v6.8h, v16.16b, v9.16b
                smlal v3.8h, v17.8b, v9.8b
                smlal2 v7.8h, v17.16b, v9.16b
                add_minima
                ldr q20, [{w}, #(\at + 64)]
                ldr q21, [{w}, #(\at + 80)]
                ldr q22, [{w}, #(\at + 96)]
                ldr q23, [{w}, #(\at + 112)]
                ldr q29, [{xl}]
                ldr q31, [{xh}]
                and v10.16b, v20.16b, v18.16b
                and v11.16b, v21.16b, v18.16b
                and v12.16b, v22.16b, v18.16b
                and v13.16b, v23.16b, v18.16b
                dup v8.4s, v29.s[1]
                look_up 10, 11, 12, 13
                words 1, 20, 21, 22, 23, 14, 15, 16, 17, \at + 128
                prfm pldl1strm, [{w}, #(2 * {n} + 288 * \g)]
                prfm pldl1strm, [{w}, #(2 * {n} + 288 * \g + 64)]
                prfm pldl1strm, [{w}, #(2 * {n} + 288 * \g + 128)]
                prfm pldl1strm, [{w}, #(2 * {n} + 288 * \g + 192)]
                .if \g == 0
                prfm pldl1strm, [{w}, #(2 * {n} + 256)]
                .endif
                words 2, 14, 15, 16, 17, 20, 21, 22, 23, \at + 192
                low_part 0, 0, 4, 10, 20, 0, -1
                dup v9.4s, v31.s[3]
                low_part 1, 1, 5, 11, 21, 0, -1
                low_part 2, 2, 6, 12, 22, 0, -1
                low_part 3, 3, 7, 13, 23, 0, -1
                ldr q28, [{w}, #(32 * \g)]
                ldr q30, [{w}, #(32 * \g + 16)]
                ldr s14, [{scales}, #(4 * \g)]
                add {xl}, {xl}, #32
                add {xh}, {xh}, #32
                .if {look_up} == 0 || {minima}
                ldr {sum:w}, [{sums}, #(4 * \g)]
                .endif
                look_up 20, 21, 22, 23
                smlal v0.8h, v20.8b, v9.8b
                fcvtl2 v29.4s, v28.8h
                smlal2 v4.8h, v20.16b, v9.16b
                fcvtl v28.4s, v28.4h
                smlal v1.8h, v21.8b, v9.8b
                fcvtl2 v31.4s, v30.8h
                smlal2 v5.8h, v21.16b, v9.16b
                fcvtl v30.4s, v30.4h
                smlal v2.8h, v22.8b, v9.8b
                fmul v29.4s, v29.4s, v14.s[0]
                smlal2 v6.8h, v22.16b, v9.16b
                fmul v28.4s, v28.4s, v14.s[0]
                smlal v3.8h, v23.8b, v9.8b
                fmul v31.4s, v31.4s, v14.s[0]
                smlal2 v7.8h, v23.16b, v9.16b
                fmul v30.4s, v30.4s, v14.s[0]
                .if {minima}
                scvtf s9, {sum:w}
                add {m}, {w}, #(64 + 32 * \g)
                fmul s9, s9, s14
                fmov {sum_x:w}, s9
                .endif
                .if {look_up} == 0
                mul {bias:w}, {sum:w}, {first:w}
                dup v19.4s, {bias:w}
                .endif
            .endm

            movi v18.16b, #15
            .if {look_up}
            ldr q19, [{table}]
            .else
            movi v19.4s, #0
            .endif
            .irp r, 0,1,2,3,4,5,6,7,24,25,26,27,28,29,30,31
            movi v\r\().4s, #0
            .endr
            2:
            group 0, {codes}
            group 1, {codes} + 256
            add {w}, {w}, #{n}
            add {scales}, {scales}, #8
            add {sums}, {sums}, #8
            subs {blocks}, {blocks}, #1
            b.ne 2b

            narrow 0, 4, 20
            narrow 1, 5, 21
            narrow 2, 6, 22
            narrow 3, 7, 23
            widen 0, 4, 20
            widen 1, 5, 21
            widen 2, 6, 22
            widen 3, 7, 23
            .if {look_up} == 0
            add v20.4s, v20.4s, v19.4s
            add v21.4s, v21.4s, v19.4s
            add v22.4s, v22.4s, v19.4s
            add v23.4s, v23.4s, v19.4s
            .endif
            scvtf v20.4s, v20.4s
            scvtf v21.4s, v21.4s
            scvtf v22.4s, v22.4s
            scvtf v23.4s, v23.4s
            fmla v24.4s, v20.4s, v28.4s
            fmla v25.4s, v21.4s, v29.4s
            fmla v26.4s, v22.4s, v30.4s
            fmla v27.4s, v23.4s, v31.4s
            add_minima
            stp q24, q25, [{y}]
            stp q26, q27, [{y}, #32]
            .purgem low_part
            .purgem high_part
            .purgem look_up
            .purgem words
            .purgem narrow
            .purgem widen
            .purgem first_part
            .purgem add_minima
            .purgem group
            ",
            look_up = const LOOK_UP as usize,
            minima = const (N > 576) as usize,
            n = const N,
            codes = const N - 512,
            w = inout(reg) tile.as_ptr() => _,
            blocks = inout(reg) blocks => _,
            xl = inout(reg) x.q.as_ptr() => _,
            xh = inout(reg) x.q.as_ptr().cast::<u8>().wrapping_add(16) => _,
            scales = inout(reg) x.scale.as_ptr() => _,
            sums = inout(reg) x.sum.as_ptr() => _,
            table = in(reg) levels.table.as_ptr(),
            first = in(reg) i32::from(levels.table[0]),
            y = in(reg) y.as_mut_ptr(),
            m = inout(reg) NO_MINIMA.as_ptr() => _,
            sum_x = inout(reg) 0u32 => _,
            sum = out(reg) _,
            bias = out(reg) _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        );
    }
}
