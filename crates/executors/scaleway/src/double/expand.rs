//! `$(NAME)` in the words of a command, as Kubernetes expands it.

use std::collections::BTreeMap;

/// The word with the variables' values. What names no variable stays, `$$` is `$`.
pub(super) fn expanded(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut text = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => text.push_str(value),
                None => text.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            text.push('$');
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubernetes_does() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (word, expected) in
            [("$(A)-$(B)", "1-$(B)"), ("$$(A) $$", "$(A) $"), ("$A 5$", "$A 5$"), ("$(A", "$(A"), ("é$(A)é", "é1é")]
        {
            assert_eq!(expanded(word, &variables), expected);
        }
    }

    #[test]
    fn what_gantry_escapes_comes_back() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for word in ["echo $(A) $$ $$$ $A ${A} $$$$(A)$", "for n in $(seq 1 20); do kill -9 $$; done", "no dollar"] {
            assert_eq!(expanded(&crate::words::literal(&[word.to_owned()])[0], &variables), word);
        }
    }
}
