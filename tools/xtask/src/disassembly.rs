//! What a program for ARM is made of: functions, instructions, loops; and which instructions must not be where.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{command, find, output};

/// Disassemblers that print one instruction a line, the first found is taken.
const DISASSEMBLERS: &[&str] = &["llvm-objdump-19", "aarch64-linux-gnu-objdump", "llvm-objdump"];

/// A function of a program.
pub(crate) struct Function {
    /// Demangled.
    pub(crate) name: String,
    pub(crate) code: Vec<Instruction>,
}

/// An instruction.
pub(crate) struct Instruction {
    pub(crate) address: u64,
    /// `sdot`.
    pub(crate) name: String,
    /// `v0.4s, v1.16b, v2.4b[0]`.
    pub(crate) operands: String,
}

/// Takes a program or an object apart.
///
/// # Errors
/// When there is no disassembler (what to type) or the file is none for ARM.
pub(crate) fn disassemble(program: &Path) -> Result<Vec<Function>> {
    let disassembler = DISASSEMBLERS.iter().find_map(|name| find(name));
    let disassembler: PathBuf = disassembler.with_context(
        || "no disassembler for aarch64; on Debian or Ubuntu: `sudo apt-get install -y binutils-aarch64-linux-gnu`",
    )?;
    let printed = output(command(&disassembler).args(["-d", "-C", "--no-show-raw-insn"]).arg(program))?;
    let functions = parse(&printed);
    if functions.is_empty() {
        bail!("{}: no functions; it must not be stripped", program.display());
    }
    Ok(functions)
}

/// Of both GNU's and LLVM's listings.
fn parse(listing: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    for line in listing.lines() {
        let Some((address, rest)) = line.split_once(':') else { continue };
        if address.contains(" <") {
            // A name holds colons of its own: it ends at the end of the line.
            let name = line.split_once(" <").map_or("", |(_, name)| name.trim_end_matches(">:"));
            functions.push(Function { name: without_hash(name).to_owned(), code: Vec::new() });
        } else if let (Ok(address), Some(function)) = (u64::from_str_radix(address.trim(), 16), functions.last_mut()) {
            let text = rest.split("//").next().unwrap_or("").trim();
            let (name, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            function.code.push(Instruction { address, name: name.to_owned(), operands: operands.trim().to_owned() });
        }
    }
    functions
}

/// A demangled name without the compiler's own last part, `::h0123456789abcdef`.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => path,
        _ => name,
    }
}

impl Function {
    /// Code of the innermost loops: from the target of a backward conditional branch to the branch, no other such branch within, and
    /// no call.
    pub(crate) fn innermost_loops(&self) -> Vec<&[Instruction]> {
        let mut loops = Vec::new();
        for (end, branch) in self.code.iter().enumerate() {
            let conditional = branch.name.starts_with("b.") || ["cbz", "cbnz", "tbz", "tbnz"].contains(&branch.name.as_str());
            if let Some(target) = conditional.then(|| branch.target()).flatten()
                && let Ok(begin) = self.code.binary_search_by_key(&target, |i| i.address)
                && begin <= end
            {
                loops.push((begin, end));
            }
        }
        let within = |a: &(usize, usize), b: &(usize, usize)| a != b && b.0 <= a.0 && a.1 <= b.1;
        let innermost = loops.iter().filter(|l| !loops.iter().any(|other| within(other, l)));
        let code = innermost.map(|&(begin, end)| &self.code[begin..=end]);
        code.filter(|code| code.iter().all(|i| i.name != "bl" && i.name != "blr")).collect()
    }
}

impl Instruction {
    /// The address that a branch goes to.
    pub(crate) fn target(&self) -> Option<u64> {
        let last = self.operands.rsplit(',').next()?.trim();
        let address = last.split_whitespace().next()?;
        u64::from_str_radix(address.trim_start_matches("0x"), 16).ok()
    }
}

/// An extension of Armv8.0 that a core may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    Lse,
    Dotprod,
    I8mm,
    Fp16,
    Sve,
    Crypto,
}

/// The parts of names of functions that are reached only where the extension was found, and who looks for it.
const GUARDED: &[(Extension, &[&str])] = &[
    // Out-of-line atomics of the compiler's runtime: they ask the kernel's hardware capabilities first.
    (
        Extension::Lse,
        &["__aarch64_cas", "__aarch64_swp", "__aarch64_ldadd", "__aarch64_ldclr", "__aarch64_ldeor", "__aarch64_ldset"],
    ),
    // Ours: a tier's token is the proof.
    (Extension::Dotprod, &["bourn_kernels::dotprod::", "bourn_kernels::i8mm::"]),
    (Extension::I8mm, &["bourn_kernels::i8mm::"]),
    (Extension::Fp16, &[]),
    // The C library's memory functions, chosen at start.
    (Extension::Sve, &["__memcpy_", "__memmove_", "__memset_"]),
    // Digests and TLS, which ask the CPU.
    (Extension::Crypto, &["sha2::", "ring::", "ring_core_", "aws_lc_", "crc32fast::"]),
];

/// Fails if an instruction that Cortex-A53, A57 and A72 lack lies outside the functions that are guarded by a question to the CPU.
///
/// # Errors
/// The instructions and the functions they lie in.
pub(crate) fn check_baseline(program: &Path) -> Result<()> {
    let functions = disassemble(program)?;
    let mut found = Vec::new();
    let mut guarded = 0;
    for function in &functions {
        for instruction in &function.code {
            let Some(extension) = instruction.extension() else { continue };
            let allowed = GUARDED.iter().filter(|(guarded, _)| *guarded == extension).flat_map(|(_, names)| *names);
            if allowed.into_iter().any(|name| function.name.contains(name)) {
                guarded += 1;
            } else {
                found.push(format!(
                    "{:x} {} {}  in {}",
                    instruction.address, instruction.name, instruction.operands, function.name
                ));
            }
        }
    }
    if !found.is_empty() {
        let shown = found.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
        bail!("{}: {} instructions that Armv8.0 lacks, unguarded:\n  {shown}", program.display(), found.len());
    }
    eprintln!("baseline: {}: Armv8.0 but for {guarded} guarded instructions", program.display());
    Ok(())
}

impl Instruction {
    /// What the instruction needs beyond Armv8.0, of what could get into our programs.
    fn extension(&self) -> Option<Extension> {
        let (name, operands) = (self.name.as_str(), self.operands.as_str());
        let starts = |list: &[&str]| list.iter().any(|start| name.starts_with(start));
        if is_lse(name) {
            return Some(Extension::Lse);
        }
        let word =
            |ends: &[&str]| operands.split([',', ' ', '{', '}', '[', ']']).any(|word| ends.iter().any(|end| word.ends_with(end)));
        let register = |letter: char| {
            let mut words = operands.split([',', ' ', '{', '}', '[', ']', '.', '/']);
            words.any(|word| word.strip_prefix(letter).is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n < 32)))
        };
        match name {
            "sdot" | "udot" => Some(Extension::Dotprod),
            "smmla" | "ummla" | "usmmla" | "usdot" | "sudot" | "bfdot" | "bfmmla" => Some(Extension::I8mm),
            _ if register('z') => Some(Extension::Sve),
            _ if starts(&[
                "aese", "aesd", "aesmc", "aesimc", "sha1", "sha256", "sha512", "pmull", "eor3", "bcax", "rax1", "crc32",
            ]) =>
            {
                Some(Extension::Crypto)
            }
            // Conversions between half and single are Armv8.0; arithmetic on halves is not.
            _ if name.starts_with('f') && !starts(&["fcvt", "fmov"]) && (word(&[".8h", ".4h"]) || register('h')) => {
                Some(Extension::Fp16)
            }
            _ if starts(&["fmlal", "fmlsl"]) => Some(Extension::Fp16),
            _ => None,
        }
    }
}

/// `cas*`, `swp*`, `ld<op>*` and `st<op>*` of Armv8.1.
fn is_lse(name: &str) -> bool {
    const OPERATIONS: [&str; 8] = ["add", "clr", "eor", "set", "smax", "smin", "umax", "umin"];
    const ENDINGS: [&str; 14] = ["", "a", "l", "al", "b", "ab", "lb", "alb", "h", "ah", "lh", "alh", "p", "pal"];
    let of = |rest: &str| ENDINGS.contains(&rest) || rest == "pa" || rest == "pl";
    if let Some(rest) = name.strip_prefix("cas").or_else(|| name.strip_prefix("swp")) {
        return of(rest);
    }
    let rest = name.strip_prefix("ld").or_else(|| name.strip_prefix("st"));
    rest.is_some_and(|rest| OPERATIONS.iter().any(|operation| rest.strip_prefix(operation).is_some_and(of)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(text: &str) -> Instruction {
        let (name, operands) = text.split_once(' ').unwrap();
        Instruction { address: 0, name: name.to_owned(), operands: operands.to_owned() }
    }

    #[test]
    fn knows_what_needs_an_extension() {
        for (text, extension) in [
            ("ldaddal w0, w1, [x2]", Some(Extension::Lse)),
            ("casp x0, x1, x2, x3, [x4]", Some(Extension::Lse)),
            ("swpb w0, w1, [x2]", Some(Extension::Lse)),
            ("sdot v0.4s, v1.16b, v2.4b[0]", Some(Extension::Dotprod)),
            ("smmla v0.4s, v1.16b, v2.16b", Some(Extension::I8mm)),
            ("fmul v0.8h, v1.8h, v2.8h", Some(Extension::Fp16)),
            ("fadd h0, h1, h2", Some(Extension::Fp16)),
            ("ld1b {z0.b}, p0/z, [x1]", Some(Extension::Sve)),
            ("crc32cx w0, w1, x2", Some(Extension::Crypto)),
            ("fcvtl v0.4s, v1.4h", None),
            ("fcvt s0, h1", None),
            ("smull v0.8h, v1.8b, v2.8b", None),
            ("ldset x0", Some(Extension::Lse)),
            ("ldp q0, q1, [x0], #0x20", None),
            ("stlr w0, [x1]", None),
            ("ldar w0, [x1]", None),
        ] {
            assert_eq!(instruction(text).extension(), extension, "{text}");
        }
    }

    const LISTING: &str = "
0000000000001000 <bourn_kernels::neon::gate::f::inner::h0123456789abcdef>:
    1000:      \tmov\tx0, #0x0
    1004:      \tsmull\tv0.8h, v1.8b, v2.8b
    1008:      \tcbz\tx1, 0x1010 <f+0x10>
    100c:      \tadd\tx0, x0, #0x1
    1010:      \tb.ne\t0x1004 <f+0x4>
    1014:      \tbl\t0x2000 <g>
    1018:      \tb.ne\t0x1000 <f>
    101c:      \tret
";

    #[test]
    fn finds_the_innermost_loops() {
        let functions = parse(LISTING);
        assert_eq!(functions[0].name, "bourn_kernels::neon::gate::f::inner");
        let loops = functions[0].innermost_loops();
        assert_eq!(loops.len(), 1);
        assert_eq!((loops[0][0].address, loops[0].len()), (0x1004, 4));
    }

    #[test]
    fn reads_gnu_listings_too() {
        let functions = parse("0000000000001000 <f>:\n    1000:\tb.ne\t1000 <f>  // b.any\n");
        assert_eq!(functions[0].code[0].target(), Some(0x1000));
        assert_eq!(functions[0].innermost_loops().len(), 1);
    }
}
