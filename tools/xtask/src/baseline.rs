//! What a program for every 64-bit ARM core may not hold: instructions that some lack; and one for every Linux: shared libraries.
//!
//! Every 32-bit word of code is held against the encodings of the extensions after Armv8.0. Those instructions may stand only
//! in functions that are reached after the CPU was asked for them: a tier of kernels, a library's own dispatch.
//! Source: Arm ARM (DDI 0487), C4.1 "A64 instruction set encoding".

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind};

/// Instructions that Armv8.0 does not have, and the functions that may hold them.
struct Extension {
    name: &'static str,
    /// `word & mask == value`.
    encodings: &'static [(u32, u32)],
    /// Parts of the names of the functions that ask first.
    owners: &'static [&'static str],
}

const EXTENSIONS: &[Extension] = &[
    Extension {
        name: "LSE atomics",
        // LDADD…SWP, LDAPR (one class); CAS; CASP.
        encodings: &[(0x3b20_0c00, 0x3820_0000), (0x3fa0_7c00, 0x08a0_7c00), (0xbfa0_7c00, 0x0820_7c00)],
        // Helpers of the compiler (-moutline-atomics), which test the CPU at each call.
        owners: &["__aarch64_"],
    },
    Extension {
        name: "dotprod",
        // SDOT, UDOT: vector; by element.
        encodings: &[(0x9fe0_fc00, 0x0e80_9400), (0x9fc0_f400, 0x0f80_e000)],
        owners: &["dotprod", "i8mm"],
    },
    Extension {
        name: "i8mm",
        // SMMLA, UMMLA; USMMLA; USDOT: vector; by element (SUDOT too).
        encodings: &[
            (0xdfe0_fc00, 0x4e80_a400),
            (0xffe0_fc00, 0x4e80_ac00),
            (0xbfe0_fc00, 0x0e80_9c00),
            (0xbf40_f400, 0x0f00_f000),
        ],
        owners: &["i8mm"],
    },
    Extension {
        name: "fp16 arithmetic",
        // Three vectors; by element: of vectors, of registers; one vector; one register of a vector; one, two, three registers; FMLAL and
        // FMLSL: vector, by element. Conversions between half and single are Armv8.0.
        encodings: &[
            (0x9f60_c400, 0x0e40_0400),
            (0xbfc0_b400, 0x0f00_1000),
            (0x9fc0_f400, 0x0f00_9000),
            (0xffc0_b400, 0x5f00_1000),
            (0xdfc0_f400, 0x5f00_9000),
            (0x9f7e_0c00, 0x0e78_0800),
            (0xdf7e_0c00, 0x5e78_0800),
            (0xfffe_7c00, 0x1ee0_4000),
            (0xffe0_0c00, 0x1ee0_0800),
            (0xffc0_0000, 0x1fc0_0000),
            (0xbf60_fc00, 0x0e20_ec00),
            (0xbf60_fc00, 0x2e20_cc00),
            (0xbfc0_b400, 0x0f80_0000),
            (0xbfc0_b400, 0x2f80_8000),
        ],
        owners: &[],
    },
    Extension {
        name: "AES and SHA",
        // AESE…AESIMC; SHA1, SHA256 of three and of two registers; PMULL of 64 bits; SHA512, SHA3, SM3, SM4. A Raspberry Pi up to 4 has none of them.
        encodings: &[
            (0xffff_0c00, 0x4e28_0800),
            (0xffe0_8c00, 0x5e00_0000),
            (0xffff_0c00, 0x5e28_0800),
            (0xbfe0_fc00, 0x0ee0_e000),
            (0xff00_0000, 0xce00_0000),
        ],
        owners: &["ring_core_", "aarch64_sha28compress", "calculate_pmull"],
    },
    Extension { name: "CRC-32", encodings: &[(0x7fe0_e000, 0x1ac0_4000)], owners: &["crc32fast", "crc32_acle"] },
    // glibc chooses among its copies of memcpy and memset when the program starts; the unwinder reads the length of a vector
    // when a frame says that it saved one.
    Extension {
        name: "SVE",
        encodings: &[(0x1e00_0000, 0x0400_0000)],
        owners: &["_a64fx", "__memcpy_sve", "__memmove_sve", "execute_stack_op", "execute_cfa_program", "uw_", "_Unwind_"],
    },
];

/// Checks a program with its symbols; returns what was found in whose functions, one line each.
///
/// # Errors
/// If it is no 64-bit ARM program, or holds an instruction outside its owner.
pub(crate) fn check(bytes: &[u8]) -> Result<Vec<String>> {
    let file = parse(bytes)?;
    let symbols = Symbols::of(&file);
    ensure!(!symbols.functions.is_empty(), "need a program with its symbols, found none");
    let mut found: BTreeMap<(&str, bool), (usize, String)> = BTreeMap::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let data = section.data()?;
        for (index, word) in data.as_chunks::<4>().0.iter().enumerate() {
            let address = section.address() + 4 * index as u64;
            let word = u32::from_le_bytes(*word);
            let Some(extension) = extension(word) else { continue };
            if !symbols.is_code(address) {
                continue;
            }
            let name = symbols.function(address);
            let owned = extension.owners.iter().any(|owner| name.contains(owner));
            let entry = found.entry((extension.name, owned)).or_insert_with(|| (0, format!("{name} at {address:#x}")));
            entry.0 += 1;
        }
    }
    let outside: Vec<String> = found
        .iter()
        .filter(|((_, owned), _)| !owned)
        .map(|((extension, _), (count, place))| format!("{count} of {extension}, the first in {place}"))
        .collect();
    if !outside.is_empty() {
        bail!("need Armv8.0 outside the functions that ask the CPU first, found {}", outside.join("; "));
    }
    Ok(found
        .iter()
        .map(|((extension, _), (count, _))| format!("{count} words of {extension}, all behind their question"))
        .collect())
}

fn extension(word: u32) -> Option<&'static Extension> {
    EXTENSIONS.iter().find(|extension| extension.encodings.iter().any(|(mask, value)| word & mask == *value))
}

/// Checks the program in a file, and tells.
///
/// # Errors
/// If it cannot be read, or as [`check`].
pub(crate) fn check_file(program: &Path) -> Result<()> {
    let shown = || program.display().to_string();
    let found = check(&std::fs::read(program).with_context(shown)?).with_context(shown)?;
    eprintln!("baseline: {}: Armv8.0{}", shown(), found.iter().map(|line| format!("\n  {line}")).collect::<String>());
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<ElfFile64<'_, Endianness>> {
    let file = ElfFile64::parse(bytes)?;
    let header: &FileHeader64<Endianness> = file.elf_header();
    let machine = header.e_machine.get(file.endian());
    ensure!(machine == elf::EM_AARCH64, "need a program for 64-bit ARM, found ELF machine {machine}");
    Ok(file)
}

/// No loader, no shared library.
///
/// # Errors
/// If it is no 64-bit ARM program, or needs one.
pub(crate) fn check_static(bytes: &[u8]) -> Result<()> {
    let file = parse(bytes)?;
    let endian = file.endian();
    for segment in file.elf_program_headers() {
        if segment.p_type(endian) == elf::PT_INTERP {
            bail!("need a static program, found one that asks for a loader");
        }
        for entry in segment.dynamic(endian, file.data())?.into_iter().flatten() {
            ensure!(entry.d_tag.get(endian) != elf::DT_NEEDED, "need a static program, found one that asks for a shared library");
        }
    }
    Ok(())
}

/// Names of functions, and which words among code are data.
struct Symbols {
    /// Start → name.
    functions: BTreeMap<u64, String>,
    /// Start → whether code begins there ($x) or data ($d). Source: ELF for the Arm 64-bit Architecture, 5.5.4.
    mapping: BTreeMap<u64, bool>,
}

impl Symbols {
    fn of(file: &ElfFile64<'_, Endianness>) -> Self {
        let mut symbols = Self { functions: BTreeMap::new(), mapping: BTreeMap::new() };
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name == "$x" || name.starts_with("$x.") {
                symbols.mapping.insert(symbol.address(), true);
            } else if name == "$d" || name.starts_with("$d.") {
                symbols.mapping.insert(symbol.address(), false);
            } else if !name.is_empty() && !symbol.is_undefined() && symbol.section_index().is_some() {
                symbols.functions.entry(symbol.address()).or_insert_with(|| name.to_owned());
            }
        }
        symbols
    }

    fn is_code(&self, address: u64) -> bool {
        self.mapping.range(..=address).next_back().is_none_or(|(_, code)| *code)
    }

    fn function(&self, address: u64) -> &str {
        self.functions.range(..=address).next_back().map_or("a function without name", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as GNU as makes them.
    #[test]
    fn knows_what_is_younger_than_armv8_0() {
        let young = [
            (0xb820_0041, "LSE atomics"),     // ldadd w0, w1, [x2]
            (0xc8e0_fc41, "LSE atomics"),     // casal x0, x1, [x2]
            (0x4820_7c82, "LSE atomics"),     // casp x0, x1, x2, x3, [x4]
            (0x4e82_9420, "dotprod"),         // sdot v0.4s, v1.16b, v2.16b
            (0x2e82_9420, "dotprod"),         // udot v0.2s, v1.8b, v2.8b
            (0x4fa2_e820, "dotprod"),         // sdot v0.4s, v1.16b, v2.4b[3]
            (0x4e82_a420, "i8mm"),            // smmla v0.4s, v1.16b, v2.16b
            (0x4e82_ac20, "i8mm"),            // usmmla v0.4s, v1.16b, v2.16b
            (0x4e82_9c20, "i8mm"),            // usdot v0.4s, v1.16b, v2.16b
            (0x4e42_0c20, "fp16 arithmetic"), // fmla v0.8h, v1.8h, v2.8h
            (0x1ee2_0820, "fp16 arithmetic"), // fmul h0, h1, h2
            (0x1ee1_c020, "fp16 arithmetic"), // fsqrt h0, h1
            (0x4f32_1020, "fp16 arithmetic"), // fmla v0.8h, v1.8h, v2.h[3]
            (0x5f32_9020, "fp16 arithmetic"), // fmul h0, h1, v2.h[3]
            (0x6ef8_f820, "fp16 arithmetic"), // fneg v0.8h, v1.8h
            (0x6ea2_cc20, "fp16 arithmetic"), // fmlsl2 v0.4s, v1.4h, v2.4h
            (0x0f92_0020, "fp16 arithmetic"), // fmlal v0.2s, v1.2h, v2.h[1]
            (0x9ac2_5c20, "CRC-32"),          // crc32cx w0, w1, x2
            (0xce02_0c20, "AES and SHA"),     // eor3 v0.16b, v1.16b, v2.16b, v3.16b
            (0xce62_8020, "AES and SHA"),     // sha512h q0, q1, v2.2d
            (0x4e28_4820, "AES and SHA"),     // aese v0.16b, v1.16b
            (0x5e02_4020, "AES and SHA"),     // sha256h q0, q1, v2.4s
            (0x0ee2_e020, "AES and SHA"),     // pmull v0.1q, v1.1d, v2.1d
            (0x4f22_f820, "i8mm"),            // sudot v0.4s, v1.16b, v2.4b[3]
            (0x0422_0020, "SVE"),             // add z0.b, z1.b, z2.b
        ];
        for (word, name) in young {
            assert_eq!(extension(word).map(|e| e.name), Some(name), "{word:#010x}");
        }
    }

    #[test]
    fn armv8_0_is_no_extension() {
        let old = [
            0xc85f_7c20, // ldxr x0, [x1]
            0xc802_7c20, // stxr w2, x0, [x1]
            0x889f_fc20, // stlr w0, [x1]
            0x1ee2_c020, // fcvt d0, h1
            0x0e21_7820, // fcvtl v0.4s, v1.4h
            0x4e22_c020, // smull2 v0.8h, v1.16b, v2.16b
            0x4ea2_9420, // mla v0.4s, v1.4s, v2.4s
            0x4e20_2820, // saddlp v0.8h, v1.16b
            0x0e22_e020, // pmull v0.8h, v1.8b, v2.8b
            0x4fa2_8020, // mul v0.4s, v1.4s, v2.s[1]
            0x4fa2_1020, // fmla v0.4s, v1.4s, v2.s[1]
            0x0f52_2020, // smlal v0.4s, v1.4h, v2.h[1]
            0x4f52_c020, // sqdmulh v0.8h, v1.8h, v2.h[1]
            0x1ee2_4020, // fcvt s0, h1
            0x1f04_1800, // fmadd s0, s0, s4, s6
            0x9ac2_2020, // lsl x0, x1, x2
            0xd65f_03c0, // ret
        ];
        for word in old {
            assert!(extension(word).is_none(), "{word:#010x}: {}", extension(word).map_or("", |e| e.name));
        }
    }
}
