//! Sharing out rows: every element once, and no block that reaches outside its slice.

use bourn_kernels::rows::{Block, OneCore, split};

#[test]
fn split_visits_every_element_once() {
    for (n, stride, len, t_step, r_step) in [(1, 7, 7, 1, 3), (5, 9, 6, 2, 4), (3, 64, 64, 8, 100)] {
        let mut y = vec![0.0; n * stride];
        split(&OneCore, Block::new(&mut y, n, stride, len), t_step, r_step, &|t, r, mut cell| {
            for i in 0..cell.n() {
                for (j, v) in cell.row(i).iter_mut().enumerate() {
                    *v += ((t + i) * stride + r + j + 1) as f32;
                }
            }
        });
        for (i, v) in y.iter().enumerate() {
            assert_eq!(*v, if i % stride < len { (i + 1) as f32 } else { 0.0 });
        }
    }
}

#[test]
fn an_empty_block_has_empty_parts() {
    let mut block = Block::new(&mut [], 0, 8, 8);
    assert_eq!((block.part(3..5).n(), block.part(8..8).len()), (0, 0));
}

#[test]
#[should_panic(expected = "assertion failed")]
fn refuses_a_block_whose_end_wraps() {
    Block::new(&mut [0.0], 5, 1 << 62, 1);
}
