//! Bourn on a board that is somewhere else: `BOURN_BOARD=ssh:user@host[:port] cargo test -p bourn-hil`.
//!
//! Needed on the board: a POSIX shell and an ssh server. Needed here: the system's `ssh`. Modules in path order:
//! [`programs`] (what is run) → [`link`] (a shell on the board) → [`board`] (a folder there, copies, runs) → [`floors`] (how
//! fast it must be).
//!
//! | variable | what it says |
//! |---|---|
//! | `BOURN_BOARD` | `ssh:user@host[:port]`, or `emulated[:cpu]` for QEMU on this machine; without it the tests are ignored. Of boards without an operating system (`tests/device.rs`): `qemu-rpi3`, `qemu-rpi4`, `qemu-virt[:cpu]`, `serial:PATH`, `tcp:HOST:PORT`, `unix:PATH` |
//! | `BOURN_SSH_OPTS` | more options of `ssh`, separated by spaces: `-i KEY -o UserKnownHostsFile=FILE` |
//! | `BOURN_REMOTE_RUNNER` | words before each program on the board: an emulator, `taskset`, `nice` |
//! | `BOURN_BOARD_DIR` | where on the board the temporary folder is made (default `$TMPDIR`, else `/tmp`) |
//! | `BOURN_BOARD_NAME` | a folder of `boards/`, where the board does not tell its name |
//! | `BOURN_BOARD_MODEL` | an image on this machine to measure speed with |
//! | `BOURN_BOARD_LIMIT` | seconds that one test may take (default 600) |
//! | `BOURN_PROGRAMS` | a folder with the cross-built programs (default: they are built) |
#![deny(unsafe_code)]

pub mod board;
pub mod floors;
pub mod link;
pub mod programs;

pub use board::Board;
pub use link::{Done, Link};
