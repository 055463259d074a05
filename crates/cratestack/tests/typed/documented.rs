//! Generated items meet the lints of a strict library: this compiles, which is the test.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub, warnings)]

/// The schema of the golden file.
pub mod shapes {
    cratestack::include_schema!("../macros/golden/shapes.cstack");
}

mod private {
    cratestack::include_schema!("../macros/golden/small.cstack");
}

/// Uses one item of many.
pub fn fingerprint() -> &'static str {
    private::FINGERPRINT
}
