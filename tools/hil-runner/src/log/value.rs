//! A format string and the bytes of its arguments → text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use defmt_parser::{DisplayHint, Fragment, ParserMode, TimePrecision, Type, parse};

use super::Table;

/// Format strings within format strings.
const MOST_DEPTH: u32 = 32;
/// Values of one frame: a table that is not the frame's own asks for billions.
const MOST_VALUES: u32 = 1 << 16;
/// Columns that zeros fill.
const MOST_PAD: usize = 128;

/// One argument.
enum Value {
    Unsigned(u128),
    Signed(i128),
    F32(f32),
    F64(f64),
    /// Shown as it is, whatever the hint.
    Text(String),
    /// A string: quoted where the hint says so.
    Str(String),
    Bytes(Vec<u8>),
}

/// Bytes of a frame that have not been read.
pub(super) struct Reader<'t, 'b> {
    table: &'t Table,
    bytes: &'b [u8],
    depth: u32,
    values: u32,
}

impl<'t, 'b> Reader<'t, 'b> {
    pub(super) fn new(table: &'t Table, bytes: &'b [u8]) -> Self {
        Self { table, bytes, depth: 0, values: 0 }
    }

    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(n)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.array()?))
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn unsigned(&mut self, bytes: usize) -> Option<u128> {
        Some(self.take(bytes)?.iter().rev().fold(0, |value, &byte| value << 8 | u128::from(byte)))
    }

    fn signed(&mut self, bytes: usize) -> Option<i128> {
        let unused = 128 - 8 * u32::try_from(bytes).ok()?;
        Some((self.unsigned(bytes)? << unused) as i128 >> unused)
    }

    /// A format string with its arguments, which are read here in the order of their numbers.
    pub(super) fn text(&mut self, format: &str) -> Option<String> {
        if self.depth == MOST_DEPTH {
            return None;
        }
        self.depth += 1;
        let fragments = parse(format, ParserMode::ForwardsCompatible).ok()?;
        let mut types: BTreeMap<usize, Type> = BTreeMap::new();
        for fragment in &fragments {
            let Fragment::Parameter(p) = fragment else { continue };
            let ty = types.entry(p.index).or_insert_with(|| p.ty.clone());
            if let (Type::BitField(all), Type::BitField(more)) = (ty, &p.ty) {
                // Parts of one number, which is sent once.
                *all = all.start.min(more.start)..all.end.max(more.end);
            }
        }
        let mut values = BTreeMap::new();
        for (index, ty) in types {
            values.insert(index, self.value(&ty)?);
        }
        let mut text = String::new();
        for fragment in &fragments {
            match fragment {
                Fragment::Literal(literal) => text += literal,
                Fragment::Parameter(p) => shown(&mut text, values.get(&p.index)?, &p.ty, p.hint.as_ref()),
            }
        }
        self.depth -= 1;
        Some(text)
    }

    /// A value that brings the number of its own format string.
    fn formatted(&mut self, index: u16) -> Option<String> {
        let table = self.table;
        self.of_format(&table.entries.get(&index)?.format)
    }

    /// A value by its format string; an enum's are all variants, and its bytes begin with which it is.
    fn of_format(&mut self, format: &str) -> Option<String> {
        if !format.contains('|') {
            return self.text(format);
        }
        let bytes = match format.split('|').count() - 1 {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        let variant = usize::try_from(self.unsigned(bytes)?).ok()?;
        self.text(format.split('|').nth(variant)?)
    }

    fn list(&mut self, n: usize) -> Option<Value> {
        let (index, table) = (self.u16()?, self.table);
        let format = &table.entries.get(&index)?.format;
        let mut text = String::from("[");
        for i in 0..n {
            self.count()?;
            text += if i > 0 { ", " } else { "" };
            text += &self.of_format(format)?;
        }
        Some(Value::Text(text + "]"))
    }

    fn count(&mut self) -> Option<()> {
        self.values += 1;
        (self.values <= MOST_VALUES).then_some(())
    }

    fn value(&mut self, ty: &Type) -> Option<Value> {
        self.count()?;
        Some(match ty {
            Type::U8 => Value::Unsigned(self.unsigned(1)?),
            Type::U16 => Value::Unsigned(self.unsigned(2)?),
            // Sizes go as 4 bytes, whatever the machine.
            Type::U32 | Type::Usize => Value::Unsigned(self.unsigned(4)?),
            Type::U64 => Value::Unsigned(self.unsigned(8)?),
            Type::U128 => Value::Unsigned(self.unsigned(16)?),
            Type::I8 => Value::Signed(self.signed(1)?),
            Type::I16 => Value::Signed(self.signed(2)?),
            Type::I32 | Type::Isize => Value::Signed(self.signed(4)?),
            Type::I64 => Value::Signed(self.signed(8)?),
            Type::I128 => Value::Signed(self.signed(16)?),
            Type::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            Type::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            Type::Bool => Value::Text(match self.unsigned(1)? {
                0 => "false".to_owned(),
                1 => "true".to_owned(),
                _ => return None,
            }),
            Type::Char => Value::Text(char::from_u32(u32::from_le_bytes(self.array()?))?.to_string()),
            Type::BitField(range) => self.bit_field(range)?,
            Type::Str => {
                let n = self.len()?;
                Value::Str(String::from_utf8(self.take(n)?.to_vec()).ok()?)
            }
            Type::IStr => {
                let index = self.u16()?;
                Value::Str(self.table.entries.get(&index)?.format.clone())
            }
            Type::U8Slice => {
                let n = self.len()?;
                Value::Bytes(self.take(n)?.to_vec())
            }
            Type::U8Array(n) => Value::Bytes(self.take(*n)?.to_vec()),
            Type::Format => {
                let index = self.u16()?;
                Value::Text(self.formatted(index)?)
            }
            Type::FormatSlice => {
                let n = self.len()?;
                self.list(n)?
            }
            Type::FormatArray(n) => self.list(*n)?,
            Type::FormatSequence => {
                let mut text = String::new();
                loop {
                    self.count()?;
                    match self.u16()? {
                        0 => break Value::Text(text),
                        index => text += &self.formatted(index)?,
                    }
                }
            }
            // Text as the firmware wrote it, ended by a byte that UTF-8 has not.
            Type::Debug | Type::Display => {
                let n = self.bytes.iter().position(|&byte| byte == 0xff)?;
                let text = String::from_utf8(self.take(n)?.to_vec()).ok()?;
                self.take(1)?;
                Value::Text(text)
            }
        })
    }

    /// Only the bytes that a field touches are sent, as 1, 2, 4, 8 or 16.
    fn bit_field(&mut self, range: &Range<u8>) -> Option<Value> {
        let low = range.start / 8;
        let bytes = range.end.checked_sub(1)?.checked_div(8)?.checked_sub(low)? + 1;
        let value = self.unsigned(usize::from(bytes.next_power_of_two()))?;
        Some(Value::Unsigned(value.checked_shl(u32::from(low) * 8)?))
    }
}

/// Adds a value as its hint says.
fn shown(text: &mut String, value: &Value, ty: &Type, hint: Option<&DisplayHint>) {
    // Writing to a string never fails.
    let _ = match (value, ty) {
        (Value::Unsigned(value), Type::BitField(range)) => {
            let bits = u32::from(range.end.saturating_sub(range.start)).min(128);
            let mask = u128::MAX.checked_shr(128 - bits).unwrap_or(0);
            number(text, false, value.checked_shr(u32::from(range.start)).unwrap_or(0) & mask, hint)
        }
        (Value::Unsigned(value), _) => number(text, false, *value, hint),
        (Value::Signed(value), _) => number(text, *value < 0, value.unsigned_abs(), hint),
        (Value::F32(value), _) => write!(text, "{value}"),
        (Value::F64(value), _) => write!(text, "{value}"),
        (Value::Text(value), _) => write!(text, "{value}"),
        (Value::Str(value), _) => match hint {
            Some(DisplayHint::Debug) => write!(text, "{value:?}"),
            _ => write!(text, "{value}"),
        },
        (Value::Bytes(value), _) => match hint {
            Some(DisplayHint::Ascii) => write!(text, "b\"{}\"", value.escape_ascii()),
            Some(DisplayHint::Hexadecimal { .. }) => write!(text, "{value:02x?}"),
            _ => write!(text, "{value:?}"),
        },
    };
}

fn number(text: &mut String, negative: bool, value: u128, hint: Option<&DisplayHint>) -> std::fmt::Result {
    if negative {
        text.push('-');
    }
    let pad = |zeros: usize, prefix: bool| zeros.min(MOST_PAD).saturating_sub(if prefix { 2 } else { 0 });
    match hint {
        Some(DisplayHint::NoHint { zero_pad }) => write!(text, "{value:0width$}", width = pad(*zero_pad, false)),
        Some(DisplayHint::Hexadecimal { alternate, uppercase, zero_pad }) => {
            let width = pad(*zero_pad, *alternate);
            text.push_str(if *alternate { "0x" } else { "" });
            if *uppercase { write!(text, "{value:0width$X}") } else { write!(text, "{value:0width$x}") }
        }
        Some(DisplayHint::Octal { alternate, zero_pad }) => {
            text.push_str(if *alternate { "0o" } else { "" });
            write!(text, "{value:0width$o}", width = pad(*zero_pad, *alternate))
        }
        Some(DisplayHint::Binary { alternate, zero_pad }) => {
            text.push_str(if *alternate { "0b" } else { "" });
            write!(text, "{value:0width$b}", width = pad(*zero_pad, *alternate))
        }
        Some(DisplayHint::Seconds(precision)) => seconds(text, value, precision),
        Some(DisplayHint::Time(precision)) => {
            let (unit, _) = unit(precision);
            let whole = value / unit;
            write!(text, "{:02}:{:02}:", whole / 3600, whole / 60 % 60)?;
            let rest = value % (60 * unit);
            text.push_str(if rest / unit < 10 { "0" } else { "" });
            seconds(text, rest, precision)
        }
        _ => write!(text, "{value}"),
    }
}

/// Units in a second, and digits after its point.
fn unit(precision: &TimePrecision) -> (u128, usize) {
    match precision {
        TimePrecision::Micros => (1_000_000, 6),
        TimePrecision::Millis => (1000, 3),
        TimePrecision::Seconds => (1, 0),
    }
}

fn seconds(text: &mut String, value: u128, precision: &TimePrecision) -> std::fmt::Result {
    match unit(precision) {
        (_, 0) => write!(text, "{value}"),
        (unit, digits) => write!(text, "{}.{:0digits$}", value / unit, value % unit),
    }
}
