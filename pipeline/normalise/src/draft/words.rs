//! How near a column's name or comment is to a term: a Chinese one by its characters, a Latin one as English words, whole or
//! abbreviated, or as the pinyin of a Chinese term, whole or by its initials.

use pinyin::ToPinyinMulti;

/// A column's name as it can be compared.
#[derive(Debug, Default)]
pub(super) struct ColumnWords {
    /// Latin words in lower case: `HKSZD_XZQH`, `birthDate` and `birth_date` have two each.
    pub(super) latin: Vec<String>,
    /// Chinese titles: of the name and of the comment's beginning, whole and without what stands in brackets.
    pub(super) titles: Vec<Title>,
}

/// A Chinese title and what stands in its brackets: 总投资（亿元）.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Title {
    pub(super) outer: String,
    pub(super) inner: Option<String>,
}

/// A term as it can be compared.
#[derive(Debug)]
pub(super) enum Term {
    Chinese { text: Vec<char>, syllables: Vec<Vec<&'static str>> },
    English { text: String, words: Vec<String> },
}

/// Endings that say what form a datum has and little of which it is.
const FORMS: [&str; 6] = ["代码", "编码", "号码", "名称", "信息", "情况"];
/// Ends of Latin names that mean them.
const LATIN_FORMS: [&str; 6] = ["dm", "bm", "mc", "code", "id", "name"];
/// The same within a word.
const LATIN_ENDINGS: [&str; 6] = ["dm", "bm", "mc", "daima", "bianma", "mingcheng"];

impl ColumnWords {
    pub(super) fn of(name: &str, comment: Option<&str>) -> Self {
        let mut words = Self::default();
        if name.chars().any(is_han) {
            words.titles.extend(title(name));
        } else {
            words.latin = latin(name);
        }
        // What follows the title in a comment explains its codes.
        let heading =
            comment.map(|comment| comment.split([':', '：', ',', '，', ';', '；', '\n', '。', '\t']).next().unwrap_or_default());
        match heading.map(str::trim).filter(|heading| !heading.is_empty()) {
            Some(heading) if heading.chars().any(is_han) => words.titles.extend(title(heading)),
            Some(heading) if words.latin.is_empty() => words.latin = latin(heading),
            _ => {}
        }
        words
    }

    /// How near the column is to a term, from 0 to 1.
    pub(super) fn nearness(&self, term: &Term) -> f64 {
        match term {
            Term::Chinese { text, syllables } => {
                let by_title = self.titles.iter().map(|title| title.nearness(text)).fold(0.0, f64::max);
                by_title.max(by_pinyin(&self.latin, syllables) * if self.titles.is_empty() { 1.0 } else { 0.7 })
            }
            Term::English { words, .. } => {
                let by_words = by_english(&self.latin, words);
                by_words * if self.titles.is_empty() { 1.0 } else { 0.7 }
            }
        }
    }
}

impl Term {
    pub(super) fn chinese(text: &str) -> Self {
        let text: Vec<char> = text.chars().filter(|letter| is_han(*letter)).collect();
        let syllables = text.iter().map(|letter| readings(*letter)).collect();
        Self::Chinese { text, syllables }
    }

    pub(super) fn english(text: &str) -> Self {
        Self::English { text: text.to_owned(), words: text.split(' ').map(str::to_owned).collect() }
    }

    /// The term as it is written.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Chinese { text, .. } => text.iter().collect(),
            Self::English { text, .. } => text.clone(),
        }
    }
}

pub(super) fn is_han(letter: char) -> bool {
    matches!(letter, '\u{3400}'..='\u{9FFF}' | '\u{20000}'..='\u{3134F}' | '〇')
}

/// Every way in which a character is read, without tones.
fn readings(letter: char) -> Vec<&'static str> {
    let mut readings: Vec<&'static str> = letter.to_pinyin_multi().into_iter().flatten().map(|pinyin| pinyin.plain()).collect();
    readings.dedup();
    readings
}

fn title(text: &str) -> Option<Title> {
    let text: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    let (outer, inner) = match text.split_once(['(', '（', '【', '[']) {
        Some((outer, rest)) => (outer, rest.split([')', '）', '】', ']']).next()),
        None => (text.as_str(), None),
    };
    let kept = |text: &str| text.chars().filter(|letter| letter.is_alphanumeric()).collect::<String>();
    let (outer, inner) = (kept(outer), inner.map(kept).filter(|inner| !inner.is_empty()));
    (!outer.is_empty()).then_some(Title { outer, inner })
}

/// Words of a name in snake or camel case.
fn latin(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for letter in name.chars() {
        let begins = letter.is_ascii_uppercase() && before.is_ascii_lowercase();
        if !letter.is_ascii_alphanumeric() || begins {
            words.push(String::new());
        }
        if letter.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

impl Title {
    fn nearness(&self, term: &[char]) -> f64 {
        let outer: Vec<char> = self.outer.chars().filter(|letter| is_han(*letter)).collect();
        let whole = chinese(&outer, term);
        let Some(inner) = &self.inner else { return whole };
        let inner: Vec<char> = inner.chars().filter(|letter| is_han(*letter)).collect();
        let joined: Vec<char> = outer.iter().chain(&inner).copied().collect();
        // 代码_1（统一社会信用代码）: the brackets tell which; 总投资（亿元）: they do not.
        let within = if inner.len() >= 3 { 0.97 * chinese(&inner, term) } else { 0.0 };
        whole.max(chinese(&joined, term)).max(within)
    }
}

/// Nearness of two Chinese terms.
fn chinese(title: &[char], term: &[char]) -> f64 {
    if title.is_empty() || term.is_empty() {
        return 0.0;
    }
    if title == term {
        return 1.0;
    }
    if form(title) != form(term) && form(title).is_some() && form(term).is_some() {
        return 0.4 * common(bare(title), bare(term));
    }
    let (title, term) = (bare(title), bare(term));
    if title == term {
        return 0.93;
    }
    let ratio = |part: &[char], whole: &[char]| part.len() as f64 / whole.len() as f64;
    if title.ends_with(term) {
        return 0.55 + 0.35 * ratio(term, title);
    }
    if term.ends_with(title) || term.starts_with(title) && title.len() >= 3 {
        return 0.5 + 0.35 * ratio(title, term);
    }
    0.85 * common(title, term)
}

fn form(text: &[char]) -> Option<&'static str> {
    const ALIKE: [(&str, &str); 9] = [
        ("代码", "code"),
        ("编码", "code"),
        ("号码", "code"),
        ("编号", "code"),
        ("名称", "name"),
        ("姓名", "name"),
        ("类型", "type"),
        ("日期", "date"),
        ("时间", "date"),
    ];
    let end: String = text.get(text.len().saturating_sub(2)..).unwrap_or_default().iter().collect();
    ALIKE.iter().find(|(form, _)| *form == end).map(|(_, kind)| *kind)
}

/// The term without the ending that says its form.
fn bare(text: &[char]) -> &[char] {
    let end: String = text.get(text.len().saturating_sub(2)..).unwrap_or_default().iter().collect();
    let head = text.get(..text.len().saturating_sub(2)).unwrap_or_default();
    if head.len() >= 2 && FORMS.contains(&end.as_str()) { head } else { text }
}

/// Share of characters that two texts have in common, in their order.
fn common(left: &[char], right: &[char]) -> f64 {
    let mut row = vec![0_usize; right.len() + 1];
    for from in left {
        let mut diagonal = 0;
        for (at, to) in right.iter().enumerate() {
            let above = row.get(at + 1).copied().unwrap_or_default();
            let before = row.get(at).copied().unwrap_or_default();
            let best = if from == to { diagonal + 1 } else { above.max(before) };
            if let Some(cell) = row.get_mut(at + 1) {
                *cell = best;
            }
            diagonal = above;
        }
    }
    let longest = row.last().copied().unwrap_or_default();
    let share = 2.0 * longest as f64 / (left.len() + right.len()).max(1) as f64;
    if share >= 0.5 { share } else { 0.0 }
}

/// A short name says little: two letters stand for many terms.
fn telling(letters: usize) -> f64 {
    match letters {
        0 | 1 => 0.0,
        2 => 0.8,
        3 => 0.88,
        4 => 0.94,
        _ => 0.98,
    }
}

/// The name whole, without its first word, which may be a prefix of all columns, and without an ending that says the form alone.
fn variants(words: &[String]) -> Vec<(Vec<String>, f64)> {
    let mut variants = vec![(words.to_vec(), 1.0)];
    if let Some((_, rest)) = words.split_first().filter(|(_, rest)| !rest.is_empty()) {
        variants.push((rest.to_vec(), 0.8));
    }
    for at in 0..variants.len() {
        let Some((words, weight)) = variants.get(at).cloned() else { continue };
        let Some((last, rest)) = words.split_last() else { continue };
        if !rest.is_empty() && LATIN_FORMS.contains(&last.as_str()) {
            variants.push((rest.to_vec(), 0.93 * weight));
        }
        let stem = LATIN_ENDINGS.iter().find_map(|ending| last.strip_suffix(ending)).filter(|stem| stem.len() >= 3);
        if let Some(stem) = stem {
            variants.push((rest.iter().cloned().chain([stem.to_owned()]).collect(), 0.9 * weight));
        }
    }
    variants
}

fn by_pinyin(words: &[String], syllables: &[Vec<&'static str>]) -> f64 {
    if words.is_empty() || syllables.is_empty() {
        return 0.0;
    }
    let score = |(words, weight): (Vec<String>, f64)| {
        let text = words.concat();
        let text = text.trim_end_matches(|letter: char| letter.is_ascii_digit());
        weight * pinyin(text, syllables) * telling(text.len())
    };
    variants(words).into_iter().map(score).fold(0.0, f64::max)
}

/// Share of the syllables that the text spells, whole or by initials, where it spells nothing else; up to a third may be missing.
fn pinyin(text: &str, syllables: &[Vec<&'static str>]) -> f64 {
    /// Best count of syllables from `at` on that spell `text`.
    fn spelled(text: &str, syllables: &[Vec<&'static str>], skips: usize) -> Option<usize> {
        let Some((first, rest)) = syllables.split_first() else { return text.is_empty().then_some(0) };
        if text.len() > syllables.len() * 6 {
            return None;
        }
        let mut best = None;
        for reading in first {
            let initial = if reading.starts_with("zh") || reading.starts_with("ch") || reading.starts_with("sh") { 2 } else { 1 };
            let mut ends = vec![*reading, reading.get(..1).unwrap_or_default()];
            ends.extend(reading.get(..initial).filter(|_| initial == 2));
            for spelling in ends {
                if let Some(left) = text.strip_prefix(spelling) {
                    best = best.max(spelled(left, rest, skips).map(|count| count + 1));
                }
            }
        }
        if skips > 0 {
            best = best.max(spelled(text, rest, skips - 1));
        }
        best
    }
    let most = syllables.len() / 3;
    spelled(text, syllables, most.min(2)).map_or(0.0, |count| (count as f64 / syllables.len() as f64).powf(1.3))
}

fn by_english(words: &[String], term: &[String]) -> f64 {
    if words.is_empty() || term.is_empty() {
        return 0.0;
    }
    let score = |(words, weight): (Vec<String>, f64)| {
        let letters: usize = words.iter().map(String::len).sum();
        weight * abbreviated(&words, term).max(shared(&words, term)) * telling(letters + 1)
    };
    variants(words).into_iter().map(score).fold(0.0, f64::max)
}

/// Share of words that both have, whole or begun alike.
fn shared(words: &[String], term: &[String]) -> f64 {
    let alike = |left: &String, right: &String| {
        left == right
            || left.len() >= 4 && right.starts_with(left.as_str())
            || right.len() >= 4 && left.starts_with(right.as_str())
    };
    let (mut free, mut found): (Vec<&String>, f64) = (term.iter().collect(), 0.0);
    for word in words {
        if let Some(at) = free.iter().position(|other| alike(word, other)) {
            free.remove(at);
            found += 1.0;
        }
    }
    let share = 2.0 * found / (words.len() + term.len()) as f64;
    if share >= 0.6 { 0.94 * share } else { 0.0 }
}

/// How well the name spells the term's words in their order, each whole or shortened; a word does not go over the end of a part.
fn abbreviated(words: &[String], term: &[String]) -> f64 {
    fn spelled(left: &str, parts: &[String], term: &[String], skips: usize) -> f64 {
        if left.is_empty() {
            return match parts.split_first() {
                Some((next, rest)) => spelled(next, rest, term, skips),
                None if term.len() <= skips => 0.0,
                None => f64::NEG_INFINITY,
            };
        }
        let Some((word, rest)) = term.split_first() else { return f64::NEG_INFINITY };
        let mut best = if skips > 0 { spelled(left, parts, rest, skips - 1) } else { f64::NEG_INFINITY };
        // A word that stands there whole is that word.
        let shortest = if left == word { left.len() } else { 1 };
        for length in shortest..=left.len().min(word.len()) {
            let (Some(taken), Some(after)) = (left.get(..length), left.get(length..)) else { continue };
            let gain = short_for(taken, word);
            if gain > 0.0 {
                best = best.max(gain + spelled(after, parts, rest, skips));
            }
        }
        best
    }
    let Some((first, parts)) = words.split_first() else { return 0.0 };
    let skips = term.len() / 3;
    (spelled(first, parts, term, skips) / term.len() as f64).max(0.0)
}

/// How well a part of a name stands for a word.
fn short_for(taken: &str, word: &str) -> f64 {
    if taken == word {
        return 1.0;
    }
    if word.starts_with(taken) {
        return match taken.len() {
            1 => 0.35,
            2 => 0.7,
            _ => 0.93,
        };
    }
    let mut letters = word.chars();
    let in_order = taken.chars().all(|letter| letters.any(|other| other == letter));
    if in_order && taken.len() >= 2 && taken.chars().next() == word.chars().next() { 0.6 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(name: &str, comment: Option<&str>, term: &str) -> f64 {
        let term = if term.is_ascii() { Term::english(term) } else { Term::chinese(term) };
        ColumnWords::of(name, comment).nearness(&term)
    }

    #[test]
    fn one_datum_is_known_by_its_many_spellings() {
        for (name, comment, term) in [
            ("tyshxydm", None, "统一社会信用代码"),
            ("TYSHXYDM", None, "统一社会信用代码"),
            ("tongyishehuixinyongdaima", None, "统一社会信用代码"),
            ("xing_ming", None, "姓名"),
            ("GMSFHM", None, "公民身份号码"),
            ("HKSZD_XZQH", None, "户口所在地行政区划"),
            ("NSRZT_DM", None, "纳税人状态"),
            ("f1", Some("统一社会信用代码"), "统一社会信用代码"),
            ("行政相对人代码_2(组织机构代码)", None, "组织机构代码"),
            ("总投资（亿元）", None, "总投资"),
            ("birthDate", None, "birth date"),
            ("ENTNAME", None, "enterprise name"),
            ("REGCAP", None, "registered capital"),
            ("legal_representative_name", None, "legal representative"),
            ("creditCode", None, "credit code"),
        ] {
            let found = near(name, comment, term);
            assert!(found >= 0.7, "{name} {comment:?} {term}: {found:.2}");
        }
    }

    #[test]
    fn what_is_another_datum_is_far() {
        for (name, comment, term) in [
            ("XM", None, "性别"),
            ("处罚机关代码", None, "处罚机关名称"),
            ("gxsj", None, "出生日期"),
            ("f1", Some("登记机关：市局"), "法定代表人"),
            ("ENTNAME", None, "legal representative name"),
            ("birthDate", None, "death date"),
        ] {
            let found = near(name, comment, term);
            assert!(found < 0.6, "{name} {comment:?} {term}: {found:.2}");
        }
    }
}
