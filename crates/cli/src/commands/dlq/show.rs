//! One letter in full, in a form that cannot steer the terminal.

use chrono::{DateTime, Utc};
use gantry_api::wire::{Data, LetterDetail};
use serde_json::Value;

use crate::output::{ago, fields, plain};

pub(super) fn text(detail: &LetterDetail, now: DateTime<Utc>) -> String {
    let letter = &detail.letter;
    let at = |time: Option<DateTime<Utc>>| time.map(|time| format!("{time} ({})", ago(now, time)));
    let again =
        (letter.arrivals > 1).then(|| format!("{} times, last {}", letter.arrivals, ago(now, letter.last_received_at)));
    let mut text = fields(&[
        ("letter", Some(letter.id.to_string())),
        ("state", Some(letter.state.to_string())),
        ("reason", Some(format!("{}: {}", letter.reason, letter.detail))),
        ("origin", Some(letter.origin.clone())),
        ("queue", letter.queue.clone()),
        ("tenant", Some(letter.tenant.map_or_else(|| "not known".to_owned(), |tenant| tenant.to_string()))),
        ("came", at(Some(letter.received_at))),
        ("again", again),
        ("replayed", at(letter.replayed_at)),
        ("as job", letter.replayed_as.map(|job| job.to_string())),
        ("refused", letter.replay_problem.clone()),
        ("dropped", at(letter.dropped_at)),
        ("message id", letter.message_id.clone()),
        ("type", detail.content_type.clone()),
        (
            "size",
            Some(format!(
                "{} bytes{}",
                letter.body_bytes,
                if detail.truncated { ", only the beginning is kept" } else { "" }
            )),
        ),
    ]);
    if !detail.headers.is_empty() {
        let headers: Vec<_> =
            detail.headers.iter().map(|(name, value)| format!("  {}: {}", plain(name), plain(value))).collect();
        text.push_str(&format!("\n\nheaders\n{}", headers.join("\n")));
    }
    text.push_str("\n\n");
    text.push_str(&body(&detail.body));
    text
}

/// JSON laid out for reading, other text line by line, anything else in base64.
fn body(body: &Data) -> String {
    match body {
        Data::Base64(encoded) => format!("body, in base64\n{encoded}"),
        Data::Text(text) => {
            let laid_out = serde_json::from_str::<Value>(text).and_then(|json| serde_json::to_string_pretty(&json));
            let lines = laid_out.as_deref().unwrap_or(text).lines().map(plain).collect::<Vec<_>>();
            format!("body\n{}", lines.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_cannot_steer_the_terminal() {
        assert_eq!(body(&Data::new(b"a\x1b[2Jb\r\nc".to_vec())), "body\na [2Jb\nc");
        assert_eq!(body(&Data::new(br#"{"a":"\u001b"}"#.to_vec())), "body\n{\n  \"a\": \"\\u001b\"\n}");
        assert_eq!(body(&Data::new(vec![0xff])), "body, in base64\n/w==");
    }
}
