//! The head of a prompt cache: what it claims must fit what it has, and never costs more than it has.

use bourn_core::KvDtype;
use bourn_core::snapshot::{Extent, FIXED_BYTES, Head, Origin};
use bourn_format::checksum;

/// A head; its first byte picks an origin. Judged as it is, and with the words and checksums that fit put in.
pub fn prompt_cache(data: &[u8]) {
    let Some((&kind, head)) = data.split_first() else { return };
    let kv = [KvDtype::F32, KvDtype::F16, KvDtype::I8][usize::from(kind % 3)];
    let sizes = [32, 2, u32::from(kind >> 2 & 1), u32::from(kind >> 3 & 3)];
    let origin = Origin { image: 7, kv, ropes: [0, 1], sizes, vocab: 300 };
    enter(head, &origin);
    let Some(counts) = head.get(48..64) else { return };
    let [n, from] = [0, 8].map(|at| u64::from_le_bytes(counts[at..at + 8].try_into().unwrap_or_default()));
    let mut made = vec![0; FIXED_BYTES + 8];
    let empty = Extent { n_tokens: 0, sliding_from: 0 };
    empty.write(&origin, &[], &[], &mut made[..empty.head_bytes(&origin)]);
    made[48..56].copy_from_slice(&n.to_le_bytes());
    made[56..64].copy_from_slice(&from.to_le_bytes());
    let Ok(extent) = Extent::new_checked(&made, &origin) else { return };
    let bytes = extent.head_bytes(&origin);
    if bytes > 1 << 16 {
        return;
    }
    made.truncate(FIXED_BYTES);
    made.extend_from_slice(&head[64..]);
    made.resize(bytes, 0);
    let sum = checksum(&made[..bytes - 8]);
    made[bytes - 8..].copy_from_slice(&sum.to_le_bytes());
    enter(&made, &origin);
}

fn enter(bytes: &[u8], origin: &Origin) {
    let Ok(head) = Head::new_checked(bytes, origin) else { return };
    let extent = head.extent();
    assert_eq!(head.tokens().count(), extent.n_tokens);
    assert!(head.tokens().all(|id| id < origin.vocab) && extent.sliding_from < extent.n_tokens);
    let (full, sliding) = extent.blocks(origin);
    let mut end = extent.head_bytes(origin) as u64;
    for (index, (kind, block)) in (0..full).map(|i| (false, i)).chain(sliding.map(|i| (true, i))).enumerate() {
        assert_eq!(extent.place(origin, kind, block), (end, index), "blocks lie one after another");
        end += origin.block_bytes(kind) as u64;
        std::hint::black_box(head.check_block(index, bytes)).ok();
    }
    assert_eq!(end, extent.file_bytes(origin));
}
