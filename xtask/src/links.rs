//! The relative links of all Markdown files: the file must be there, and the heading too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::run;

/// Checks every Markdown file of the project.
pub(crate) fn main() -> Result<(), String> {
    let root = run::root();
    let mut files = Vec::new();
    markdown(&root, &mut files)?;
    let mut broken = Vec::new();
    let mut count = 0;
    for file in &files {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for link in links(&text) {
            count += 1;
            if let Err(reason) = check(file, &text, &link) {
                let name = file.strip_prefix(&root).unwrap_or(file);
                broken.push(format!("{}: `{link}`: {reason}", name.display()));
            }
        }
    }
    println!("  {count} links in {} Markdown files", files.len());
    if broken.is_empty() { Ok(()) } else { Err(format!("broken links:\n  {}", broken.join("\n  "))) }
}

/// Markdown files below a folder, but for hidden folders and what builds leave.
fn markdown(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            markdown(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Targets of `[text](target)`, outside code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // The odd pieces between backticks are code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        found.extend(prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned));
    }
    found
}

fn check(file: &Path, text: &str, link: &str) -> Result<(), &'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target_text = if path.is_empty() {
        text.to_owned()
    } else {
        let target = file.parent().unwrap_or(Path::new("")).join(path);
        if target.is_dir() && anchor.is_none() {
            return Ok(());
        }
        if anchor.is_none() {
            return if target.is_file() { Ok(()) } else { Err("there is no such file") };
        }
        fs::read_to_string(&target).map_err(|_| "there is no such file")?
    };
    match anchor {
        Some(anchor) if !anchors(&target_text).contains(anchor) => Err("there is no such heading"),
        _ => Ok(()),
    }
}

/// The anchors that headings make: lower case, spaces to hyphens, punctuation dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{anchors, links};

    #[test]
    fn links_in_code_are_not_links() {
        let text = "see [a](x.md) and `[b](y.md)`, [c](z.md#part)\n```\n[d](no.md)\n```\n";
        assert_eq!(links(text), ["x.md", "z.md#part"]);
    }

    #[test]
    fn headings_become_anchors() {
        assert!(anchors("# One, two: `three`\n").contains("one-two-three"));
    }
}
