//! A firmware that is nothing but a table of format strings, and frames as its board would send them.

#![allow(dead_code, reason = "each test program takes what it needs")]

use object::write::{Object, StandardSection, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// Numbers, tags and texts. Source: what defmt's macros and linker script make.
pub const ENTRIES: &[(u16, &str, &str)] = &[
    (2, "defmt_info", "u8 {=u8}, i16 {=i16}, x {=u64:#x}, {=usize}"),
    (3, "defmt_warn", "{=f32} {=bool} {2=str} {2=str:?} {3=[u8]:x}"),
    (4, "defmt_error", "panic: {}, state {}"),
    (5, "defmt_info", "all {=[?]}"),
    (6, "defmt_info", "low {0=0..4}, high {0=4..8}"),
    (7, "defmt_info", "plain {{braces}}"),
    (21, "defmt_prim", "{=__internal_Display}"),
    (22, "defmt_derived", "Idle|Busy({=u8})"),
    (23, "defmt_derived", "<{=u8}>"),
    (24, "defmt_derived", ""),
    (25, "defmt_derived", "{}"),
];

/// An ELF file with these entries, of a version and an encoding; without a version no table.
pub fn elf(version: &str, encoding: &str) -> Vec<u8> {
    let mut file = Object::new(BinaryFormat::Elf, Architecture::Aarch64, Endianness::Little);
    let text = file.section_id(StandardSection::Text);
    file.append_section_data(text, &[0; 64], 4);
    if version.is_empty() {
        return file.write().unwrap();
    }
    let section = file.add_section(Vec::new(), b".defmt".to_vec(), SectionKind::Other);
    file.append_section_data(section, &[0; 64], 1);
    let mut add = |name: String, value: u64| {
        file.add_symbol(Symbol {
            name: name.into_bytes(),
            value,
            size: 1,
            kind: SymbolKind::Data,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    };
    let entry = |tag: &str, data: &str| {
        format!(r#"{{"package":"test","tag":"{tag}","data":"{data}","disambiguator":"1","crate_name":"test"}}"#)
    };
    for (index, tag, data) in ENTRIES {
        add(entry(tag, data), u64::from(*index));
    }
    add(entry("defmt_timestamp", "{=u64:us}"), 40);
    // As one linker writes it, quotes and all.
    add(format!("\"_defmt_version_ = {version}\""), 41);
    add(format!("_defmt_encoding_ = {encoding}"), 42);
    add("__DEFMT_MARKER_END".to_owned(), 20);
    linked(file.write().unwrap())
}

/// What a linker adds: a program header, which loads the code. Source: ELF-64, figures 2 and 6.
fn linked(mut file: Vec<u8>) -> Vec<u8> {
    let at = file.len().next_multiple_of(8);
    file.resize(at, 0);
    file[32..40].copy_from_slice(&(at as u64).to_le_bytes());
    file[54..58].copy_from_slice(&[56, 0, 1, 0]);
    let (loaded, readable) = (1_u64, 5_u64 << 32);
    for word in [loaded | readable, 64, 0x8_0000, 0x8_0000, 64, 64, 4096] {
        file.extend(word.to_le_bytes());
    }
    file
}

/// rzCOBS, by its rules (see `log.rs`), and the zero at its end.
pub fn packed(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut run, mut zeros) = (Vec::new(), 0, 0);
    for &byte in bytes {
        if run < 7 {
            if byte == 0 {
                zeros |= 1 << run;
            } else {
                out.push(byte);
            }
            run += 1;
            if run == 7 && zeros != 0 {
                out.push(zeros);
                (run, zeros) = (0, 0);
            }
        } else if byte == 0 {
            out.push((run as u8 - 7) | 0x80);
            (run, zeros) = (0, 0);
        } else {
            out.push(byte);
            run += 1;
            if run == 134 {
                out.push(0xff);
                (run, zeros) = (0, 0);
            }
        }
    }
    match run {
        0 => {}
        1..7 => out.push((zeros | (0xff << run)) & 0x7f),
        _ => out.push((run as u8 - 7) | 0x80),
    }
    out.push(0);
    out
}
