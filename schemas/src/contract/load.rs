//! Loading of a directory: every file is read, every rule is checked, and either all of it holds or every problem is reported.
//!
//! Files are read in the order in which they name each other: standard, exchange, departments, systems, resources, subscriptions. A file
//! with problems still counts as declared, so that what names it is not reported as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use toml::de::DeTable;

use super::mapping::CodeFiles;
use super::problem::{Problem, Problems, Severity, Well};
use super::reading::document::{At, Document, Found, Report};
use super::reading::section::{Environment, Section};
use super::reading::{concealed, scalar, secret};
use super::revision::Fingerprint;
use super::seen::Profiles;
use super::subscription::Sinks;
use super::{Department, Directory, Exchange, KafkaCluster, LogConfig, Name, Resource, Secret, Subscription, System};
use super::{exchange, resource, standard, subscription, system};
use crate::standard::{Clock, FieldOptions, Standard, StandardValue, Zone};

/// A file of the directory is written by hand; more than this is a mistake.
const MAX_FILE: u64 = 1 << 20;

/// The folders, in the order in which their files are read.
const FOLDERS: [&str; 4] = ["departments", "systems", "resources", "subscriptions"];

/// What the directory is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run: every secret must be there. An approval that has ended stops its subscription alone, so it refuses nothing here
    /// and stands in [`Directory::lapsed`].
    Run,
    /// To tell what is wrong: ended approvals are errors. With `unset_secrets`, a secret that is not set in this place passes
    /// as empty, as when a directory is checked before it is merged; such a directory must not be run.
    Check { unset_secrets: bool },
    /// To look at what is declared without reaching a server: a secret that is not set passes as empty, and ended approvals are as in
    /// [`Purpose::Run`].
    Look,
    /// To look at systems and to draft resources for them, as [`Purpose::Run`]; only that a resource or a subscription with problems, such
    /// as a draft that is not finished, is left out, and its problems are warnings.
    Draft,
}

impl Purpose {
    pub(super) fn is_check(self) -> bool {
        matches!(self, Self::Check { .. })
    }

    fn tolerates_unset_secrets(self) -> bool {
        matches!(self, Self::Look | Self::Check { unset_secrets: true })
    }
}

/// What a directory is loaded in.
pub(super) struct Surroundings<'a> {
    pub(super) root: &'a Path,
    pub(super) environment: Environment<'a>,
    pub(super) standard: &'a Standard,
    /// Entities whose files have problems.
    pub(super) broken_entities: &'a BTreeSet<String>,
    pub(super) now: Timestamp,
    pub(super) purpose: Purpose,
}

/// What the files read so far declare. Names are those of files, also of files with problems.
pub(super) struct World<'a> {
    pub(super) surroundings: Surroundings<'a>,
    /// The exchange's name, or what stands for it where it could not be read.
    pub(super) exchange_name: String,
    /// Today in the exchange's time zone.
    pub(super) today: Date,
    pub(super) zone: jiff::tz::TimeZone,
    /// The exchange says so, and does not only take the usual one.
    pub(super) zone_declared: bool,
    /// The cluster of a log on Apache Kafka, where a subscription may move from node to node.
    pub(super) kafka: Option<KafkaCluster>,
    /// Credit code by department.
    pub(super) departments: BTreeMap<String, Option<String>>,
    pub(super) systems: BTreeMap<String, system::Outline>,
    pub(super) resources: BTreeMap<String, resource::Outline>,
    pub(super) code_files: CodeFiles,
    pub(super) profiles: Profiles,
    pub(super) sinks: Sinks,
    pub(super) lapsed: Report,
}

/// One file, read but not understood yet.
struct File {
    /// `None` where the file's name has a problem of its own.
    name: Option<Name>,
    /// The file's name without `.toml`.
    stem: String,
    document: Document,
}

/// Reads and checks a whole directory.
///
/// `environment` answers for `GUITONG_…` overrides of `exchange.toml` (`GUITONG_LISTEN`, `GUITONG_LOG__PATH`) and for `${env:NAME}`;
/// `now` decides which approvals have ended. Paths of the result are absolute.
///
/// # Errors
/// Every problem of the directory.
pub fn load(
    root: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    now: Timestamp,
    purpose: Purpose,
) -> Result<Directory, Problems> {
    // A root that cannot be made absolute is the empty one, which is reported as unreadable.
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf());
    let root = absolute.as_path();
    let report = Report::default();
    let mut fingerprint = Fingerprint::default();
    let exchange_file = read_root(root, &report);
    let folders = FOLDERS.map(|folder| read_folder(root, folder, &report));

    let (standard_files, extended) = standard::read(root, &report);
    standard_files.iter().for_each(|document| fingerprint.add_text(&document.name, &document.text));

    let surroundings =
        Surroundings { root, environment, standard: &extended.standard, broken_entities: &extended.broken, now, purpose };
    let read_exchange = |section: Section<'_>| (section.has("time_zone"), exchange::read_exchange(section, &surroundings));
    let exchange =
        exchange_file.as_ref().and_then(|file| understand(file, &report, &mut fingerprint, Some(environment), read_exchange));
    let (zone_declared, exchange) = exchange.unwrap_or_default();
    let mut world = World::new(surroundings, exchange.as_ref(), zone_declared);
    let [department_files, system_files, resource_files, subscription_files] = &folders;

    let departments = world.read_departments(department_files, &report, &mut fingerprint);
    let systems = world.read_systems(system_files, &report, &mut fingerprint);
    let mut resources = world.read_resources(resource_files, &report, &mut fingerprint);
    let mut subscriptions = world.read_subscriptions(subscription_files, &report, &mut fingerprint);
    let mut code_files = BTreeSet::new();
    world.code_files.each(|name, text| {
        fingerprint.add_text(name, text);
        code_files.insert(name.to_owned());
    });
    for subscription in subscriptions.values().filter(|subscription| subscription.unchanged) {
        if let Some(resource) = resources.get_mut(&subscription.resource) {
            Arc::make_mut(resource).publish_unchanged = true;
        }
    }

    let well = |files: &[File]| files.iter().filter(|file| !report.refuses(&file.document.name)).count();
    let well = Well {
        departments: well(department_files),
        systems: well(system_files),
        resources: well(resource_files),
        subscriptions: well(subscription_files),
    };
    let files = exchange_file.iter().chain(folders.iter().flatten());
    let documents = standard_files.iter().chain(files.map(|file| &file.document));
    let order: Vec<&str> = documents.map(|document| document.name.as_str()).collect();
    let read = departments.len() + systems.len() + resources.len() + subscriptions.len();
    let declared: usize = folders.iter().map(Vec::len).sum();
    if read < declared && !report.refuses_any() {
        // A file that is neither understood nor reported would be left out in silence.
        tree_problem(&report, "exchange.toml", "not-understood", format!("only {read} of {declared} files are understood"), None);
    }
    if purpose == Purpose::Draft {
        resources.retain(|name, _| !report.refuses(&format!("resources/{name}.toml")));
        subscriptions.retain(|name, _| !report.refuses(&format!("subscriptions/{name}.toml")));
    }
    let mut list = in_order(report.into_list(), &order);
    if purpose == Purpose::Draft {
        list.iter_mut().filter(|problem| world.is_of_resources(&problem.file)).for_each(|it| it.severity = Severity::Warning);
    }
    let refused = list.iter().any(|problem| problem.severity == Severity::Error);
    match (exchange, list) {
        (Some(exchange), warnings) if !refused => Ok(Directory {
            root: root.to_path_buf(),
            revision: fingerprint.finish(),
            standard: Arc::new(extended.standard.clone()),
            exchange,
            systems,
            resources,
            departments,
            subscriptions,
            code_files,
            lapsed: in_order(world.lapsed.into_list(), &order),
            warnings,
        }),
        (_, list) => Err(Problems { list, well }),
    }
}

/// Problems by file, in the order in which files are read, and by place; those of the environment and of the tree come first.
pub(super) fn in_order(mut list: Vec<Problem>, order: &[&str]) -> Vec<Problem> {
    list.sort_by_cached_key(|problem| {
        let file = order.iter().position(|name| *name == problem.file).map_or(0, |at| at + 1);
        let place = problem.excerpt.as_ref().map(|excerpt| (excerpt.place.line, excerpt.place.column));
        (file, problem.file.clone(), place)
    });
    list
}

pub(super) fn tree_problem(report: &Report, file: &str, code: &'static str, message: String, help: Option<String>) {
    report.push(Problem { severity: Severity::Error, code, message, file: file.to_owned(), excerpt: None, help });
}

/// `exchange.toml`, and a look at what else lies in the root.
fn read_root(root: &Path, report: &Report) -> Option<File> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) => {
            let help = Some("an exchange directory holds exchange.toml; `guitong init DIR` makes one".to_owned());
            tree_problem(report, &root.display().to_string(), "no-directory", format!("cannot be read: {error}"), help);
            return None;
        }
    };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    for name in &names {
        let folder = name.strip_suffix(".toml").unwrap_or(name);
        let alike = scalar::nearest(folder, FOLDERS.into_iter().chain([standard::FOLDER]))
            .filter(|known| *known != name && strsim::jaro_winkler(folder, known) > 0.9);
        let misplaced = name.ends_with(".toml") && name != "exchange.toml";
        let help = alike.map(|known| format!("did you mean the folder `{known}`?"));
        if misplaced || (alike.is_some() && root.join(name).is_dir()) {
            tree_problem(
                report,
                name,
                "unknown-file",
                format!("`{}` is no part of an exchange directory", scalar::short(name)),
                help,
            );
        }
    }
    if !names.iter().any(|name| name == "exchange.toml") {
        let help = Some("`guitong init DIR` makes a whole directory".to_owned());
        tree_problem(report, "exchange.toml", "no-exchange", "the directory has no exchange.toml".to_owned(), help);
        return None;
    }
    let document = read_document(&root.join("exchange.toml"), "exchange.toml".to_owned(), MAX_FILE, report)?;
    Some(File { name: None, stem: "exchange".to_owned(), document })
}

/// The `.toml` files of a folder, by name; a folder that is not there is empty.
fn read_folder(root: &Path, folder: &str, report: &Report) -> Vec<File> {
    let entries = match fs::read_dir(root.join(folder)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tree_problem(report, folder, "unreadable", format!("the folder cannot be read: {error}"), None);
            return Vec::new();
        }
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let toml = |name: String| name.strip_suffix(".toml").map(str::to_owned);
    let mut stems: Vec<String> = names.filter(|name| !name.starts_with('.')).filter_map(toml).collect();
    stems.sort_unstable();
    let mut files = Vec::new();
    for stem in stems {
        let path = format!("{folder}/{stem}.toml");
        let name = Name::parse(&stem);
        if name.is_none() {
            let message = format!("`{}` is no name: the file's name is the name of what it declares", scalar::short(&stem));
            let help = "a letter, then at most 40 lower-case letters, digits and dashes".to_owned();
            tree_problem(report, &path, "bad-name", message, Some(help));
        }
        if let Some(document) = read_document(&root.join(&path), path, MAX_FILE, report) {
            files.push(File { name, stem, document });
        }
    }
    files
}

pub(super) fn read_document(path: &Path, name: String, most: u64, report: &Report) -> Option<Document> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        tree_problem(report, &name, "unreadable", format!("cannot be read: {error}"), None);
        return None;
    }
    if bytes.len() as u64 > most {
        tree_problem(report, &name, "too-large", format!("is larger than {} MiB", most >> 20), None);
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            // Some editors begin a file with a byte order mark.
            if text.starts_with('\u{FEFF}') {
                text.remove(0);
            }
            Some(Document::new(name, text))
        }
        Err(error) => {
            let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|&&byte| byte == b'\n').count() + 1;
            let help = Some("save the file as UTF-8".to_owned());
            tree_problem(report, &name, "not-utf8", format!("line {line} is not UTF-8"), help);
            None
        }
    }
}

/// Parses a file and hands its root section to `read`; a file whose TOML is broken is reported for that alone.
fn understand<T>(
    file: &File,
    report: &Report,
    fingerprint: &mut Fingerprint,
    overrides: Option<Environment<'_>>,
    read: impl FnOnce(Section<'_>) -> T,
) -> Option<T> {
    let (table, errors) = DeTable::parse_recoverable(&file.document.text);
    // Departments and resources have no key that holds a secret.
    if !["departments/", "resources/"].iter().any(|folder| file.document.name.starts_with(folder)) {
        file.document.hide(concealed::spans(&file.document.text, table.get_ref(), !errors.is_empty()));
    }
    // A slip early in a file makes everything after it look wrong.
    if let Some(error) = errors.first() {
        let at = error.span().map_or(At::File, At::Span);
        let message = format!("the file is no TOML: {}", error.message());
        let foreign = error.span().and_then(|span| file.document.text.get(span)).is_some_and(|text| !text.is_ascii());
        let help = foreign.then(|| "names outside ASCII stand in quotes".to_owned());
        report.push(file.document.problem(&at, "syntax", message, help));
        return None;
    }
    fingerprint.add(&file.document.name, table.get_ref());
    Some(read(Section::root(&file.document, report, table.get_ref(), overrides)))
}

impl<'a> World<'a> {
    fn new(surroundings: Surroundings<'a>, exchange: Option<&Exchange>, zone_declared: bool) -> Self {
        let zone = exchange.map_or(jiff::tz::TimeZone::UTC, |exchange| exchange.time_zone.clone());
        Self {
            today: surroundings.now.to_zoned(zone.clone()).date(),
            zone,
            zone_declared,
            kafka: exchange.and_then(|exchange| match &exchange.log {
                LogConfig::Kafka(config) => Some(config.cluster.clone()),
                LogConfig::Embedded { .. } => None,
            }),
            exchange_name: exchange.map_or_else(|| "exchange".to_owned(), |exchange| exchange.name.to_string()),
            surroundings,
            departments: BTreeMap::new(),
            systems: BTreeMap::new(),
            resources: BTreeMap::new(),
            code_files: CodeFiles::default(),
            profiles: Profiles::default(),
            sinks: Sinks::default(),
            lapsed: Report::default(),
        }
    }

    fn read_departments(&mut self, files: &[File], report: &Report, print: &mut Fingerprint) -> BTreeMap<Name, Arc<Department>> {
        let mut departments = BTreeMap::new();
        for file in files {
            let read = |section: Section<'_>| exchange::read_department(file.name.clone(), section, &self.surroundings);
            let department = understand(file, report, print, None, read).flatten();
            self.departments.insert(file.stem.clone(), department.as_ref().map(|department| department.code.clone()));
            departments.extend(department.map(|department| (department.name.clone(), Arc::new(department))));
        }
        departments
    }

    fn read_systems(&mut self, files: &[File], report: &Report, print: &mut Fingerprint) -> BTreeMap<Name, Arc<System>> {
        let mut systems = BTreeMap::new();
        for file in files {
            let read = |section: Section<'_>| system::read(file.name.clone(), section, self);
            let (outline, system) = understand(file, report, print, None, read).unwrap_or_default();
            self.systems.insert(file.stem.clone(), outline);
            systems.extend(system.map(|system| (system.name.clone(), Arc::new(system))));
        }
        systems
    }

    fn read_resources(&mut self, files: &[File], report: &Report, print: &mut Fingerprint) -> BTreeMap<Name, Arc<Resource>> {
        let mut resources = BTreeMap::new();
        for file in files {
            let read = |section: Section<'_>| resource::read(file.name.clone(), section, self);
            let (outline, resource) = understand(file, report, print, None, read).unwrap_or_default();
            self.resources.insert(file.stem.clone(), outline);
            resources.extend(resource.map(|resource| (resource.name.clone(), Arc::new(resource))));
        }
        resources
    }

    fn read_subscriptions(
        &mut self,
        files: &[File],
        report: &Report,
        print: &mut Fingerprint,
    ) -> BTreeMap<Name, Arc<Subscription>> {
        let mut subscriptions = BTreeMap::new();
        for file in files {
            let read = |section: Section<'_>| subscription::read(file.name.clone(), section, self);
            let subscription = understand(file, report, print, None, read).flatten();
            subscriptions.extend(subscription.map(|it| (it.name.clone(), Arc::new(it))));
        }
        subscriptions
    }

    /// Whether a file is a resource's or a subscription's, or a code list of theirs.
    fn is_of_resources(&self, file: &str) -> bool {
        ["resources/", "subscriptions/"].iter().any(|folder| file.starts_with(folder)) || self.code_files.has(file)
    }

    /// A department by its name or its credit code.
    pub(super) fn department(&self, section: &Section<'_>, key: &str) -> Option<Found<Name>> {
        let found = section.words(key)?;
        let by_code = || self.departments.iter().find(|(_, code)| code.as_deref() == Some(&found.value)).map(|(name, _)| name);
        let known = self.departments.get_key_value(&found.value).map(|(name, _)| name).or_else(by_code);
        if let Some(known) = known {
            return Name::parse(known).map(|value| Found { value, at: found.at });
        }
        // A code may be that of a department whose file has problems.
        if self.departments.values().any(Option::is_none) && found.value.len() == 18 {
            return None;
        }
        let message = format!("no department `{}`", scalar::short(&found.value));
        let codes = self.departments.values().flatten().map(String::as_str);
        let help = scalar::suggestion(&found.value, self.departments.keys().map(String::as_str).chain(codes.clone()))
            .filter(|_| !self.departments.is_empty())
            .unwrap_or_else(|| "declare it as departments/<name>.toml".to_owned());
        section.problem(&found.at, "unknown-department", message, Some(help));
        None
    }
}

impl Surroundings<'_> {
    /// The secret that a text refers to.
    pub(super) fn secret(&self, section: &Section<'_>, key: &str, found: &Found<String>) -> Option<Secret> {
        let (code, why) = match secret::resolve(&found.value, self.root, self.environment) {
            Ok(secret) => return Some(secret),
            Err(secret::SecretError::Unset(_)) if self.purpose.tolerates_unset_secrets() => {
                return Some(Secret::new(String::new()));
            }
            Err(secret::SecretError::Unset(why)) => ("unset-secret", why),
            Err(secret::SecretError::Malformed(why)) => ("bad-value", format!("`{key}` {why}")),
        };
        section.problem(&found.at, code, why, None);
        None
    }

    /// A unified social credit code whose check characters hold.
    pub(super) fn credit_code(&self, text: &str) -> Result<String, String> {
        let wrong = || "is no unified social credit code: 18 characters with the check characters of GB 32100".to_owned();
        let field = self.standard.entity("LegalEntity").and_then(|entity| entity.field("uscc")).ok_or_else(wrong)?;
        // The check of a code does not depend on the time.
        let (mut findings, clock) = (Vec::new(), Clock::at(0, Zone::shanghai()));
        match field.read(text, &FieldOptions::default(), &clock, &mut findings) {
            StandardValue::Text(code) if code == text => Ok(text.to_owned()),
            _ => Err(wrong()),
        }
    }

    /// Passes on the address of a PostgreSQL database if it is one; an empty one is an unset secret that is tolerated.
    pub(super) fn check_url(
        &self,
        section: &Section<'_>,
        key: &str,
        found: &Found<String>,
        url: Secret,
        check: fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let tolerated = url.reveal().is_empty() && self.purpose.tolerates_unset_secrets();
        match check(url.reveal()) {
            Err(why) if !tolerated => {
                section.problem(&found.at, "bad-url", format_args!("`{key}` {why}"), None);
                None
            }
            _ => Some(url),
        }
    }
}
