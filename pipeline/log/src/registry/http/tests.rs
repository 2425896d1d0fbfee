//! The built-in registry over HTTP, asked as Confluent's clients ask.

use guitong_schemas::contract::RegistryConfig;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::embedded::{EmbeddedConfig, EmbeddedLog};
use crate::registry::RegistryClient;

const ID: &str = r#"{"name":"编号","type":"long"}"#;
const OPTIONAL: &str = r#"{"name":"name","type":["null","string"],"default":null}"#;
const REQUIRED: &str = r#"{"name":"name","type":"string"}"#;

fn schema(fields: &[&str]) -> String {
    format!(r#"{{"type":"record","name":"Enterprise","fields":[{}]}}"#, fields.join(","))
}

struct Served {
    log: EmbeddedLog,
    url: String,
    http: reqwest::Client,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(dir: &TempDir) -> Self {
        let config = EmbeddedConfig { path: dir.path().join("log"), max_bytes: None };
        let log = EmbeddedLog::open(&config).await.unwrap();
        let registry = BuiltinRegistry::open(&log).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router(registry)).await.unwrap() });
        // Also makes the TLS provider that `reqwest` wants.
        RegistryClient::new(&RegistryConfig { url: url.clone(), user: None, password: None }).unwrap();
        Self { log, url, http: reqwest::Client::new(), task }
    }

    async fn stop(self) {
        self.task.abort();
        self.log.close().await;
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !body.is_null() {
            request = request.header("content-type", MEDIA_TYPE).body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], MEDIA_TYPE, "{path}");
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn post(&self, path: &str, schema: &str) -> Value {
        let (status, body) = self.ask(Method::POST, path, json!({ "schema": schema })).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Asks for an error: its HTTP status must be the first digits of its code.
    async fn refused(&self, method: Method, path: &str, body: Value) -> u64 {
        let (status, body) = self.ask(method, path, body).await;
        let code = body["error_code"].as_u64().unwrap();
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert_eq!(u64::from(status), if code < 1000 { code } else { code / 100 }, "{path}");
        code
    }
}

#[tokio::test]
async fn schemas_have_one_id_whatever_their_subjects_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(&dir).await;
    let (base, wide) = (schema(&[ID]), schema(&[ID, OPTIONAL]));
    let first = served.post("/subjects/raw.a.public.t-value/versions", &base).await["id"].clone();
    assert_eq!(served.post("/subjects/raw.a.public.t-value/versions", &base.replace(',', " ,\n")).await["id"], first);
    assert_eq!(served.post("/subjects/other/versions", &base).await["id"], first);
    let second = served.post("/subjects/raw.a.public.t-value/versions", &wide).await["id"].clone();
    assert_ne!(first, second);
    served.stop().await;

    let served = Served::start(&dir).await;
    assert_eq!(served.get("/").await, json!({}));
    assert_eq!(served.get("/subjects").await, json!(["other", "raw.a.public.t-value"]));
    assert_eq!(served.get("/subjects?subjectPrefix=raw.").await, json!(["raw.a.public.t-value"]));
    assert_eq!(served.get("/subjects/raw.a.public.t-value/versions").await, json!([1, 2]));
    assert_eq!(served.get(&format!("/schemas/ids/{first}")).await, json!({ "schema": base }));
    assert_eq!(served.get(&format!("/schemas/ids/{first}/schema")).await, serde_json::from_str::<Value>(&base).unwrap());
    assert_eq!(served.get(&format!("/schemas/ids/{first}/subjects")).await, json!(["other", "raw.a.public.t-value"]));
    let latest = json!({ "subject": "raw.a.public.t-value", "version": 2, "id": second, "schema": wide });
    for path in ["versions/latest", "versions/-1", "versions/2"] {
        assert_eq!(served.get(&format!("/subjects/raw.a.public.t-value/{path}")).await, latest);
    }
    assert_eq!(served.get("/subjects/other/versions/1/schema").await["name"], "Enterprise");
    assert_eq!(served.post("/subjects/raw.a.public.t-value", &base).await["version"], 1);
    assert_eq!(served.get("/schemas/types").await, json!(["AVRO"]));
    assert_eq!(served.get("/mode").await, json!({ "mode": "READWRITE" }));
    served.stop().await;
}

#[tokio::test]
async fn levels_hold_for_a_subject_or_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(&dir).await;
    let (base, wide, strict) = (schema(&[ID]), schema(&[ID, OPTIONAL]), schema(&[ID, REQUIRED]));
    assert_eq!(served.get("/config").await, json!({ "compatibilityLevel": "BACKWARD" }));
    served.post("/subjects/s/versions", &base).await;
    assert_eq!(served.refused(Method::POST, "/subjects/s/versions", json!({ "schema": strict })).await, 409);
    assert_eq!(served.post("/compatibility/subjects/s/versions/latest", &wide).await, json!({ "is_compatible": true }));
    assert_eq!(served.post("/compatibility/subjects/s/versions", &strict).await, json!({ "is_compatible": false }));
    let verbose = served.post("/compatibility/subjects/s/versions/1?verbose=true", &strict).await;
    assert!(verbose["messages"][0].as_str().unwrap().contains("version 1"), "{verbose}");

    assert_eq!(served.refused(Method::GET, "/config/s", Value::Null).await, 40_408);
    assert_eq!(served.get("/config/s?defaultToGlobal=true").await, json!({ "compatibilityLevel": "BACKWARD" }));
    let set = |level: &str| json!({ "compatibility": level });
    assert_eq!(served.ask(Method::PUT, "/config/s", set("none")).await, (200, set("NONE")));
    served.post("/subjects/s/versions", &strict).await;
    assert_eq!(served.ask(Method::PUT, "/config", set("FULL")).await, (200, set("FULL")));
    assert_eq!(served.get("/config/s").await, json!({ "compatibilityLevel": "NONE" }));
    assert_eq!(served.ask(Method::DELETE, "/config/s", Value::Null).await.0, 200);
    assert_eq!(served.get("/config/s?defaultToGlobal=true").await, json!({ "compatibilityLevel": "FULL" }));
    assert_eq!(served.refused(Method::PUT, "/config", set("SOMETIMES")).await, 42_203);
    served.stop().await;
}

#[tokio::test]
async fn deletes_are_soft_first_and_then_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(&dir).await;
    let (base, wide) = (schema(&[ID]), schema(&[ID, OPTIONAL]));
    let id = served.post("/subjects/s/versions", &base).await["id"].clone();
    let other = served.post("/subjects/s/versions", &wide).await["id"].clone();

    assert_eq!(served.refused(Method::DELETE, "/subjects/s/versions/1?permanent=true", Value::Null).await, 40_407);
    assert_eq!(served.ask(Method::DELETE, "/subjects/s/versions/1", Value::Null).await, (200, json!(1)));
    assert_eq!(served.refused(Method::DELETE, "/subjects/s/versions/1", Value::Null).await, 40_406);
    assert_eq!(served.refused(Method::GET, "/subjects/s/versions/1", Value::Null).await, 40_402);
    assert_eq!(served.get("/subjects/s/versions/1?deleted=true").await["id"], id);
    assert_eq!(served.get("/subjects/s/versions").await, json!([2]));
    assert_eq!(served.get(&format!("/schemas/ids/{id}")).await["schema"], base);
    assert_eq!(served.post("/subjects/s/versions", &base).await["id"], id);
    assert_eq!(served.get("/subjects/s/versions").await, json!([2, 3]));

    assert_eq!(served.refused(Method::DELETE, "/subjects/s?permanent=true", Value::Null).await, 40_405);
    assert_eq!(served.ask(Method::DELETE, "/subjects/s", Value::Null).await, (200, json!([2, 3])));
    assert_eq!(served.refused(Method::DELETE, "/subjects/s", Value::Null).await, 40_404);
    assert_eq!(served.refused(Method::GET, "/subjects/s/versions", Value::Null).await, 40_401);
    assert_eq!(served.get("/subjects").await, json!([]));
    assert_eq!(served.get("/subjects?deleted=true").await, json!(["s"]));
    assert_eq!(served.ask(Method::DELETE, "/subjects/s?permanent=true", Value::Null).await, (200, json!([1, 2, 3])));
    assert_eq!(served.get("/subjects?deleted=true").await, json!([]));
    assert_eq!(served.refused(Method::GET, &format!("/schemas/ids/{other}"), Value::Null).await, 40_403);
    let fresh = served.post("/subjects/t/versions", &schema(&[ID, REQUIRED])).await["id"].clone();
    assert!(fresh != id && fresh != other, "an id is never given to another schema");
    assert_eq!(served.post("/subjects/t2/versions", &wide).await["id"], other);
    served.stop().await;
}

#[tokio::test]
async fn mistakes_have_confluents_codes() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(&dir).await;
    let base = schema(&[ID]);
    served.post("/subjects/s/versions", &base).await;
    let body = |schema: &str| json!({ "schema": schema });
    for (method, path, body, code) in [
        (Method::GET, "/subjects/none/versions", Value::Null, 40_401),
        (Method::GET, "/subjects/none/versions/1", Value::Null, 40_401),
        (Method::GET, "/subjects/s/versions/7", Value::Null, 40_402),
        (Method::GET, "/subjects/s/versions/first", Value::Null, 42_202),
        (Method::GET, "/subjects/s/versions/0", Value::Null, 42_202),
        (Method::GET, "/schemas/ids/77", Value::Null, 40_403),
        (Method::DELETE, "/subjects/none", Value::Null, 40_401),
        (Method::POST, "/subjects/none", body(&base), 40_401),
        (Method::POST, "/subjects/s", body(r#""string""#), 40_403),
        (Method::POST, "/subjects/s/versions", body(r#"{"type":"recrod"}"#), 42_201),
        (Method::POST, "/subjects/s/versions", json!({ "scheme": 1 }), 42_201),
        (Method::POST, "/subjects/s/versions", json!({ "schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF" }), 42_201),
        (Method::POST, "/subjects/s/versions", json!({ "schema": base, "references": [{ "name": "x" }] }), 42_201),
        (Method::POST, "/compatibility/subjects/none/versions/latest", body(&base), 40_401),
    ] {
        assert_eq!(served.refused(method.clone(), path, body).await, code, "{method} {path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn our_own_client_uses_it_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::start(&dir).await;
    let client = RegistryClient::new(&RegistryConfig { url: served.url.clone(), user: None, password: None }).unwrap();
    let subject = "raw.licensing.public.企业 登记%2F-value";
    let (base, strict) = (schema(&[ID]), schema(&[ID, REQUIRED]));
    let id = client.register(subject, &base).await.unwrap();
    assert_eq!(&*client.schema(id).await.unwrap(), base);
    assert_eq!(served.get("/subjects").await, json!([subject]));
    client.set_compatibility(subject, Compatibility::FullTransitive).await.unwrap();
    let refused = client.register(subject, &strict).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Incompatible { .. }), "{refused:?}");
    assert!(matches!(client.schema(4_000_000).await, Err(RegistryError::NoSchema { id: 4_000_000 })));

    let direct = BuiltinRegistry::open(&served.log).await.unwrap();
    let (a, b) = tokio::join!(direct.register("twice", &base), direct.register("twice", &base));
    assert_eq!((a.unwrap(), b.unwrap()), (id, id));
    assert_eq!(served.get("/subjects/twice/versions").await, json!([1]));
    served.stop().await;
}
