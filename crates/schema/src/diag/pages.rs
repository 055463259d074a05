//! The page of every code, carried along so that `explain` needs no files.

use super::Code;

/// The Markdown page of a code: what it means, a bad example, the message, and the mended example.
pub fn explain(code: Code) -> &'static str {
    let id = code.id();
    PAGES.iter().find(|(page, _)| *page == id).map_or(code.info().summary, |(_, text)| text)
}

macro_rules! pages {
    ($($id:literal)*) => {
        &[$(($id, include_str!(concat!("../../docs/errors/", $id, ".md"))),)*]
    };
}

/// Tests hold this list to the registry and to the files.
const PAGES: &[(&str, &str)] = pages! {
    "CST0001" "CST0002" "CST0003" "CST0004" "CST0005" "CST0006" "CST0007" "CST0010"
    "CST0011" "CST0012" "CST0013" "CST0014" "CST0015" "CST0020" "CST0021" "CST0022"
    "CST0023" "CST0100" "CST0101" "CST0102" "CST0103" "CST0104" "CST0105" "CST0106"
    "CST0110" "CST0111" "CST0112" "CST0113" "CST0114" "CST0120" "CST0121" "CST0122"
    "CST0123" "CST0124" "CST0125" "CST0126" "CST0127" "CST0130" "CST0131" "CST0132"
    "CST0133" "CST0134" "CST0140" "CST0141" "CST0142" "CST0143" "CST0144" "CST0145"
    "CST0150" "CST0151" "CST0152" "CST0153" "CST0154" "CST0155" "CST0156" "CST0160"
    "CST0161" "CST0162" "CST0163" "CST0164" "CST0165" "CST0166" "CST0167" "CST0168"
    "CST0169" "CST0170" "CST0171" "CST0172" "CST0173" "CST0174" "CST0175" "CST0180"
    "CST0181" "CST0182" "CST0190" "CST0191" "CST0192" "CST0193" "CST0194"
    "CST0195" "CST0196"
};
