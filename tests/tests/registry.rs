//! The registry client against a real registry.

#![allow(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use std::time::Duration;

use guitong_log::registry::{Compatibility, RegistryClient, RegistryError, SchemaRegistry};
use guitong_schemas::contract::{RegistryConfig, Secret};
use guitong_tests::servers::free_port;
use guitong_tests::servers::proxy::{Mode, Proxy};
use guitong_tests::servers::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const FIRST: &str =
    r#"{"type":"record","name":"Enterprise","namespace":"cn.guitong","fields":[{"name":"uscc","type":"string"}]}"#;
const WITH_DEFAULT: &str = r#"{"type":"record","name":"Enterprise","namespace":"cn.guitong","fields":[{"name":"uscc","type":"string"},{"name":"name","type":["null","string"],"default":null,"doc":"企业名称"}]}"#;
const OTHER_TYPE: &str =
    r#"{"type":"record","name":"Enterprise","namespace":"cn.guitong","fields":[{"name":"uscc","type":"long"}]}"#;

fn client(url: String) -> RegistryClient {
    RegistryClient::new(&RegistryConfig { url, user: None, password: None }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_registered_checked_and_read_back() {
    let registry = Registry::start().await.unwrap();
    let writer = client(registry.url());

    let id = writer.register("std.enterprise-value", FIRST).await.unwrap();
    assert_eq!(writer.register("std.enterprise-value", FIRST).await.unwrap(), id, "registered again");
    assert_eq!(client(registry.url()).register("std.enterprise-value", FIRST).await.unwrap(), id, "by another client");
    assert_eq!(&*client(registry.url()).schema(id).await.unwrap(), FIRST);

    writer.set_compatibility("std.enterprise-value", Compatibility::FullTransitive).await.unwrap();
    let next = writer.register("std.enterprise-value", WITH_DEFAULT).await.unwrap();
    assert_ne!(next, id);
    assert_eq!(&*writer.schema(next).await.unwrap(), WITH_DEFAULT);
    let refused = writer.register("std.enterprise-value", OTHER_TYPE).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Incompatible { subject, .. } if subject == "std.enterprise-value"), "{refused}");
    assert!(!refused.is_transient());
    writer.set_compatibility("std.enterprise-value", Compatibility::None).await.unwrap();
    writer.register("std.enterprise-value", OTHER_TYPE).await.unwrap();

    let refused = writer.register("std.enterprise-value", r#"{"type":"recordd"}"#).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Invalid { .. }), "{refused}");
    let refused = writer.schema(4_000_000).await.unwrap_err();
    assert!(matches!(refused, RegistryError::NoSchema { id: 4_000_000 }), "{refused}");

    let odd = writer.register("raw.licensing.public.企业 登记%2F-value", FIRST).await.unwrap();
    assert_eq!(&*client(registry.url()).schema(odd).await.unwrap(), FIRST, "a subject that a path must escape");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subject_keeps_its_level_from_the_first_version_on() {
    let registry = Registry::start().await.unwrap();
    let writer = client(registry.url());
    let (subject, level) = ("std.project-value", Compatibility::FullTransitive);
    let id = writer.register_with(subject, FIRST, level).await.unwrap();
    assert_eq!(writer.register_with(subject, FIRST, level).await.unwrap(), id);
    let refused = writer.register_with(subject, OTHER_TYPE, level).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Incompatible { .. }), "{refused}");
    writer.register_with("raw.projects.main.a-value", FIRST, Compatibility::None).await.unwrap();
    writer.register_with("raw.projects.main.a-value", OTHER_TYPE, Compatibility::None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn known_answers_outlive_the_registry_and_its_absence_is_transient() {
    let mut registry = Registry::start().await.unwrap();
    let (listener, port) = Proxy::bind().await.unwrap();
    let proxy = Proxy::start(listener, registry.port()).unwrap();
    let reader = client(format!("http://127.0.0.1:{port}/apis/ccompat/v7/"));
    let id = reader.register("raw.a-value", FIRST).await.unwrap();
    reader.schema(id).await.unwrap();

    proxy.set(Mode::Cut);
    assert_eq!(reader.register("raw.a-value", FIRST).await.unwrap(), id);
    assert_eq!(&*reader.schema(id).await.unwrap(), FIRST);
    let fault = reader.register("raw.a-value", WITH_DEFAULT).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    proxy.set(Mode::Pass);
    reader.register("raw.a-value", WITH_DEFAULT).await.unwrap();

    registry.kill();
    let gone = client(registry.url()).schema(id).await.unwrap_err();
    assert!(gone.is_transient(), "{gone}");
}

#[tokio::test]
async fn the_password_goes_to_the_registry_and_nowhere_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let count = stream.read(&mut request).await.unwrap();
        let body = r#"{"error_code":40101,"message":"who are you"}"#;
        let answer = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..count]).to_lowercase()
    });
    let config = RegistryConfig {
        url: format!("http://127.0.0.1:{port}"),
        user: Some("exchange".to_owned()),
        password: Some(Secret::new("synthetic-password".to_owned())),
    };
    let client = RegistryClient::new(&config).unwrap();
    let refused = client.schema(1).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::Answer { code: 40_101, .. }) && !refused.is_transient(), "{refused}");
    assert!(seen.await.unwrap().contains(&"authorization: basic ZXhjaGFuZ2U6c3ludGhldGljLXBhc3N3b3Jk".to_lowercase()));
    for shown in [format!("{client:?}"), refused.to_string(), format!("{refused:?}")] {
        assert!(!shown.contains("synthetic-password"), "{shown}");
    }
}

#[tokio::test]
async fn addresses_that_cannot_be_registries_are_refused_and_absent_ones_are_transient() {
    for url in ["localhost:8081", "ftp://127.0.0.1/", "not an address"] {
        let config = RegistryConfig { url: url.to_owned(), user: None, password: None };
        let error = RegistryClient::new(&config).unwrap_err();
        assert!(error.to_string().contains(url) && !error.is_transient(), "{error}");
    }
    let absent = client(format!("http://127.0.0.1:{}", free_port().unwrap()));
    let asked = tokio::time::timeout(Duration::from_secs(10), absent.schema(1)).await.unwrap();
    assert!(asked.unwrap_err().is_transient());
}
