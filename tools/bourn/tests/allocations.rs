//! Nothing is allocated while a session generates: a counting allocator watches.

mod support;

use bourn::{GenerateOptions, Message, Model, OpenOptions, SamplerOptions, SessionOptions, Threads};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator with the caller's own arguments; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller of `dealloc`; `p` came from the system's allocator.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller of `realloc`; `p` came from the system's allocator.
        unsafe { System.realloc(p, layout, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test in this file: another one's allocations would be counted too.
#[test]
fn a_session_does_not_allocate_while_it_generates() {
    let Some(image) = support::image() else { return };
    let open = OpenOptions { threads: Some(Threads::both(2)), ..OpenOptions::default() };
    let model = Model::open(Path::new(image), &open).unwrap();
    let mut session = model.session(&SessionOptions::default()).unwrap();
    let prompt = model.chat_prompt(&[Message::new("user", "What is the capital of France?")]).unwrap();
    for temperature in [0.0, 0.9] {
        let options = GenerateOptions {
            max_tokens: Some(32),
            sampling: SamplerOptions {
                temperature,
                top_k: 40,
                top_p: 0.9,
                min_p: 0.01,
                repetition_penalty: 1.1,
                ..SamplerOptions::default()
            },
            stop: vec!["never said so".to_owned(), "nor this".to_owned()],
            ignore_eos: true,
        };
        session.clear().unwrap();
        let mut bytes = 0;
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let stats = session.generate(&prompt, &options, &mut |text| {
            bytes += text.len();
            ControlFlow::Continue(())
        });
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        let stats = stats.unwrap();
        assert_eq!(stats.generated_tokens, 32);
        assert!(bytes > 0);
        assert_eq!(after - before, 0, "allocations while generating at temperature {temperature}");
    }
}
