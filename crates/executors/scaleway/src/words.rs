//! The service expands `$(NAME)` in the words of a command, as Kubernetes does, before the container sees them. What a
//! job says is meant as it stands.

/// The words such that the service's expansion gives them back: where a `$` stands before another one or before `(`,
/// it is doubled. All else is left as it is, because the service leaves it too.
pub(crate) fn literal(words: &[String]) -> Vec<String> {
    words.iter().map(|word| escape(word)).collect()
}

fn escape(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        let dollars = rest[at..].chars().take_while(|c| *c == '$').count();
        let end = at + dollars;
        escaped.push_str(&rest[..end]);
        if dollars > 1 || rest[end..].starts_with('(') {
            escaped.push_str(&rest[at..end]);
        }
        rest = &rest[end..];
    }
    escaped.push_str(rest);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_expanded_is_escaped() {
        for (word, escaped) in [
            ("echo $HOME", "echo $HOME"),
            ("$(date)", "$$(date)"),
            ("kill -9 $$", "kill -9 $$$$"),
            ("$$(x)", "$$$$(x)"),
            ("$$$", "$$$$$$"),
            ("5$", "5$"),
            ("é$(ü)$é", "é$$(ü)$é"),
        ] {
            assert_eq!(escape(word), escaped);
        }
    }
}
