//! Unicode's classes and compositions as the tokenizer's tables have them (FORMAT.md §6).
//!
//! Classes are Unicode 16's, as the `tokenizers` crate's expressions have them; the normal form is that of its own, which
//! is Unicode 9's: characters that came later neither decompose nor compose nor combine.

use crate::Error;
use bourn_format::tokenizer::class;
use regex_syntax::hir::HirKind;
use std::collections::{BTreeMap, HashMap};
use unicode_normalization::char::{canonical_combining_class, compose, decompose_canonical};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The expression for what Unicode 9 has.
const KNOWN: &str = r"\p{age:9.0}";

/// Tables 10 to 15.
#[derive(Default)]
pub(crate) struct Unicode {
    pub(crate) blocks: Vec<u8>,
    pub(crate) classes: Vec<u8>,
    pub(crate) decompositions: Vec<u8>,
    pub(crate) decomposed: Vec<u8>,
    pub(crate) combining: Vec<u8>,
    pub(crate) compositions: Vec<u8>,
}

/// NFC of the text of an added token.
pub(crate) fn nfc(text: &str) -> String {
    text.nfc().collect()
}

/// The characters that an expression of one class matches.
fn characters(expression: &str) -> Result<Vec<char>, Error> {
    let refuse = |found: String| Error::Tokenizer { what: format!("need the class {expression}, found {found}") };
    let hir = regex_syntax::parse(expression).map_err(|e| refuse(e.to_string()))?;
    match hir.kind() {
        HirKind::Class(regex_syntax::hir::Class::Unicode(set)) => Ok(set.iter().flat_map(|r| r.start()..=r.end()).collect()),
        other => Err(refuse(format!("{other:?}"))),
    }
}

/// Makes the tables; those of the normal form only when `nfc`.
pub(crate) fn tables(nfc: bool) -> Result<Unicode, Error> {
    let mut classes = vec![0u8; 0x11_0000];
    for (expression, bit) in [
        (r"\p{L}", class::LETTER),
        (r"\p{N}", class::NUMBER),
        (r"\s", class::SPACE),
        (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", class::UPPER),
        (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", class::LOWER),
    ] {
        characters(expression)?.into_iter().for_each(|c| classes[c as usize] |= bit);
    }
    let mut out = Unicode::default();
    if nfc {
        out.normal_form(&mut classes)?;
    }
    let mut numbers = HashMap::new();
    for block in classes.chunks(256) {
        let next = numbers.len();
        let number = *numbers.entry(block).or_insert_with(|| {
            out.classes.extend_from_slice(block);
            next
        });
        let number =
            u8::try_from(number).map_err(|_| Error::TooLarge { what: "blocks of Unicode", most: 256, found: number as u64 })?;
        out.blocks.push(number);
    }
    Ok(out)
}

impl Unicode {
    fn normal_form(&mut self, classes: &mut [u8]) -> Result<(), Error> {
        let hangul = 0xac00..0xac00 + 11172;
        let known = characters(KNOWN)?;
        let mut compositions = BTreeMap::new();
        for &c in &known {
            let combining = canonical_combining_class(c);
            if combining != 0 {
                classes[c as usize] |= class::COMBINES | class::NFC_CHECK;
                self.combining.extend_from_slice(&(u32::from(c) << 8 | u32::from(combining)).to_le_bytes());
            }
            if is_nfc_quick([c].into_iter()) != IsNormalized::Yes {
                classes[c as usize] |= class::NFC_CHECK;
            }
            if hangul.contains(&u32::from(c)) {
                continue;
            }
            let mut all = Vec::new();
            decompose_canonical(c, |d| all.push(d));
            if all == [c] {
                continue;
            }
            classes[c as usize] |= class::DECOMPOSES;
            let start = u16::try_from(self.decomposed.len() / 4).unwrap_or(u16::MAX);
            self.decompositions.extend_from_slice(&u32::from(c).to_le_bytes());
            self.decompositions.extend_from_slice(&start.to_le_bytes());
            self.decompositions.extend_from_slice(&(all.len() as u16).to_le_bytes());
            self.decomposed.extend(all.iter().flat_map(|&d| u32::from(d).to_le_bytes()));
            // The first of the pair that composes to c: what all but the last compose to.
            let Some((&second, rest)) = all.split_last() else { continue };
            let mut first = rest.iter().copied().nfc();
            if let (Some(first), None) = (first.next(), first.next())
                && compose(first, second) == Some(c)
            {
                compositions.insert((u32::from(first), u32::from(second)), u32::from(c));
            }
        }
        let words = compositions.into_iter().flat_map(|((first, second), composite)| [first, second, composite]);
        self.compositions = words.flat_map(u32::to_le_bytes).collect();
        if self.decomposed.len() / 4 > usize::from(u16::MAX) {
            let found = self.decomposed.len() as u64 / 4;
            return Err(Error::TooLarge { what: "decompositions of Unicode", most: u64::from(u16::MAX), found });
        }
        Ok(())
    }
}
