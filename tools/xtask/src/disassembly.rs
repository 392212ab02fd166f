//! What a program for ARM is made of: functions, instructions, loops.

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

#[cfg(test)]
mod tests {
    use super::*;

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
