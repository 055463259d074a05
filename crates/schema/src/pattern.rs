//! `@regex`: the one way in which a pattern of the schema becomes a matcher, for the check and for the service alike.

use regex::{Regex, RegexBuilder};

/// The most memory that a compiled pattern, and each matcher's cache, may take.
pub const SIZE_LIMIT: usize = 1 << 20;

/// A matcher that holds for a text when the pattern matches the whole of it. Matching takes time linear in the text.
///
/// # Errors
/// One sentence that says what is wrong with the pattern.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    // Alone first: `a)|(b` is no pattern, though it would be one between the parentheses below.
    build(pattern)?;
    // In a pattern that ends with a comment (`(?x)`) the comment must end before the parenthesis does.
    build(&format!(r"\A(?:{pattern})\z")).or_else(|_| build(&format!("\\A(?:{pattern}\n)\\z")))
}

fn build(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern is too large".to_owned(),
        error => {
            // The library draws the pattern over several lines; the last one says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::compile;

    #[test]
    fn the_whole_text_must_match() {
        for (pattern, text, matches) in [
            ("a|ab", "ab", true),
            ("a|ab", "abc", false),
            ("[0-9]+", "12\n", false),
            ("(?m)^a$", "b\na", false),
            ("", "", true),
            ("", "x", false),
            ("(?x) a b # two letters", "ab", true),
            ("(?x) a b # two letters", "a", false),
            (r"\p{Lu}\w*", "Émile", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn refused_patterns() {
        for (pattern, message) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("[", "unclosed character class"),
            (r"(a)\1", "backreferences are not supported"),
            ("a{1000}{1000}{1000}", "the pattern is too large"),
        ] {
            assert_eq!(compile(pattern).unwrap_err(), message, "{pattern}");
        }
    }
}
