//! Reset → EL1 with MMU and caches on; then Rust.
//!
//! ```text
//! _start (core 0; others are held by the firmware, or wait in `park`)
//!   └─ EL3 → EL2 → EL1: timers, counters and vectors of floating point free for EL1, caches coherent between cores
//!   └─ the board's start-up tables, MMU and caches on (before this: no unaligned load, no exclusive)
//!   └─ stack, zeroed memory, vectors
//!   └─ bourn_start: the board's memory map, its page tables, its devices, its main function
//! _start_core (the others, when `cores::start` lets them go)
//!   └─ the same way to EL1, the final page tables, their stacks ─► bourn_core: serve the crew
//! ```
//!
//! Source: Arm ARM, D1 (exception levels), Linux `Documentation/arch/arm64/booting.rst` (header, state of the machine at entry).

use core::arch::global_asm;

use crate::memory::{MAIR, STACK_BYTES, TCR};

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global _start
_start:
    b       1f                      // header of an arm64 image: loaders put it 512 KiB into memory and say its size
    .long   0
    .quad   0x80000
    .quad   __image_bytes
    .quad   0x2                     // little-endian, 4 KiB pages
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0
1:  mrs     x21, cntpct_el0
    mov     x20, x0                 // device tree, if the loader has one
    bl      core_number
    cbnz    x1, park
    bl      to_el1
    adrp    x0, BOURN_TABLES
    bl      mmu_on
    bl      stack_of_core
    adrp    x2, __bss
    adrp    x3, __bss_end
2:  stp     xzr, xzr, [x2], #16
    cmp     x2, x3
    b.lo    2b
    mov     x0, x20
    mov     x1, x21
    bl      bourn_start
3:  wfe
    b       3b

park:                               // a loader that lets all cores go at once
    adrp    x2, core_release
    add     x2, x2, :lo12:core_release
4:  wfe
    ldr     x3, [x2]
    cbz     x3, 4b
    br      x3

    .global _start_core
_start_core:
    bl      to_el1
    adrp    x0, {tables}
    add     x0, x0, :lo12:{tables}
    bl      mmu_on
    bl      core_number
    bl      stack_of_core
    mov     x0, x1
    bl      bourn_core
5:  wfe
    b       5b

core_number:                        // x1 = number of this core; cores with threads count one field higher
    mrs     x1, mpidr_el1
    tbz     x1, #24, 6f
    lsr     x1, x1, #8
6:  and     x1, x1, #0xff
    ret

stack_of_core:                      // sp and vectors of core x1
    mov     x2, #{stack}
    adrp    x3, __stacks
    madd    x3, x1, x2, x3
    add     x3, x3, x2
    mov     sp, x3
    adrp    x2, vectors
    add     x2, x2, :lo12:vectors
    msr     vbar_el1, x2
    isb
    ret

to_el1:
    mrs     x2, CurrentEL
    cmp     x2, #0x8
    b.eq    8f
    b.lo    9f
    mov     x2, #0x531              // EL3: the rest is non-secure and 64-bit, HVC allowed
    msr     scr_el3, x2
    msr     cptr_el3, xzr
    mrs     x2, midr_el1            // A53, A57, A72: in the coherent domain before caches are on
    ubfx    x2, x2, #4, #12
    mov     x3, #0xd03
    cmp     x2, x3
    mov     x3, #0xd07
    ccmp    x2, x3, #4, ne
    mov     x3, #0xd08
    ccmp    x2, x3, #4, ne
    b.ne    7f
    mrs     x2, s3_1_c15_c2_1
    orr     x2, x2, #0x40
    msr     s3_1_c15_c2_1, x2
7:  movz    x2, #0x0830
    movk    x2, #0x30c5, lsl #16
    msr     sctlr_el2, x2
    mov     x2, #0x3c9
    msr     spsr_el3, x2
    adr     x2, 8f
    msr     elr_el3, x2
    eret
8:  mov     x2, #0x80000000         // EL2: EL1 is 64-bit and nothing it does comes here
    msr     hcr_el2, x2
    mov     x2, #3
    msr     cnthctl_el2, x2
    msr     cntvoff_el2, xzr
    mov     x2, #0x33ff
    msr     cptr_el2, x2
    msr     hstr_el2, xzr
    msr     vttbr_el2, xzr
    mrs     x2, midr_el1
    msr     vpidr_el2, x2
    mrs     x2, mpidr_el1
    msr     vmpidr_el2, x2
    mrs     x2, pmcr_el0            // all event counters are EL1's
    ubfx    x2, x2, #11, #5
    msr     mdcr_el2, x2
    movz    x2, #0x0800
    movk    x2, #0x30d0, lsl #16
    msr     sctlr_el1, x2
    mov     x2, #0x3c5
    msr     spsr_el2, x2
    msr     elr_el2, x30
    eret
9:  mov     x2, #0x300000           // floating point and vectors
    msr     cpacr_el1, x2
    msr     daifset, #0xf
    isb
    ret

mmu_on:                             // x0 = root table
    mov     x2, #0x300000
    msr     cpacr_el1, x2
    movz    x2, #{mair}
    msr     mair_el1, x2
    ldr     x2, ={tcr}
    mrs     x3, id_aa64mmfr0_el1    // physical addresses as wide as the core has them, 48 bits at most
    and     x3, x3, #0xf
    mov     x4, #5
    cmp     x3, x4
    csel    x3, x3, x4, lo
    bfi     x2, x3, #32, #3
    msr     tcr_el1, x2
    msr     ttbr0_el1, x0
    dsb     sy
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    mrs     x2, sctlr_el1
    mov     x3, #0x100d             // MMU, data cache, stack alignment, instruction cache
    orr     x2, x2, x3
    bic     x2, x2, #2              // unaligned loads are fine
    msr     sctlr_el1, x2
    isb
    ret
    .ltorg

    .section .data.release, "aw"
    .balign 64
    .global core_release
core_release:
    .quad   0                       // where parked cores go; not in zeroed memory, for they look before it is zeroed
"#,
    tables = sym crate::platform::TABLES,
    stack = const STACK_BYTES,
    mair = const MAIR,
    tcr = const TCR,
);
