//! A tier: a token that proves the CPU has the instructions, and the table it hands out.

/// Makes the token `$token` and its table: every generic kernel instantiated for `$lanes` inside a function with the target features,
/// and `mul_quantized` (and others, if named) as the tier wrote them.
///
/// `$features` are the target features as one literal, `$each` the same one by one for detection by `$detected!`. A tier that is
/// `like` another, whose features it has too, takes all but `mul_quantized` from that one's table.
#[allow(unused_macros)]
macro_rules! tier {
    (
        $(#[$doc:meta])*
        $token:ident, $isa:literal, like: $like:path, features: $features:literal, each: [$($each:tt),*], detected: $detected:ident,
        mul_quantized: $mul_quantized:path
    ) => {
        $crate::tier::tier!(@token $(#[$doc])* $token, $features, [$($each),*], $detected);

        /// Reached only through the token.
        static TABLE: $crate::table::Kernels =
            $crate::table::Kernels { isa: $isa, mul_quantized: gate::mul_quantized, ..$like };

        /// From a plain function pointer into a function with the tier's target features.
        mod gate {
            use $crate::rows::Block;
            use $crate::table::{Q8Rows, Tiles};
            use $crate::tier::gate;
            gate!($features, $mul_quantized, mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>));
        }
    };
    (
        $(#[$doc:meta])*
        $token:ident, $isa:literal, $lanes:ty, features: $features:literal, each: [$($each:tt),*], detected: $detected:ident,
        mul_quantized: $mul_quantized:path
    ) => {
        $crate::tier::tier!(@token $(#[$doc])* $token, $features, [$($each),*], $detected);
        $crate::tier::tier!(@table $isa, $lanes, $features, $mul_quantized);
    };
    (@token $(#[$doc:meta])* $token:ident, $features:literal, [$($each:tt),*], $detected:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $token(());

        impl $token {
            /// The token, if this CPU has the instructions (without feature `std`: if the whole build may use them).
            pub fn detect() -> Option<Self> {
                #[cfg(feature = "std")]
                let found = true $(&& $detected!($each))*;
                #[cfg(not(feature = "std"))]
                let found = cfg!(all($(target_feature = $each),*));
                found.then_some(Self(()))
            }

            /// The token, unasked: for firmware that knows its CPU.
            ///
            /// # Safety
            #[doc = concat!("The CPU has ", $features, ".")]
            pub const unsafe fn assume() -> Self {
                Self(())
            }

            /// The tier's kernels.
            pub fn kernels(self) -> &'static $crate::table::Kernels {
                &TABLE
            }
        }
    };
    (@table $isa:literal, $lanes:ty, $features:literal, $mul_quantized:path) => {
        /// Reached only through the token.
        pub(crate) static TABLE: $crate::table::Kernels = $crate::table::Kernels {
            isa: $isa,
            mul_quantized: gate::mul_quantized,
            mul_rows: gate::mul_rows,
            mul_float: gate::mul_float,
            quantize: gate::quantize,
            rms_norm: gate::rms_norm,
            rope: gate::rope,
            add: gate::add,
            silu_mul: gate::silu_mul,
            gelu_mul: gate::gelu_mul,
            softcap: gate::softcap,
            kv_store: gate::kv_store,
            attend: gate::attend,
            screen_tables: gate::screen_tables,
            screen_scores: gate::screen_scores,
            count_at_least: gate::count_at_least,
            argmax: gate::argmax,
            max_sum_exp: gate::max_sum_exp,
        };

        /// From a plain function pointer into functions with the tier's target features.
        mod gate {
            use super::*;
            use $crate::generic;
            use $crate::rows::Block;
            use $crate::table::{Attend, KvView, KvViewMut, Q8RowMut, Q8Rows, ScreenTables, ScreenTiles, Tiles};
            use $crate::tier::gate;
            gate!($features, $mul_quantized, mul_quantized(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>));
            gate!($features, generic::rows::mul_rows::<$lanes>, mul_rows(w: &Tiles<'_>, x: &Q8Rows<'_>, y: &mut Block<'_>));
            gate!($features, generic::float::mul_float::<$lanes>, mul_float(w: &Tiles<'_>, x: &[f32], x_stride: usize, y: &mut Block<'_>));
            gate!($features, generic::quantize::quantize::<$lanes>, quantize(x: &[f32], out: &mut Q8RowMut<'_>));
            gate!($features, generic::norm::rms_norm::<$lanes>, rms_norm(x: &[f32], w: &[u8], eps: f32, y: &mut [f32]));
            gate!($features, generic::rope::rope::<$lanes>, rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], scale: f32));
            gate!($features, generic::pointwise::add::<$lanes>, add(y: &mut [f32], x: &[f32]));
            gate!($features, generic::pointwise::silu_mul::<$lanes>, silu_mul(g: &mut [f32], u: &[f32]));
            gate!($features, generic::pointwise::gelu_mul::<$lanes>, gelu_mul(g: &mut [f32], u: &[f32]));
            gate!($features, generic::pointwise::softcap::<$lanes>, softcap(x: &mut [f32], c: f32));
            gate!($features, generic::kv::kv_store::<$lanes>, kv_store(kv: &mut KvViewMut<'_>, slot: usize, k: &[f32], v: &[f32]));
            gate!($features, generic::attend::attend::<$lanes>, attend(kv: &KvView<'_>, a: &Attend<'_>, out: &mut Block<'_>));
            gate!($features, generic::screen::tables::<$lanes>, screen_tables(screen: &bourn_format::Screen<'_>, books: &[u8], y: &[f32], values: &mut [f32], low: &mut [u8], high: &mut [u8]) -> (f32, f32));
            gate!($features, generic::screen::scores::<$lanes>, screen_scores(w: &ScreenTiles<'_>, t: &ScreenTables<'_>, y: &mut [f32]));
            gate!($features, generic::logits::count_at_least, count_at_least(x: &[f32], threshold: f32) -> usize);
            gate!($features, generic::logits::argmax::<$lanes>, argmax(x: &[f32]) -> usize);
            gate!($features, generic::logits::max_sum_exp::<$lanes>, max_sum_exp(x: &[f32]) -> (f32, f32));
        }
    };
}

/// One function of the gate.
#[allow(unused_macros)]
macro_rules! gate {
    ($features:literal, $body:path, $name:ident($($x:ident: $t:ty),*) $(-> $r:ty)?) => {
        pub(super) fn $name($($x: $t),*) $(-> $r)? {
            #[target_feature(enable = $features)]
            fn inner($($x: $t),*) $(-> $r)? {
                $body($($x),*)
            }
            // SAFETY: the only way here is the table, the only way to the table the token, and the token proves the features.
            unsafe { inner($($x),*) }
        }
    };
}

#[allow(unused_imports)]
pub(crate) use {gate, tier};
