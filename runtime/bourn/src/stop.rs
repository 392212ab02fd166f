//! Text → text without stop strings: what may be the beginning of one is held back until it is clear.

/// Holds text back just as long as it may turn out to be a stop string.
#[derive(Debug)]
pub struct StopFilter<'a> {
    stops: &'a [String],
}

/// What a push made of the held text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// This many bytes from the front are free to go.
    Free(usize),
    /// A stop string begins after this many bytes.
    Stop(usize),
}

impl<'a> StopFilter<'a> {
    /// A filter for these; empty ones are none.
    pub fn new(stops: &'a [String]) -> Self {
        Self { stops }
    }

    /// Longest stop string: at most that much is ever held.
    pub fn longest(&self) -> usize {
        self.stops.iter().map(String::len).max().unwrap_or(0)
    }

    /// Judges all text that is held.
    pub fn judge(&self, held: &str) -> Held {
        let stops = || self.stops.iter().filter(|s| !s.is_empty());
        if let Some(at) = stops().filter_map(|s| held.find(s.as_str())).min() {
            return Held::Stop(at);
        }
        // The earliest place from which the rest is a beginning of a stop string.
        let from = held.len().saturating_sub(self.longest());
        let begins = |at: usize| held.is_char_boundary(at) && stops().any(|s| s.as_bytes().starts_with(&held.as_bytes()[at..]));
        Held::Free((from..held.len()).find(|&at| begins(at)).unwrap_or(held.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `pieces` one by one; returns what came out and whether it stopped.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let filter = StopFilter::new(&stops);
        let (mut held, mut out) = (String::new(), String::new());
        for piece in pieces {
            held.push_str(piece);
            match filter.judge(&held) {
                Held::Stop(at) => return (out + &held[..at], true),
                Held::Free(n) => out.extend(held.drain(..n)),
            }
            assert!(held.len() <= filter.longest());
            assert!(stops.iter().all(|s| s.is_empty() || !out.contains(s.as_str())));
        }
        (out + &held, false)
    }

    #[test]
    fn a_stop_string_never_shows_even_in_part() {
        assert_eq!(run(&["STOP"], &["abS", "TO", "P", "x"]), ("ab".to_owned(), true));
        assert_eq!(run(&["STOP"], &["abSTO", "RM"]), ("abSTORM".to_owned(), false));
        assert_eq!(run(&["STOP"], &["abST"]), ("abST".to_owned(), false));
        assert_eq!(run(&["\n\n"], &["a\n", "b\n", "\nc"]), ("a\nb".to_owned(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
        assert_eq!(run(&["ab", "b"], &["xab"]), ("x".to_owned(), true));
        assert_eq!(run(&["é!"], &["caf", "é", "?é!"]), ("café?".to_owned(), true));
        assert_eq!(run(&[""], &["abc"]), ("abc".to_owned(), false));
        assert_eq!(run(&[], &["abc"]), ("abc".to_owned(), false));
    }
}
