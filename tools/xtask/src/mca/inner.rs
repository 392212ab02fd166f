//! A kernel's inner loop: how many products of bytes, and of what.

use crate::disassembly::Instruction;

/// What a loop multiplies, told from its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 4-bit codes that are their own levels, one token.
    DecodeLinear,
    /// 4-bit codes through a table, one token.
    DecodeFitted,
    /// 8-bit weights, one token.
    DecodeBytes,
    /// As the first, several tokens.
    PrefillLinear,
    /// As the second, several tokens.
    PrefillFitted,
    /// As the third, several tokens.
    PrefillBytes,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::DecodeLinear, Self::DecodeFitted, Self::DecodeBytes, Self::PrefillLinear, Self::PrefillFitted, Self::PrefillBytes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DecodeLinear => "int4 decode",
            Self::DecodeFitted => "fitted decode",
            Self::DecodeBytes => "int8 decode",
            Self::PrefillLinear => "int4 prefill",
            Self::PrefillFitted => "fitted prefill",
            Self::PrefillBytes => "int8 prefill",
        }
    }
}

/// A loop with products of bytes.
pub(super) struct Inner<'a> {
    pub(super) code: &'a [Instruction],
    /// Products of two bytes in one iteration.
    pub(super) products: usize,
    pub(super) kind: Kind,
}

/// A product for every weight and not more: one token. Twice as many: at least two.
const MORE_THAN_ONE_TOKEN: f64 = 1.2;
/// 8-bit weights are not unpacked: bytes loaded for a product tell.
const BYTES_OF_ONE_TOKEN: f64 = 0.75;
/// A loop with fewer products is a remainder.
const FEWEST_PRODUCTS: usize = 64;

impl<'a> Inner<'a> {
    /// `None` if the loop multiplies no bytes, or few.
    pub(super) fn of(code: &'a [Instruction]) -> Option<Self> {
        let products: usize = code.iter().map(products).sum();
        if products < FEWEST_PRODUCTS {
            return None;
        }
        let looked_up = 16 * code.iter().filter(|i| i.name == "tbl").count();
        let masked = 16 * code.iter().filter(|i| masks(i)).count();
        let per_code = |unpacked: usize| products as f64 / unpacked as f64;
        let kind = match (looked_up, masked) {
            (0, 0) if (code.iter().map(bytes_loaded).sum::<usize>() as f64) < BYTES_OF_ONE_TOKEN * products as f64 => {
                Kind::PrefillBytes
            }
            (0, 0) => Kind::DecodeBytes,
            (0, n) if per_code(n) > MORE_THAN_ONE_TOKEN => Kind::PrefillLinear,
            (0, _) => Kind::DecodeLinear,
            (n, _) if per_code(n) > MORE_THAN_ONE_TOKEN => Kind::PrefillFitted,
            _ => Kind::DecodeFitted,
        };
        Some(Self { code, products, kind })
    }

    /// Instructions for a product.
    fn cost(&self) -> f64 {
        self.code.len() as f64 / self.products as f64
    }

    pub(super) fn describe(&self) -> String {
        let (first, n) = (self.code[0].address, self.code.len());
        format!("{:<16} at {first:x}: {n} instructions, {} products", self.kind.name(), self.products)
    }

    /// For the analyser: branches go to one label, whatever their target.
    pub(super) fn assembly(&self) -> String {
        let line = |i: &Instruction| match i.target().filter(|_| is_branch(&i.name)) {
            None => format!("{} {}\n", i.name, i.operands),
            Some(_) => match i.operands.rsplit_once(',') {
                Some((registers, _)) => format!("{} {registers}, .Lloop\n", i.name),
                None => format!("{} .Lloop\n", i.name),
            },
        };
        std::iter::once(".Lloop:\n".to_owned()).chain(self.code.iter().map(line)).collect()
    }
}

/// The loop that counts of a kind: of those that take the most tokens at once the one with the fewest instructions for a product, for
/// the sibling with minima has more.
pub(super) fn choose<'a, 'b>(loops: &'b [Inner<'a>], kind: Kind) -> Option<&'b Inner<'a>> {
    let of_kind = || loops.iter().filter(move |inner| inner.kind == kind);
    let most = of_kind().map(|inner| inner.products).max()?;
    of_kind().filter(|inner| inner.products == most).min_by(|a, b| a.cost().total_cmp(&b.cost()))
}

fn is_branch(name: &str) -> bool {
    name == "b" || name.starts_with("b.") || ["cbz", "cbnz", "tbz", "tbnz"].contains(&name)
}

/// Products of two bytes that an instruction makes, added up or not.
fn products(i: &Instruction) -> usize {
    let (out, ins) = i.operands.split_once(',').unwrap_or((&i.operands, ""));
    let widens = ["smull", "smlal", "smlsl", "umull", "umlal"].iter().any(|name| i.name.trim_end_matches('2') == *name);
    match i.name.as_str() {
        "smmla" | "usmmla" | "ummla" => 32,
        "sdot" | "udot" | "usdot" | "sudot" => 16,
        _ if widens && out.ends_with(".8h") => 8,
        "mul" | "mla" | "mls" if ins.contains(".16b") => 16,
        "mul" | "mla" | "mls" if ins.contains(".8h") => 8,
        _ => 0,
    }
}

/// Whether it takes 4-bit codes out of bytes.
fn masks(i: &Instruction) -> bool {
    let name = i.name.as_str();
    let bytes = i.operands.contains(".16b");
    bytes && matches!(name, "and" | "bic" | "ushr" | "sshr" | "shl" | "sli" | "sri")
}

/// Bytes that a vector load reads, sums that did not fit into registers not counted.
fn bytes_loaded(i: &Instruction) -> usize {
    let out = i.operands.split('[').next().unwrap_or("");
    if i.operands.contains("[sp") {
        return 0;
    }
    let vectors = out.split(',').filter(|r| r.trim().trim_start_matches('{').starts_with(['q', 'v'])).count();
    match i.name.as_str() {
        "ldr" | "ldur" | "ldp" | "ldnp" => 16 * out.split(',').filter(|r| r.trim().starts_with('q')).count(),
        "ld1" | "ld2" | "ld4" => 16 * vectors,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(lines: &[(&str, usize)]) -> Vec<Instruction> {
        let one = |text: &str| {
            let (name, operands) = text.split_once(' ').unwrap();
            Instruction { address: 0x40, name: name.to_owned(), operands: operands.to_owned() }
        };
        lines.iter().flat_map(|&(text, n)| (0..n).map(move |_| one(text))).collect()
    }

    fn kind(lines: &[(&str, usize)]) -> Option<Kind> {
        Inner::of(&code(lines)).map(|inner| inner.kind)
    }

    #[test]
    fn tells_loops_apart_by_what_they_do() {
        let (sdot, load) = ("sdot v0.4s, v1.16b, v2.4b[0]", "ldp q0, q1, [x0], #0x20");
        let (mask, look) = ("and v1.16b, v0.16b, v31.16b", "tbl v1.16b, { v31.16b }, v1.16b");
        assert_eq!(kind(&[(load, 2), (mask, 8), (sdot, 8)]), Some(Kind::DecodeLinear));
        assert_eq!(kind(&[(load, 2), (mask, 8), (sdot, 32)]), Some(Kind::PrefillLinear));
        assert_eq!(kind(&[(load, 2), (mask, 8), (look, 8), (sdot, 8)]), Some(Kind::DecodeFitted));
        assert_eq!(kind(&[(load, 2), (mask, 8), (look, 8), (sdot, 64)]), Some(Kind::PrefillFitted));
        assert_eq!(kind(&[(load, 4), (sdot, 8)]), Some(Kind::DecodeBytes));
        assert_eq!(kind(&[(load, 4), (sdot, 32)]), Some(Kind::PrefillBytes));
        assert_eq!(kind(&[(load, 4), (sdot, 2)]), None);
    }

    #[test]
    fn counts_products_of_bytes_only() {
        let of = |text: &str| products(&code(&[(text, 1)])[0]);
        assert_eq!(of("smlal2 v0.8h, v1.16b, v2.16b"), 8);
        assert_eq!(of("smull v0.4s, v1.4h, v2.4h"), 0);
        assert_eq!(of("smmla v0.4s, v1.16b, v2.16b"), 32);
        assert_eq!(of("fmla v0.4s, v1.4s, v2.4s"), 0);
    }

    #[test]
    fn gives_the_analyser_one_label() {
        let code = code(&[("sdot v0.4s, v1.16b, v2.4b[0]", 4), ("cbnz x1, 0x40 <f+0x4>", 1), ("b.ne 0x40 <f>", 1)]);
        let assembly = Inner::of(&code).unwrap().assembly();
        assert!(assembly.ends_with("cbnz x1, .Lloop\nb.ne .Lloop\n"), "{assembly}");
    }
}
