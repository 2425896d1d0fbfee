//! The directory that `guitong init` writes: valid, and every key explained where it stands.

/// Paths below the directory, and what stands there.
pub const FILES: &[(&str, &str)] = &[
    ("exchange.toml", include_str!("exchange.toml")),
    ("departments/credit-office.toml", include_str!("departments/credit-office.toml")),
    ("departments/market-regulation.toml", include_str!("departments/market-regulation.toml")),
    ("systems/licensing.toml", include_str!("systems/licensing.toml")),
    ("resources/enterprise.toml", include_str!("resources/enterprise.toml")),
    ("subscriptions/credit-enterprise.toml", include_str!("subscriptions/credit-enterprise.toml")),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use guitong_schemas::contract::{Directory, Problems, Purpose, load};

    use super::FILES;

    /// The directory with one file's text replaced.
    fn loaded(changed: &str, text: &str) -> Result<Directory, Problems> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in FILES {
            let target = root.path().join(path);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::write(target, if *path == changed { text } else { content }).unwrap();
        }
        let now = "2026-11-23T12:00:00+08:00".parse().unwrap();
        load(root.path(), &|_| None, now, Purpose::Check { unset_secrets: true })
    }

    #[test]
    fn it_is_valid() {
        let directory = loaded("", "").unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        assert_eq!((directory.systems.len(), directory.resources.len(), directory.subscriptions.len()), (1, 1, 1));
        assert_eq!(directory.subscriptions["credit-enterprise"].secret, None);
    }

    /// What stands in comments as an alternative is right as well.
    #[test]
    fn alternatives_are_valid() {
        const SAYS: [&str; 7] = ["syntax", "unknown-key", "wrong-type", "bad-value", "bad-option", "expression", "unknown-field"];
        let mut tried = 0;
        for (path, content) in FILES {
            for (section, block) in alternatives(content) {
                let text = toml::to_string(&merged(content, &section, &block)).unwrap();
                let problems = loaded(path, &text).err().unwrap_or_default();
                // The address of a PostgreSQL database stays beside the keys of another kind.
                let wrong = |code, message: &str| SAYS.contains(&code) && !message.contains("`url`");
                let wrong = problems.list.iter().find(|it| it.file == *path && wrong(it.code, &it.message));
                assert!(wrong.is_none(), "{block}{}", problems.render(false));
                tried += 1;
            }
        }
        assert!(tried > 15, "only {tried} alternatives found");
    }

    /// Runs of lines that are TOML behind `# `, each with the section it stands in.
    fn alternatives(content: &str) -> Vec<(String, String)> {
        let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.trim_matches('"').contains(' '));
        let (mut section, mut found, mut block) = (String::new(), Vec::new(), String::new());
        for line in content.lines().chain([""]) {
            match line.strip_prefix('#').map(str::trim_start) {
                Some(bare) if bare.starts_with('[') || is_key(bare) => {
                    let key = |line: &str| line.split(" = ").next().map(str::to_owned);
                    if block.lines().any(|known| key(known) == key(bare)) {
                        found.push((section.clone(), std::mem::take(&mut block)));
                    }
                    block.push_str(&format!("{bare}\n"));
                }
                Some("") if !block.is_empty() => {}
                _ if !block.is_empty() => found.push((section.clone(), std::mem::take(&mut block))),
                _ => {}
            }
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
            }
        }
        found
    }

    /// The file with an alternative in the place of what it replaces.
    fn merged(content: &str, section: &str, block: &str) -> toml::Table {
        let mut table: toml::Table = content.parse().unwrap();
        let whole = block.starts_with('[');
        let block: toml::Table = block.parse().unwrap_or_else(|error| panic!("{block}{error}"));
        let target = match table.get_mut(section).and_then(toml::Value::as_table_mut) {
            Some(target) if !whole => target,
            _ => &mut table,
        };
        target.extend(block);
        table
    }

    #[test]
    fn every_file_is_listed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/template");
        let mut found = Vec::new();
        let folders = ["", "departments", "systems", "resources", "subscriptions"];
        for folder in folders {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "toml") {
                    found.push(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found.sort_unstable();
        let mut listed: Vec<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }
}
