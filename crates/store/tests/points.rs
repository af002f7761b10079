//! Nothing is committed but between two failpoints. Transactions see to it by type (`Tx::commit` is the only way, the
//! raw one is banned); a statement outside a transaction commits by itself, so this reads the sources. Who is killed at
//! which of these points is in `chaos/src/roster.rs`.

use std::path::Path;

/// What a statement runs on that is a transaction of its own: the pool, or a connection that is lent.
const RUN_ON: [&str; 2] = ["store.pool()", "&mut *lent"];

/// Of each statement that runs on those: where it is, the call that runs it, and its SQL in lower case.
fn statements(name: &str, source: &str) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    for (at, _) in RUN_ON.iter().flat_map(|on| source.match_indices(on)) {
        let place = format!("{name}, line {}", source[..at].lines().count());
        // The function around it holds the call and the SQL, whichever comes first.
        let begin = source[..at].rfind("\npub async fn ").or_else(|| source[..at].rfind("\nasync fn ")).unwrap_or(0);
        let body = &source[begin..at];
        // The one that comes last is the one that this is an argument of.
        let call = [".single(", ".read("].into_iter().filter_map(|call| Some((body.rfind(call)?, call))).max();
        let sql = body.rfind("/* ").map(|sql| body[sql..].to_lowercase()).unwrap_or_default();
        found.push((place, call.map_or("nothing", |(_, call)| call), sql));
    }
    found
}

fn writes(sql: &str) -> bool {
    let words: Vec<&str> = sql.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    words.iter().enumerate().any(|(index, word)| match *word {
        "insert" | "delete" | "merge" | "truncate" => true,
        // `for update` and `for no key update` lock.
        "update" => index == 0 || !["for", "key"].contains(&words[index - 1]),
        _ => false,
    })
}

/// The calls of one source that break the rule, in words.
fn faults(name: &str, source: &str) -> Vec<String> {
    statements(name, source)
        .into_iter()
        .filter_map(|(place, call, sql)| match call {
            ".single(" => None,
            ".read(" if !writes(&sql) => None,
            ".read(" => Some(format!("{place}: a statement that writes goes through `Store::single`: {sql}")),
            _ => Some(format!("{place}: a statement goes through `Store::single` or `Store::read`")),
        })
        .collect()
}

#[test]
fn a_statement_that_commits_by_itself_stands_between_failpoints() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).expect("sources") {
            let path = file.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).expect("text");
                let name = path.display().to_string();
                seen += statements(&name, &source).len();
                assert_eq!(faults(&name, &source), Vec::<String>::new());
            }
        }
    }
    assert!(seen > 10, "the sources have changed so much that this test looks at nothing: {seen}");
}

#[test]
fn the_check_finds_what_it_is_for() {
    let source = |call: &str, sql: &str| {
        format!(
            "{}\npub async fn f(store: &Store) {{\n    store.{call}(\"x\", sqlx::query!(\"/* x */ {sql}\").fetch_all(store.pool())).await\n}}\n",
            " ".repeat(300)
        )
    };
    assert_eq!(faults("f.rs", &source("single", "update t set a = 1")).len(), 0);
    assert_eq!(faults("f.rs", &source("read", "select a from t for update skip locked")).len(), 0);
    assert_eq!(faults("f.rs", &source("read", "update t set a = 1")).len(), 1);
    assert_eq!(faults("f.rs", &source("read", "with x as (delete from t returning a) select a from x")).len(), 1);
    assert_eq!(faults("f.rs", &source("bare", "select 1")).len(), 1);
}
