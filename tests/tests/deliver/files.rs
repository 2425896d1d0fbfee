//! What is particular to files.

use std::path::PathBuf;
use std::time::Duration;

use guitong_deliver::Phase;
use guitong_deliver::files::form::{Form, Noted};
use guitong_govern::Entitlement;
use guitong_schemas::contract::SinkConfig;
use guitong_schemas::contract::files::{Close, FileFormat, Place};
use guitong_schemas::standard::StandardValue;
use guitong_tests::{child, containers};

use crate::dropped::{Dropped, GB18030, JSON};
use crate::fixture::{Bench, Target, names, plan};

fn files(target: &Target) -> &Dropped {
    let Target::Files(files) = target else { panic!("files") };
    files
}

async fn target(bench: &Bench, format: FileFormat, close: Close) -> Target {
    let mut target = Target::files(bench, format).await;
    let Target::Files(files) = &mut target else { panic!("files") };
    files.close = close;
    target
}

const AT_ONCE: Close = Close { size: 1 << 20, after: Duration::ZERO, daily: false };

/// Between the file and its manifest the deliverer dies: the file is made again as it was, and what came since is in the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_manifest_is_made_again_as_it_was() {
    for (format, extension) in [(JSON, "jsonl"), (FileFormat::Avro, "avro"), (FileFormat::Parquet, "parquet")] {
        made_again(format, extension).await;
    }
}

async fn made_again(format: FileFormat, extension: &str) {
    let mut bench = Bench::new().await;
    let target = target(&bench, format, AT_ONCE).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    bench.deliver(&subscription).await;
    let files = files(&target);
    let last = files.manifests("t").pop().unwrap();
    let stem = format!("credit_{}_{:06}", last["generation"].as_str().unwrap(), last["number"].as_u64().unwrap() + 1);
    // Something that stands where the manifest is to appear keeps it from there.
    let manifest = files.folder("t").join(format!("{stem}.manifest.json"));
    std::fs::create_dir(&manifest).unwrap();
    bench.append(vec![bench.named("A", "2", 2), bench.named("B", "乙", 3)]).await;
    let mut running = bench.start(&subscription);
    running.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    running.kill().await;
    let data = files.folder("t").join(format!("{stem}.{extension}"));
    let before = std::fs::read(&data).unwrap();

    std::fs::remove_dir(&manifest).unwrap();
    std::fs::write(&data, "torn").unwrap();
    bench.append(vec![bench.named("C", "丙", 4)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(std::fs::read(&data).unwrap(), before);
    assert_eq!(target.names("t").await, names(&[("A", "2"), ("B", "乙"), ("C", "丙")]));
    let listed = files.listed("t");
    assert!(listed.iter().all(|name| name.starts_with("credit_")), "nothing is left over: {listed:?}");
}

/// A file is closed when it has its size, a few changes when the oldest has waited for its time, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_closed_by_size_and_by_time() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, Close { size: 64 << 10, after: Duration::from_secs(3), daily: false }).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let name = "公司".repeat(100);
    bench.append((1..=1_000).map(|n| bench.named(&format!("K{n}"), &name, n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let files = files(&target);
    let manifests = files.manifests("t");
    assert!(manifests.len() >= 9, "{} files of 64 KiB", manifests.len());
    assert!(manifests.iter().all(|manifest| manifest["complete"] == false), "the rest waits");
    for manifest in &manifests {
        assert!((60_000..90_000).contains(&manifest["files"][0]["bytes"].as_u64().unwrap()), "{manifest}");
    }
    let delivered = files.held("t").len();
    assert!(delivered < 1_000, "{delivered}");
    let outbox = files.outbox().await;
    let waiting = async || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM guitong_changes").fetch_one(&outbox).await.unwrap();
    assert_eq!(waiting().await, 1_000 - i64::try_from(delivered).unwrap());
    // By its time the rest is closed, without any record that comes.
    let closed = async {
        while waiting().await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.unwrap();
    assert_eq!(files.held("t").len(), 1_000);
    assert_eq!(files.manifests("t").pop().unwrap()["complete"], true);
    running.stop().await.unwrap();
}

/// However large a file becomes, it is handed on in parts, and the same changes under the same name are the same bytes.
#[tokio::test]
async fn large_files_are_written_in_parts_of_bounded_size() {
    const ROWS: u64 = 30_000;
    let bench = Bench::new().await;
    let subscription = bench.subscription("credit", Target::files(&bench, JSON).await.config("t"), &["uscc", "name"]);
    let entitlement = Entitlement::compile(&subscription, &bench.resource, &bench.entity, &bench.time_zone).unwrap();
    let plan = plan(&bench, &subscription, &entitlement);
    let name = |position: u64| format!("{position:>500}").replace(' ', "司");
    let write = |format| {
        let (mut all, mut part, mut largest) = (Vec::new(), Vec::new(), 0);
        let mut file = Form::new(format, &plan).begin("name", &mut all).unwrap();
        for position in 1..=ROWS {
            let cells = vec![StandardValue::Text(position.to_string().into()), StandardValue::Text(name(position).into())];
            file.write(&Noted { position, deleted: false, key: None, cells }, &mut part).unwrap();
            largest = largest.max(part.len());
            all.append(&mut part);
        }
        file.end(&mut part).unwrap();
        (all.len() > 2 * part.len()).then_some(()).expect("the end is a part of many");
        all.append(&mut part);
        (all, largest)
    };
    for (format, most) in [(FileFormat::Avro, 1 << 20), (FileFormat::Parquet, 10 << 20)] {
        let (bytes, largest) = write(format);
        assert!((1..most).contains(&largest), "{format:?}: {largest}");
        assert!(write(format).0 == bytes, "{format:?}: the same bytes");
        let rows = if format == FileFormat::Avro { containers::avro(&bytes) } else { containers::parquet(bytes) };
        assert_eq!(rows.len() as u64, ROWS);
        for (row, position) in rows.iter().zip(1..) {
            assert_eq!(row["guitong_position"], Some(position.to_string()));
            assert_eq!(row["name"], Some(name(position)));
        }
    }
}

/// What a clerk opens: Chinese titles, GB18030. A record with a character that it has no bytes for is set aside, and the rest goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_encoding_cannot_carry_is_set_aside() {
    let mut bench = Bench::new().await;
    let target = target(&bench, GB18030, AT_ONCE).await;
    let mut config = target.config("t");
    let SinkConfig::Files(sink) = &mut config else { panic!("files") };
    let FileFormat::Csv(csv) = &mut sink.format else { panic!("CSV") };
    csv.header = guitong_schemas::contract::files::Header::Titles;
    let Place::Folder(folder) = sink.place.clone() else { panic!("a folder") };
    let subscription = bench.subscription("credit", config, &["uscc", "name"]);
    let records = vec![
        bench.named("A", "=1+1", 1),
        bench.named("B", "\u{E5E5}", 2),
        bench.named("C", "㐂𠮷,\"引\"\r\n€", 3),
        bench.named("D", "a\0b", 4),
    ];
    bench.append(records).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let parked = running.handle.parked(None, 10).await.unwrap();
    let mut reasons: Vec<_> = parked.iter().map(|parked| parked.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["column name holds U+0000, which CSV cannot", "column name holds U+E5E5, for which GB18030 has no bytes"]
    );
    running.stop().await.unwrap();
    let mut lines = Vec::new();
    for manifest in files(&target).manifests("t") {
        assert_eq!((&manifest["format"], &manifest["encoding"]), (&"csv".into(), &"gb18030".into()));
        assert_eq!(manifest["columns"][0]["title"], "统一社会信用代码");
        for file in manifest["files"].as_array().unwrap() {
            let bytes = std::fs::read(folder.join(file["name"].as_str().unwrap())).unwrap();
            let text = encoding_rs::GB18030.decode_without_bom_handling(&bytes).0.into_owned();
            let rows = text.strip_prefix("操作,序号,统一社会信用代码,机构名称\r\n").expect("titles");
            lines.push(rows.to_owned());
        }
    }
    let lines = lines.concat();
    assert!(lines.contains(",A,'=1+1\r\n"), "{lines}");
    assert!(lines.contains(",C,\"㐂𠮷,\"\"引\"\"\r\n€\"\r\n"), "{lines}");
}

/// Files that were not taken away go with the grant under which they were made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_grant_that_ended_are_removed() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let wide = bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]);
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    bench.deliver(&wide).await;
    let files = files(&target);
    let state = std::fs::metadata(bench.dir.path().join("state")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&state) & 0o777, 0o700, "the outbox is nobody else's to read");
    let theirs = files.folder("t").join("theirs.txt");
    std::fs::write(&theirs, "欧阳").unwrap();
    let narrow = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.deliver(&narrow).await;
    for name in files.listed("t").into_iter().filter(|name| name != "theirs.txt") {
        let text = std::fs::read_to_string(files.folder("t").join(&name)).unwrap();
        assert!(!text.contains("欧阳") && !text.contains("contact"), "{name}");
    }
    assert_eq!(std::fs::read_to_string(theirs).unwrap(), "欧阳", "what is not ours stays");
    assert_eq!(files.held("t").len(), 20);
}

/// A folder that is not there is not made: it may be one that is not mounted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_gone_is_waited_for() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let folder = files(&target).folder("t");
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    bench.deliver(&subscription).await;
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    bench.append(vec![bench.named("B", "乙", 2)]).await;
    let mut running = bench.start(&subscription);
    let status = running.reaches(|status| matches!(status.phase, Phase::Retrying { .. })).await;
    let Phase::Retrying { error } = status.phase else { panic!("retrying") };
    assert!(error.contains("make the folder, or mount it"), "{error}");
    assert!(!folder.exists());
    std::fs::rename(&aside, &folder).unwrap();
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    assert_eq!(target.names("t").await, names(&[("A", "甲"), ("B", "乙")]));
}

/// The folder, in the environment of a child of this test binary.
const DIR: &str = "GUITONG_TEST_DIR";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_is_waited_for_and_nothing_torn_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let test = "files::on_a_small_disk";
    let said = tokio::task::block_in_place(|| child::run(test, &child::MOUNTING, &[(DIR, dir.path().as_os_str())]));
    assert!(said.contains("went on"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_small_disk() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, Close { size: 1 << 20, after: Duration::ZERO, daily: false }).await;
    let mut config = target.config("t");
    let SinkConfig::Files(sink) = &mut config else { panic!("files") };
    let Place::Folder(path) = &sink.place else { panic!("a folder") };
    std::fs::remove_dir(path).unwrap();
    std::os::unix::fs::symlink(&dir, path).unwrap();
    child::disk(&dir, "1m", false);
    let subscription = bench.subscription("credit", config, &["uscc", "name"]);
    let name = "公司".repeat(200);
    bench.append((1..=2_000).map(|n| bench.named(&format!("K{n}"), &name, n)).collect()).await;
    let mut running = bench.start(&subscription);
    let status = running.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
    let Phase::Paused { error } = status.phase else { panic!("paused") };
    assert!(error.contains("No space left on device") && error.contains("make room there"), "{error}");
    let files = files(&target);
    assert!(files.held("t").len() < 2_000);
    let told: usize = files.manifests("t").iter().map(|manifest| 1 + manifest["files"].as_array().unwrap().len()).sum();
    let shown = files.listed("t").into_iter().filter(|name| !name.starts_with('.')).count();
    assert_eq!(shown, told, "{:?}", files.listed("t"));
    child::disk(&dir, "16m", true);
    assert!(running.handle.resume().await.unwrap());
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    assert_eq!(files.held("t").len(), 2_000);
    assert!(files.listed("t").iter().all(|name| name.starts_with("credit_")), "{:?}", files.listed("t"));
    println!("went on");
}
