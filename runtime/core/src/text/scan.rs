//! Pieces of text as each model's expression cuts them, by hand: every alternative in its order, with what backtracking
//! would do worked out.

use bourn_format::tokenizer::{Split, Tables, class};

const LETTER: u8 = class::LETTER;
const NUMBER: u8 = class::NUMBER;
const SPACE: u8 = class::SPACE;
const UPPER: u8 = class::UPPER;
const LOWER: u8 = class::LOWER;
/// `[\s\p{L}\p{N}]`.
const NAMED: u8 = SPACE | LETTER | NUMBER;

/// Classes of ASCII, as every version of Unicode has them.
const ASCII: [u8; 128] = {
    let mut table = [0; 128];
    let mut i = 0u8;
    while i < 128 {
        table[i as usize] = match i {
            b'A'..=b'Z' => LETTER | UPPER,
            b'a'..=b'z' => LETTER | LOWER,
            b'0'..=b'9' => NUMBER,
            9..=13 | b' ' => SPACE,
            _ => 0,
        };
        i += 1;
    }
    table
};

/// The pieces of a text, in order and without gaps.
pub(super) struct Pieces<'t, 's> {
    tables: &'t Tables<'t>,
    text: &'s str,
    at: usize,
    /// End of the stretch that the expression sees.
    limit: usize,
    split: Split,
}

/// A character: where the next one begins, its class, and its first byte.
#[derive(Clone, Copy)]
struct Char {
    next: usize,
    class: u8,
    first: u8,
}

impl<'t, 's> Pieces<'t, 's> {
    pub(super) fn new(tables: &'t Tables<'t>, text: &'s str) -> Self {
        let split = tables.split();
        let limit = if split == Split::DigitsGpt2 { 0 } else { text.len() };
        Self { tables, text, at: 0, limit, split }
    }

    /// The character at `i`; nothing at the limit.
    #[inline(always)]
    fn char(&self, i: usize) -> Option<Char> {
        if i >= self.limit {
            return None;
        }
        let bytes = self.text.as_bytes();
        let first = *bytes.get(i)?;
        if first < 0x80 {
            return Some(Char { next: i + 1, class: ASCII[usize::from(first)], first });
        }
        let byte = |k: usize| u32::from(bytes.get(i + k).copied().unwrap_or(0) & 0x3f);
        let (number, len) = match first {
            ..0xe0 => (u32::from(first & 0x1f) << 6 | byte(1), 2),
            0xe0..0xf0 => (u32::from(first & 0x0f) << 12 | byte(1) << 6 | byte(2), 3),
            _ => (u32::from(first & 0x07) << 18 | byte(1) << 12 | byte(2) << 6 | byte(3), 4),
        };
        Some(Char { next: i + len, class: self.tables.class(number), first })
    }

    /// End of the run of characters from `i` that have one of `classes`.
    #[inline(always)]
    fn run(&self, mut i: usize, classes: u8) -> usize {
        while let Some(c) = self.char(i).filter(|c| c.class & classes != 0) {
            i = c.next;
        }
        i
    }

    /// `\p{N}{1,most}` from a number on.
    fn numbers(&self, mut i: usize, most: usize) -> usize {
        for _ in 0..most {
            match self.char(i).filter(|c| c.class & NUMBER != 0) {
                Some(c) => i = c.next,
                None => break,
            }
        }
        i
    }

    /// `[^\s\p{L}\p{N}]+` and then any of `after`.
    fn others(&self, mut i: usize, after: &[u8]) -> usize {
        while let Some(c) = self.char(i).filter(|c| c.class & NAMED == 0) {
            i = c.next;
        }
        while let Some(c) = self.char(i).filter(|c| after.contains(&c.first)) {
            i = c.next;
        }
        i
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`, the first alternative only with `lines`.
    fn spaces(&self, start: usize, lines: bool) -> usize {
        let (mut i, mut last, mut line_end) = (start, start, None);
        while let Some(c) = self.char(i).filter(|c| c.class & SPACE != 0) {
            last = i;
            i = c.next;
            if c.first == b'\n' || c.first == b'\r' {
                line_end = Some(i);
            }
        }
        match line_end.filter(|_| lines) {
            Some(end) => end,
            None if i >= self.limit || last == start => i,
            None => last,
        }
    }

    /// Length of `'s|'t|'re|'ve|'m|'ll|'d` at `i`; `fold`: in either case, where U+017F is an s too.
    #[inline]
    fn contraction(&self, i: usize, fold: bool) -> Option<usize> {
        let bytes = self.text.as_bytes().get(i..self.limit)?;
        let (&quote, rest) = bytes.split_first()?;
        if quote != b'\'' {
            return None;
        }
        let lower = |k: usize| rest.get(k).map_or(0, |b| if fold { b.to_ascii_lowercase() } else { *b });
        match (lower(0), lower(1)) {
            (b's' | b't' | b'm' | b'd', _) => Some(2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(3),
            (0xc5, 0xbf) if fold => Some(3),
            _ => None,
        }
    }

    fn gpt2(&self, i: usize, c: Char) -> usize {
        if let Some(len) = self.contraction(i, false) {
            return i + len;
        }
        let (j, d) = match self.char(c.next) {
            Some(d) if c.first == b' ' => (c.next, d),
            _ => (i, c),
        };
        match d.class & NAMED {
            0 => self.others(j, &[]),
            LETTER => self.run(j, LETTER),
            NUMBER => self.run(j, NUMBER),
            _ => self.spaces(i, false),
        }
    }

    fn llama3(&self, i: usize, c: Char, digits: usize) -> usize {
        if let Some(len) = self.contraction(i, true) {
            return i + len;
        }
        if c.class & LETTER != 0 {
            return self.run(i, LETTER);
        }
        if is_lead(c) && self.char(c.next).is_some_and(|d| d.class & LETTER != 0) {
            return self.run(c.next, LETTER);
        }
        self.tail(i, c, digits, b"\r\n")
    }

    /// What the newer expressions end with: numbers, other characters, white space.
    fn tail(&self, i: usize, c: Char, digits: usize, after: &[u8]) -> usize {
        if c.class & NUMBER != 0 {
            return self.numbers(i, digits);
        }
        if c.class & NAMED == 0 {
            return self.others(i, after);
        }
        if c.first == b' ' && self.char(c.next).is_some_and(|d| d.class & NAMED == 0) {
            return self.others(c.next, after);
        }
        self.spaces(i, true)
    }

    fn o200k(&self, i: usize, c: Char, digits: usize, contractions: bool) -> usize {
        // The lead is tried first and given up only where the word then fails: a mark is a lead and a part of a word.
        let starts = [is_lead(c).then_some(c.next), Some(i)];
        let small = || starts.iter().flatten().find_map(|&s| self.word_ending_small(s));
        let large = || starts.iter().flatten().find_map(|&s| self.word_beginning_large(s));
        match small().or_else(large) {
            Some(end) if contractions => end + self.contraction(end, true).unwrap_or(0),
            Some(end) => end,
            None => self.tail(i, c, digits, b"\r\n/"),
        }
    }

    /// `UPPER*LOWER+`: the run of UPPER gives back as much as LOWER needs, down to its last character that is both.
    fn word_ending_small(&self, start: usize) -> Option<usize> {
        let (mut i, mut both) = (start, None);
        while let Some(c) = self.char(i).filter(|c| c.class & UPPER != 0) {
            i = c.next;
            if c.class & LOWER != 0 {
                both = Some(i);
            }
        }
        let end = self.run(i, LOWER);
        if end > i { Some(end) } else { both }
    }

    /// `UPPER+LOWER*`.
    fn word_beginning_large(&self, start: usize) -> Option<usize> {
        let large = self.run(start, UPPER);
        (large > start).then(|| self.run(large, LOWER))
    }

    /// Up to the next space that a piece may begin at.
    fn to_space(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut i = start;
        while let Some(&byte) = bytes.get(i) {
            if byte == b' ' && i > start && bytes[i - 1] != b' ' {
                let before = self.text.get(start..i).and_then(|s| s.chars().next_back());
                if !before.is_some_and(|c| self.tables.glued(c)) {
                    return i;
                }
            }
            i += 1;
        }
        self.limit
    }

    /// Where the piece that begins at `i` ends.
    fn end(&mut self, i: usize) -> Option<usize> {
        if self.split == Split::DigitsGpt2 && i >= self.limit {
            self.limit = self.text.len();
            let number = self.char(i)?;
            if number.class & NUMBER != 0 {
                self.limit = number.next;
                return Some(number.next);
            }
            let mut end = number.next;
            while let Some(c) = self.char(end).filter(|c| c.class & NUMBER == 0) {
                end = c.next;
            }
            self.limit = end;
        }
        let c = self.char(i)?;
        Some(match self.split {
            Split::Gpt2 | Split::DigitsGpt2 => self.gpt2(i, c),
            Split::Llama3 => self.llama3(i, c, 3),
            Split::Qwen2 => self.llama3(i, c, 1),
            Split::O200k => self.o200k(i, c, 3, true),
            Split::Tekken => self.o200k(i, c, 1, false),
            Split::Spaces => self.to_space(i),
            _ => self.limit,
        })
    }
}

/// `[^\r\n\p{L}\p{N}]`.
fn is_lead(c: Char) -> bool {
    c.class & (LETTER | NUMBER) == 0 && c.first != b'\r' && c.first != b'\n'
}

impl<'s> Iterator for Pieces<'_, 's> {
    type Item = &'s str;

    fn next(&mut self) -> Option<&'s str> {
        let start = self.at;
        // A piece is never empty, and never ends inside a character.
        let end = self.end(start)?.max(start + 1);
        self.at = end;
        match self.text.get(start..end) {
            Some(piece) => Some(piece),
            None => {
                self.at = self.text.len();
                self.text.get(start..)
            }
        }
    }
}
