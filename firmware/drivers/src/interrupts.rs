//! Interrupts as the firmware needs them: the serial line's goes to the first core, and every core can be woken.

/// A chip's interrupt controller, told which interrupt is the line's.
pub trait Interrupts {
    /// Called once, on the first core: lets the line's through to it.
    fn start(&self);
    /// Called on each other core: lets itself be woken.
    fn start_core(&self, core: usize);
    /// An interrupt on the first core: `line` is called if the line's is due.
    fn serve(&self, line: &mut dyn FnMut());
    /// Sends core `core` an interrupt.
    fn wake(&self, core: usize);
    /// On core `core`, which was sent one: takes it back.
    fn slept(&self, core: usize);
}
