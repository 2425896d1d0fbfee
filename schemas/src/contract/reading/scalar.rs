//! Scalars of the directory's files: sizes, durations, table names, addresses; and the nearest of known names.

use std::time::Duration;

use crate::table::TableName;

/// Below this similarity a suggestion misleads more than it helps.
const ALIKE: f64 = 0.75;

/// The known name that a wrong one was probably meant to be: the most similar, else the only one that begins as it does.
#[must_use]
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let head = wrong.split(['_', '-', '.']).next().filter(|head| head.len() >= 3);
    let (mut best, mut begins) = (None, Vec::new());
    for name in known {
        let alike = strsim::jaro_winkler(wrong, name);
        if alike >= ALIKE && best.is_none_or(|(most, _)| alike > most) {
            best = Some((alike, name));
        }
        if head.is_some_and(|head| name.starts_with(head)) {
            begins.push(name);
        }
    }
    match (best, begins.as_slice()) {
        (Some((_, name)), _) => Some(name),
        (None, [only]) => Some(only),
        _ => None,
    }
}

/// The known names that a wrong one may have been meant to be, at most three, the most similar first; else the [`nearest`].
#[must_use]
pub fn alike<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Vec<&'a str> {
    const MOST: usize = 3;
    /// How much less similar than the most similar one.
    const LESS: f64 = 0.08;
    let near = known.clone().into_iter().map(|name| (strsim::jaro_winkler(wrong, name), name));
    let mut near: Vec<_> = near.filter(|(alike, _)| *alike >= ALIKE).collect();
    near.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let Some((most, _)) = near.first().copied() else { return nearest(wrong, known).into_iter().collect() };
    near.into_iter().take_while(|(alike, _)| most - alike <= LESS).take(MOST).map(|(_, name)| name).collect()
}

/// `did you mean …?`, else the known names.
pub(crate) fn suggestion<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(name) = nearest(wrong, known.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let names: Vec<&str> = known.into_iter().collect();
    (!names.is_empty()).then(|| format!("known: {}", listed(&names)))
}

/// Names in one line, the first dozen of them.
pub(crate) fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", short(name))).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// A text of somebody else's that fits in a message.
pub(crate) fn short(text: &str) -> String {
    const SHOWN: usize = 60;
    let plain = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    let mut out: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}

/// `"16 MiB"` in bytes.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let units = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    measured(text, &units)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "must be a size as `16 MiB` (B, KiB, MiB, GiB)".to_owned())
}

/// `"10 s"`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];
    measured(text, &units).map(Duration::from_millis).ok_or_else(|| "must be a time as `10 s` (ms, s, min, h)".to_owned())
}

fn measured(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text.get(..text.len() - digits.len())?.parse().ok()?;
    let unit = units.iter().find(|(name, _)| *name == digits.trim())?.1;
    number.checked_mul(unit)
}

/// `schema.table`, or a table of the database's usual schema.
pub(crate) fn table_name(text: &str, usual_schema: &str) -> Result<TableName, String> {
    let (schema, name) = text.split_once('.').unwrap_or((usual_schema, text));
    let whole = |part: &str| !part.trim().is_empty() && part.trim() == part && !part.chars().any(char::is_control);
    if whole(schema) && whole(name) {
        return Ok(TableName::new(schema, name));
    }
    Err(format!("must name a table as `{usual_schema}.table`"))
}

/// `postgres://user:password@host:port/database?sslmode=…`: what of it is wrong, without showing any of it.
pub(crate) fn postgres_url(url: &str) -> Result<(), String> {
    const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    database_url(url, &["postgres", "postgresql"], 5432, "host=", &["sslmode="], &MODES)
}

/// `mysql://user:password@host:port/database?ssl-mode=…`: what of it is wrong, without showing any of it.
pub(crate) fn mysql_url(url: &str) -> Result<(), String> {
    const MODES: [&str; 5] = ["DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"];
    database_url(url, &["mysql", "mariadb"], 3306, "socket=", &["ssl-mode=", "sslmode="], &MODES)
}

/// `schemes`: those that it may begin with, the usual one first. `socket`: the parameter that stands in a host's place. `modes` are the
/// values that one of the parameters `mode` may have.
fn database_url(url: &str, schemes: &[&str], usual_port: u16, socket: &str, mode: &[&str], modes: &[&str]) -> Result<(), String> {
    let usual = schemes.first().copied().unwrap_or_default();
    let example = format!("{usual}://user:password@host:{usual_port}/database");
    let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)?.strip_prefix("://"));
    let rest = rest.ok_or_else(|| format!("must begin with {usual}://, as in {example}"))?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.split(':').next().is_none_or(str::is_empty) {
        return Err(format!("names no user ({example})"));
    }
    if database.is_empty() {
        return Err(format!("names no database ({example})"));
    }
    if !(address.is_empty() && query.split('&').any(|pair| pair.starts_with(socket))) {
        host_and_port(address, Some(usual_port))?;
    }
    match query.split('&').find_map(|pair| mode.iter().find_map(|name| pair.strip_prefix(name))) {
        Some(given) if !modes.iter().any(|known| known.eq_ignore_ascii_case(given)) => {
            let name = mode.first().copied().unwrap_or_default().trim_end_matches('=');
            Err(format!("has an unknown {name}; one of {}", listed(modes)))
        }
        _ => Ok(()),
    }
}

/// A table of the database that a MariaDB or MySQL address names.
pub(crate) fn mysql_table(text: &str) -> Result<String, String> {
    match text {
        _ if text.contains('.') => Err("names its database in `url`: write the table's name alone".to_owned()),
        _ if text.chars().count() > 64 => Err("is longer than the 64 characters that a table's name may have".to_owned()),
        _ if text.trim() != text || text.chars().any(char::is_control) => {
            Err("begins or ends with a space, or holds a control character".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// `http://host:port/path` or https, without a user in it.
pub(crate) fn http_url(url: &str) -> Result<String, String> {
    let rest =
        url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).ok_or("must begin with http:// or https://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a user or password: use `user` and `password`".to_owned());
    }
    host_and_port(authority, Some(80))?;
    Ok(url.trim_end_matches('/').to_owned())
}

/// `host:port`; brackets around an IPv6 address.
pub(crate) fn host_and_port(text: &str, usual: Option<u16>) -> Result<(), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c == '/') {
        return Err("names no host".to_owned());
    }
    match port {
        None if usual.is_some() => Ok(()),
        None => Err("names no port: host:port".to_owned()),
        Some(port) => match port.parse::<u16>() {
            Ok(1..) => Ok(()),
            _ => Err("has a port that is no number from 1 to 65535".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_near() {
        let fields = ["uscc", "established", "status", "reg_address", "legal_rep_name"];
        assert_eq!(nearest("est_date", fields), Some("established"));
        assert_eq!(nearest("stauts", fields), Some("status"));
        assert_eq!(nearest("zzz", fields), None);
    }

    #[test]
    fn names_that_are_about_as_near_are_all_told() {
        let rules = ["uscc.length", "uscc.alphabet", "org_code.check_digit", "card.check_digit", "citizen_id.check_digit"];
        assert_eq!(alike("uscc.lenght", rules), ["uscc.length"]);
        assert_eq!(alike("code.check_digit", rules), ["card.check_digit", "org_code.check_digit"]);
        assert_eq!(alike("est_date", ["established", "status"]), ["established"]);
        assert!(alike("zzz", rules).is_empty());
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("16 MiB"), Ok(16 << 20));
        assert_eq!(size("512KiB"), Ok(512 << 10));
        for wrong in ["", "16", "MiB", "16 MB", "-1 B", "99999999999999999999 B", "18446744073709551615 GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration("5 ms"), Ok(Duration::from_millis(5)));
        assert_eq!(duration("2 min"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err());
    }

    #[test]
    fn addresses() {
        for url in [
            "postgres://u:p@h/d",
            "postgresql://u@h:5432/d?sslmode=verify-full",
            "postgres://u:p%40@[::1]:5432/d",
            "postgres://u@/d?host=/var/run/postgresql",
        ] {
            assert_eq!(postgres_url(url), Ok(()), "{url}");
        }
        for url in [
            "mysql://u@h/d",
            "postgres://h/d",
            "postgres://u@h",
            "postgres://u@h:0/d",
            "postgres://u@:1/d",
            "postgres://u@h/d?sslmode=on",
        ] {
            assert!(postgres_url(url).is_err(), "{url}");
        }
        for url in
            ["mysql://u:p@h/d", "mariadb://u@h:3306/d?ssl-mode=verify_identity", "mysql://u@/d?socket=/run/mysqld/mysqld.sock"]
        {
            assert_eq!(mysql_url(url), Ok(()), "{url}");
        }
        for url in ["postgres://u@h/d", "mysql://h/d", "mysql://u@h", "mysql://u@h:0/d", "mysql://u@h/d?ssl-mode=verify-full"] {
            assert!(mysql_url(url).is_err(), "{url}");
        }
        assert_eq!(mysql_table("企业"), Ok("企业".to_owned()));
        for table in ["shared.t", " t", &"长".repeat(65)] {
            assert!(mysql_table(table).is_err(), "{table}");
        }
        assert_eq!(http_url("http://h:8081/"), Ok("http://h:8081".to_owned()));
        assert!(http_url("http://u:p@h").is_err());
        assert!(http_url("h:8081").is_err());
        assert!(host_and_port("h:9092", None).is_ok());
        assert!(host_and_port("h", None).is_err());
    }
}
