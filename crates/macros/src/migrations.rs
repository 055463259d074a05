//! From the path in the macro's call to the files of a folder of migrations.

use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use quote::quote;

/// The files below `path`, which is relative to `root`, as the facade reads them.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn embed(root: &Path, path: &str) -> Result<TokenStream, String> {
    let mut files = Vec::new();
    for (name, place) in listed(&root.join(path), path)? {
        if place.is_dir() {
            let inside = listed(&place, path)?.into_iter();
            files.extend(inside.map(|(file, place)| (format!("{name}/{file}"), place)));
        } else {
            files.push((name, place));
        }
    }
    let entries = files.into_iter().map(|(name, place)| {
        let place = place.to_str().ok_or_else(|| format!("the path of `{name}` is no Unicode text"))?.to_owned();
        Ok(quote! { (#name, ::core::include_str!(#place)) })
    });
    let entries: Vec<TokenStream> = entries.collect::<Result<_, String>>()?;
    Ok(quote! {{
        const FILES: &[(&str, &str)] = &[#(#entries),*];
        ::cratestack::migrations::from_files(FILES.iter().copied())
    }})
}

/// What is in a folder, sorted, but for hidden files.
fn listed(folder: &Path, path: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let failed = |error: std::io::Error| {
        format!("cannot read the migrations `{path}`: {error}; the path is relative to the folder of `Cargo.toml`")
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name =
            entry.file_name().into_string().map_err(|name| format!("`{}` is no Unicode text", name.display()))?;
        if !name.starts_with('.') {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
