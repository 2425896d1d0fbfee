//! Who an endpoint is, and who calls it: certificates of both sides, signatures, and their change.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guitong_deliver::Phase;
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Secret, SinkConfig, Subscription};
use guitong_tests::receiver::{KEY, OTHER_KEY, Receiver, Request, whsec};
use guitong_tests::servers::tls::Authority;

use crate::fixture::{Bench, names};
use crate::webhook::World;

fn openssl(arguments: &[&str], directory: &Path) -> bool {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    output.status.success()
}

/// A key of its own of the exchange, as `whsk_…`; the public half stays in `directory`.
fn own_key(directory: &Path) -> Secret {
    assert!(openssl(&["genpkey", "-algorithm", "ed25519", "-outform", "DER", "-out", "own.der"], directory));
    assert!(openssl(&["pkey", "-in", "own.der", "-inform", "DER", "-pubout", "-out", "public.pem"], directory));
    // PKCS#8 ends with the seed.
    let key = std::fs::read(directory.join("own.der")).unwrap();
    Secret::new(format!("whsk_{}", STANDARD.encode(&key[key.len() - 32..])))
}

/// Whether one of the signatures is made by that key, as OpenSSL sees it.
fn is_own(request: &Request, directory: &Path) -> bool {
    let mut signatures = request.header("webhook-signature").split(' ').filter_map(|one| one.strip_prefix("v1a,"));
    signatures.any(|signature| {
        std::fs::write(directory.join("signature"), STANDARD.decode(signature).unwrap()).unwrap();
        std::fs::write(directory.join("signed"), request.signed()).unwrap();
        let arguments =
            ["pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "signed", "-sigfile", "signature"];
        openssl(&arguments, directory)
    })
}

impl World {
    /// Goes on with other keys.
    async fn sign_with(&mut self, keys: Vec<Secret>) {
        let sink = Webhook { signing_keys: keys, ..self.receiver.config(Mode::Binary) };
        self.subscription.sink = SinkConfig::Webhook(Box::new(sink));
        let next = self.bench.start(&self.subscription);
        std::mem::replace(&mut self.running, next).stop().await.unwrap();
    }
}

/// A receiver that knows the old key, the new key, or only the public one, each is served throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_without_a_request_that_a_receiver_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(Mode::Binary).await;
    let (old, new, own) = (Secret::new(whsec(KEY)), Secret::new(whsec(OTHER_KEY)), own_key(directory.path()));
    world.sign_with(vec![old, new.clone(), own.clone()]).await;
    world.change("K1", 2).await;
    world.caught_up().await;
    world.receiver.trust(OTHER_KEY);
    world.change("K1", 3).await;
    world.caught_up().await;
    world.sign_with(vec![new, own]).await;
    world.change("K1", 4).await;
    world.caught_up().await;
    assert_eq!(world.receiver.holds("name"), names(&[("K1", "4")]));
    let requests = world.receiver.requests();
    assert_eq!(requests.len(), 4, "each is taken at once");
    let signed_by = |key: &[u8]| requests.iter().map(|request| request.is_signed(key)).collect::<Vec<_>>();
    assert_eq!((signed_by(KEY), signed_by(OTHER_KEY)), (vec![true, true, true, false], vec![false, true, true, true]));
    let own: Vec<bool> = requests.iter().map(|request| is_own(request, directory.path())).collect();
    assert_eq!(own, [false, true, true, true]);
    let mut forged = requests[3].clone();
    forged.body.push(b' ');
    assert!(!is_own(&forged, directory.path()) && !forged.is_signed(OTHER_KEY));

    // The receiver no longer knows any: it says so, nothing is lost, nothing is set aside.
    world.receiver.trust(KEY);
    world.change("K1", 5).await;
    let error = world.paused().await;
    assert!(error.contains("compare the keys"), "{error}");
    assert_eq!(world.running.status.borrow().parked, 0);
    world.receiver.trust(OTHER_KEY);
    assert!(world.running.handle.resume().await.unwrap());
    world.caught_up().await;
    assert_eq!(world.receiver.holds("name"), names(&[("K1", "5")]));
    world.running.stop().await.unwrap();
}

async fn refused(bench: &Bench, subscription: &Subscription) -> String {
    let mut running = bench.start(subscription);
    // A connection that its other end gave up before the request was on it does not say why; the next one does.
    let status = running.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
    running.stop().await.unwrap();
    match status.phase {
        Phase::Paused { error } => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_verified_and_verifies_its_caller() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let receiver = Receiver::start_encrypted(&authority.issue("hall", "DNS:localhost").unwrap(), Some(&authority)).await;
    let elsewhere = Receiver::start_encrypted(&authority.issue("other", "DNS:other.example").unwrap(), None).await;
    let directory = tempfile::tempdir().unwrap();
    let identity = |authority: &Authority, name: &str| {
        let (issued, file) = (authority.issue(name, "DNS:exchange.example").unwrap(), directory.path().join(name));
        let pem = [issued.certificate, issued.key].map(|part| std::fs::read_to_string(part).unwrap()).concat();
        std::fs::write(&file, pem).unwrap();
        Some(file)
    };
    let (own, foreign) = (identity(&authority, "own"), identity(&stranger, "foreign"));
    let mut bench = Bench::new().await;
    bench.append(vec![bench.named("K1", "1", 1)]).await;
    let (trusted, untrusted) = (Some(authority.certificate()), Some(stranger.certificate()));
    let subscription = |receiver: &Arc<Receiver>, ca, client_certificate| {
        let sink = Webhook { ca, client_certificate, ..receiver.config(Mode::Binary) };
        bench.subscription("credit", SinkConfig::Webhook(Box::new(sink)), &["uscc", "name"])
    };
    for (receiver, ca, client_certificate, words) in [
        (&receiver, untrusted, own.clone(), "`ca` of a webhook"),
        (&receiver, None, own.clone(), "`ca` of a webhook"),
        (&receiver, trusted.clone(), None, "`client_certificate` of a webhook"),
        (&receiver, trusted.clone(), foreign, "`client_certificate` of a webhook"),
        (&elsewhere, trusted.clone(), None, "write the host as"),
    ] {
        let error = refused(&bench, &subscription(receiver, ca, client_certificate)).await;
        assert!(error.contains(words) && !error.contains("s3cret"), "{words} in {error}");
    }
    assert_eq!(
        receiver.count() + elsewhere.count(),
        0,
        "an unproved endpoint gets nothing, and an unproved caller gives nothing"
    );
    bench.deliver(&subscription(&receiver, trusted, own)).await;
    assert_eq!(receiver.holds("name"), names(&[("K1", "1")]));
}
