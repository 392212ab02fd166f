//! Exception vectors and panics: said over the log, then the machine begins anew.
//!
//! A fault switches to a stack of its own (the old one may be what failed), says what and where through defmt, sends what
//! is in the log over the line with the board's help, and resets. Interrupts come here too and go to the board.
//!
//! Source: Arm ARM, D1.10 (vectors), D17.2.37 (`ESR_EL1`).

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{ELR_EL1, ESR_EL1, FAR_EL1, MPIDR_EL1, Readable as _};
use bourn_protocol::frame;

use crate::{log, platform, time};

/// As in `link.ld`.
const FAULT_STACK_BYTES: u64 = 0x4000;
/// Between what is said and the reset: long enough to leave the line's buffer.
const LINGER_MICROS: u64 = 50_000;

global_asm!(
    r#"
    .macro fault kind
    .balign 0x80
    mov     x0, #\kind
    b       fault_entry
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    fault   0                       // this level, stack of EL0: never used
    .balign 0x80
    b       irq_entry
    fault   2
    fault   3
    fault   4                       // this level: synchronous
    .balign 0x80
    b       irq_entry
    fault   6                       // FIQ
    fault   7                       // SError
    fault   8                       // EL0: there is none
    fault   9
    fault   10
    fault   11
    fault   12
    fault   13
    fault   14
    fault   15
    .balign 0x80

fault_entry:
    mov     x1, sp
    mov     x2, x30
    mrs     x3, mpidr_el1
    tbz     x3, #24, 1f
    lsr     x3, x3, #8
1:  and     x3, x3, #0x3
    add     x3, x3, #1
    mov     x4, #{stack}
    adrp    x5, __fault_stacks
    madd    x5, x3, x4, x5
    mov     sp, x5
    bl      bourn_fault
2:  wfe
    b       2b

irq_entry:
    sub     sp, sp, #720
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [sp, #160]
    mrs     x0, fpsr
    mrs     x1, fpcr
    stp     x0, x1, [sp, #176]
    stp     q0, q1, [sp, #192]
    stp     q2, q3, [sp, #224]
    stp     q4, q5, [sp, #256]
    stp     q6, q7, [sp, #288]
    stp     q16, q17, [sp, #320]
    stp     q18, q19, [sp, #352]
    stp     q20, q21, [sp, #384]
    stp     q22, q23, [sp, #416]
    stp     q24, q25, [sp, #448]
    stp     q26, q27, [sp, #480]
    stp     q28, q29, [sp, #512]
    stp     q30, q31, [sp, #544]
    stp     q8, q9, [sp, #576]
    stp     q10, q11, [sp, #608]
    stp     q12, q13, [sp, #640]
    stp     q14, q15, [sp, #672]
    bl      bourn_interrupt
    ldp     q14, q15, [sp, #672]
    ldp     q12, q13, [sp, #640]
    ldp     q10, q11, [sp, #608]
    ldp     q8, q9, [sp, #576]
    ldp     q30, q31, [sp, #544]
    ldp     q28, q29, [sp, #512]
    ldp     q26, q27, [sp, #480]
    ldp     q24, q25, [sp, #448]
    ldp     q22, q23, [sp, #416]
    ldp     q20, q21, [sp, #384]
    ldp     q18, q19, [sp, #352]
    ldp     q16, q17, [sp, #320]
    ldp     q6, q7, [sp, #288]
    ldp     q4, q5, [sp, #256]
    ldp     q2, q3, [sp, #224]
    ldp     q0, q1, [sp, #192]
    ldp     x0, x1, [sp, #176]
    msr     fpsr, x0
    msr     fpcr, x1
    ldp     x0, x1, [sp, #160]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    ldp     x18, x30, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp]
    add     sp, sp, #720
    eret
"#,
    stack = const FAULT_STACK_BYTES,
);

/// Said once: what goes wrong while that is said is not.
static SAYING: AtomicBool = AtomicBool::new(false);

#[unsafe(no_mangle)]
extern "C" fn bourn_interrupt() {
    let board = platform::board();
    board.interrupts().serve(&mut || board.line().interrupt());
}

#[unsafe(no_mangle)]
extern "C" fn bourn_fault(vector: u64, stack: u64, link: u64) -> ! {
    let (cause, code, address) = (ESR_EL1.get(), ELR_EL1.get(), FAR_EL1.get());
    let core = MPIDR_EL1.get() & 0xffff;
    say(|| {
        defmt::error!(
            "fault: {=str} (vector {=u64}, esr {=u64:#x}) at {=u64:#x}, address {=u64:#x}, called from {=u64:#x}, sp {=u64:#x}, core {=u64:#x}",
            class(cause),
            vector,
            cause,
            code,
            address,
            link,
            stack,
            core
        );
    })
}

/// What a syndrome's class means.
fn class(cause: u64) -> &'static str {
    match cause >> 26 & 63 {
        0x00 => "illegal instruction",
        0x07 => "floating point is off",
        0x0e => "illegal execution state",
        0x15 => "supervisor call",
        0x18 => "system register",
        0x20 | 0x21 => "instruction fetch",
        0x22 => "unaligned code",
        0x24 | 0x25 => "data access",
        0x26 => "unaligned stack",
        0x2f => "bus",
        0x3c => "breakpoint",
        _ => "exception",
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(|| match info.location() {
        Some(at) => defmt::error!("panic: {} at {=str}:{=u32}", defmt::Display2Format(&info.message()), at.file(), at.line()),
        None => defmt::error!("panic: {}", defmt::Display2Format(&info.message())),
    })
}

/// Says something last, sends the log, resets.
fn say(what: impl FnOnce()) -> ! {
    platform::mask_interrupts();
    let board = platform::board();
    if !SAYING.swap(true, Ordering::SeqCst) {
        log::break_lock();
        what();
        let mut bytes = [0; 256];
        let mut wire = [0; frame::MAX_WIRE];
        loop {
            let n = log::drain(&mut bytes);
            if n == 0 {
                break;
            }
            board.line().send(frame::encode_log(&bytes[..n], &mut wire));
        }
        time::wait_micros(LINGER_MICROS);
    }
    board.reset()
}
