//! Registries that are slow, broken, overrun or false.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing
)]
#![allow(clippy::panic, clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use koya_image::{Credentials, Digest, Event, Image, Limits, PullOptions, Quiet, Reference, Store};
use serde_json::{Value, json};
use support::erofs::Disk;
use support::folder::Folder;
use support::http::{Request, Response, Server};
use support::oci::{CONFIG, LAYER, MANIFEST};
use support::tar::{archive, file};
use support::told;

/// An image as a registry has it: its manifest, and blobs by digest.
#[derive(Clone)]
struct Stock {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    /// Digest of the one layer.
    layer: String,
}

impl Stock {
    fn new() -> Self {
        let data: Vec<u8> = (0..1_u32 << 20)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        Self::of(archive(&[file("data", &data)]))
    }

    fn of(layer: Vec<u8>) -> Self {
        let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
        let config = config.to_string().into_bytes();
        let part = |media_type: &str, bytes: &[u8]| -> Value {
            json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
        };
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": part(CONFIG, &config),
            "layers": [part(LAYER, &layer)]});
        let name = digest(&layer);
        Self {
            manifest: manifest.to_string().into_bytes(),
            blobs: HashMap::from([(digest(&config), config), (name.clone(), layer)]),
            layer: name,
        }
    }

    /// What an honest registry answers, ranges included.
    fn answer(&self, request: &Request) -> Response {
        let last = request.path.rsplit('/').next().unwrap();
        if request.path.contains("/manifests/") {
            return Response::new(200, self.manifest.clone()).header("Content-Type", MANIFEST);
        }
        let Some(blob) = self.blobs.get(last) else {
            return Response::new(404, "{}");
        };
        match request.range() {
            Some(from) if from >= blob.len() => Response::new(416, ""),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Response::new(206, &blob[from..]).header("Content-Range", &range)
            }
            None => Response::new(200, blob.clone()),
        }
    }

    fn is_layer(&self, request: &Request) -> bool {
        request.path.ends_with(&self.layer)
    }
}

fn options() -> PullOptions {
    PullOptions {
        credentials: Credentials::Anonymous,
        retry_pause: Duration::from_millis(10),
        idle_timeout: Duration::from_millis(500),
        retries: 3,
        ..PullOptions::default()
    }
}

struct Place {
    server: Server,
    folder: Folder,
    store: Store,
}

impl Place {
    fn new(answer: impl Fn(&Request, usize) -> Response + Send + Sync + 'static) -> Self {
        let folder = Folder::new();
        let store = Store::open(folder.path()).unwrap();
        let server = Server::start(answer);
        Self {
            server,
            folder,
            store,
        }
    }

    fn name(&self) -> Reference {
        format!("{}/app:1", self.server.address).parse().unwrap()
    }

    fn pull(&self) -> Result<Image, String> {
        self.pull_as(&options())
    }

    fn pull_as(&self, options: &PullOptions) -> Result<Image, String> {
        let pulled = self.store.pull(&self.name(), options, &mut Quiet);
        pulled.map_err(|error| told(&error))
    }

    fn assert_whole(&self, image: &Image) {
        let tree = Disk::open(&self.store.disk(image).unwrap()).tree();
        assert_eq!(tree["/data"].size, 4 << 20);
    }

    /// Nothing that anybody would find.
    fn assert_empty(&self) {
        assert!(self.store.list().unwrap().is_empty());
        for folder in ["images", "disks", "tmp"] {
            let path = self.folder.path().join(folder);
            assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "{folder}");
        }
    }
}

#[test]
fn a_layer_that_is_cut_goes_on_where_it_ended() {
    let stock = Stock::new();
    let place = Place::new(
        move |request, before| match stock.is_layer(request) && before < 2 {
            true => stock.answer(request).cut(1 << 20),
            false => stock.answer(request),
        },
    );
    let image = place.pull().unwrap();
    place.assert_whole(&image);
    let ranges: Vec<_> = place
        .server
        .asked("/blobs/")
        .iter()
        .filter_map(Request::range)
        .collect();
    assert_eq!(ranges, [1 << 20, 2 << 20]);
}

#[test]
fn a_registry_without_ranges_is_read_from_the_beginning_again() {
    let stock = Stock::new();
    let place = Place::new(move |request, before| {
        let whole = Request {
            headers: HashMap::new(),
            ..request.clone()
        };
        match stock.is_layer(request) && before < 1 {
            true => stock.answer(&whole).cut(3 << 20),
            false => stock.answer(&whole),
        }
    });
    let image = place.pull().unwrap();
    place.assert_whole(&image);
}

#[test]
fn a_later_pull_goes_on_where_one_was_given_up() {
    let stock = Stock::new();
    let down = AtomicUsize::new(4);
    let place = Place::new(move |request, _| {
        let is_bad = stock.is_layer(request)
            && down
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                .is_ok();
        if is_bad {
            stock
                .answer(request)
                .cut(if request.range().is_none() { 1 << 20 } else { 0 })
        } else {
            stock.answer(request)
        }
    });
    let fault = place.pull().unwrap_err();
    assert!(
        fault.contains("cut sha256:") && fault.contains("off after 1048576 of "),
        "{fault}"
    );
    place.assert_empty();
    let image = place.pull().unwrap();
    place.assert_whole(&image);
    let ranges: Vec<_> = place
        .server
        .asked("/blobs/")
        .iter()
        .filter_map(Request::range)
        .collect();
    assert_eq!(ranges.last(), Some(&(1 << 20)));
}

#[test]
fn a_part_that_was_damaged_is_fetched_anew() {
    let stock = Stock::new();
    let layer = stock.layer.clone();
    let place = Place::new(move |request, _| stock.answer(request));
    let part = format!(
        "cache/blobs/sha256/{}.partial",
        layer.trim_start_matches("sha256:")
    );
    place.folder.file(&part, &[7; 100_000]);
    let image = place.pull().unwrap();
    place.assert_whole(&image);
}

#[test]
fn a_registry_that_falls_silent_is_given_up_in_time() {
    let stock = Stock::new();
    let place = Place::new(move |request, _| match stock.is_layer(request) {
        true => stock
            .answer(request)
            .hang(1000.min(stock.answer(request).body.len())),
        false => stock.answer(request),
    });
    let begun = Instant::now();
    let options = PullOptions {
        retries: 1,
        ..options()
    };
    let fault = place.pull_as(&options).unwrap_err();
    assert!(
        fault.contains("of 4195840 bytes") && fault.contains("timeout"),
        "{fault}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    place.assert_empty();
}

#[test]
fn errors_of_the_server_pass_and_those_that_stay_are_told() {
    let stock = Stock::new();
    let place = Place::new(move |request, before| match before {
        0 => Response::new(500, "oops"),
        1 => Response::new(
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u001b down"}]}"#,
        )
        .header("Retry-After", "0"),
        _ => stock.answer(request),
    });
    let mut retries = Vec::new();
    let mut watch = |event: Event<'_>| {
        if let Event::Retry { reason, .. } = event {
            retries.push(reason.to_owned());
        }
    };
    let image = place.store.pull(&place.name(), &options(), &mut watch).unwrap();
    place.assert_whole(&image);
    assert!(retries[0].contains("answers 500 for 1;"), "{retries:?}");
    assert!(
        retries[1].contains("answers 429 for 1 (\"slow? down\");"),
        "{retries:?}"
    );
    let place = Place::new(|_, _| Response::new(503, "<html>"));
    let fault = place.pull().unwrap_err();
    assert!(fault.ends_with("answers 503 for 1; try again later"), "{fault}");
    assert_eq!(
        place.server.asked("/manifests/").len(),
        4,
        "once, and three times again"
    );
    let place = Place::new(|_, _| Response::new(400, ""));
    assert!(place.pull().unwrap_err().contains("answers 400"));
    assert_eq!(place.server.asked("").len(), 1, "what is wrong stays wrong");
}

#[test]
fn a_registry_that_asks_for_time_gets_it() {
    let stock = Stock::new();
    let place = Place::new(move |request, before| match before {
        0 => Response::new(429, "").header("Retry-After", "1"),
        _ => stock.answer(request),
    });
    let begun = Instant::now();
    place.pull().unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(3),
        "once for each of three documents: {:?}",
        begun.elapsed()
    );
}

#[test]
fn other_bytes_than_were_asked_for_are_refused() {
    let stock = Stock::new();
    let place = Place::new(move |request, _| {
        let mut response = stock.answer(request);
        if stock.is_layer(request) {
            response.body[1000] ^= 1;
        }
        response
    });
    let fault = place.pull().unwrap_err();
    assert!(fault.contains("sent something else for sha256:"), "{fault}");
    place.assert_empty();
    let cached = std::fs::read_dir(place.folder.path().join("cache/blobs/sha256")).unwrap();
    let parts = cached
        .flatten()
        .filter(|entry| entry.path().extension().is_some());
    assert_eq!(parts.count(), 0, "nothing false is kept");

    let stock = Stock::new();
    let place = Place::new(move |request, _| {
        let mut response = stock.answer(request);
        if stock.is_layer(request) {
            response.body.extend([0; 1000]);
        }
        response
    });
    assert!(
        place
            .pull()
            .unwrap_err()
            .contains("sends more than the 4195840 bytes")
    );
    let stock = Stock::new();
    let place = Place::new(move |request, _| {
        let mut response = stock.answer(request);
        if request.path.contains("/blobs/") && !stock.is_layer(request) {
            response.body[5] ^= 1;
        }
        response
    });
    assert!(
        place
            .pull()
            .unwrap_err()
            .contains("sent something else for sha256:")
    );
}

#[test]
fn endless_documents_and_impossible_layers_are_refused() {
    let place = Place::new(|_, _| Response::new(200, vec![b' '; 5 << 20]));
    assert!(
        place
            .pull()
            .unwrap_err()
            .contains("sends more than 4194304 bytes for 1")
    );
    let layer =
        |size: u64| json!({"mediaType": LAYER, "size": size, "digest": Digest::of(b"layer").to_string()});
    let config = json!({"mediaType": CONFIG, "size": 1, "digest": Digest::of(b"c").to_string()});
    let with = |layers: Value| {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        Place::new(move |_, _| Response::new(200, manifest.to_string()))
            .pull()
            .unwrap_err()
    };
    let fault = with(json!([layer(200 << 30)]));
    assert!(
        fault.contains("more than 137438953472, the largest size that is pulled"),
        "{fault}"
    );
    let fault = with(json!([layer(1), layer(2)]));
    assert!(fault.contains("its descriptor says 2"), "{fault}");
    let fault = with(json!(vec![layer(1); 600]));
    assert!(fault.contains("it has 600 layers, more than 512"), "{fault}");
    let folder = Folder::new();
    let limits = Limits {
        unpacked_bytes: u64::MAX,
        ..Limits::default()
    };
    let store = Store::with_limits(folder.path(), limits).unwrap();
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer(1 << 60)]});
    let server = Server::start(move |_, _| Response::new(200, manifest.to_string()));
    let name = format!("{}/app:1", server.address).parse().unwrap();
    let fault = told(&store.pull(&name, &options(), &mut Quiet).unwrap_err());
    assert!(fault.contains("has no space for the layers"), "{fault}");
}

/// A registry that wants a token of a service of its own.
fn guarded(stock: Stock, token: &'static str) -> Place {
    Place::new(move |request, _| {
        let host = request.header("host").unwrap_or_default();
        if request.path.starts_with("/token?") {
            return match request.header("authorization") {
                Some("Basic YWRhOnNlc2Ft") | None => Response::new(200, json!({"token": token}).to_string()),
                Some(_) => Response::new(401, ""),
            };
        }
        if request.header("authorization") == Some("Bearer open-sesame") {
            return stock.answer(request);
        }
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"shop\",scope=\"other\"");
        Response::new(401, "").header("WWW-Authenticate", &challenge)
    })
}

#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let place = guarded(Stock::new(), "open-sesame");
    let image = place.pull().unwrap();
    place.assert_whole(&image);
    let asked = place.server.asked("/token?");
    assert_eq!(asked.len(), 1, "one token serves all requests");
    assert!(
        asked[0].path.contains("scope=repository%3Aapp%3Apull") && asked[0].path.contains("service=shop"),
        "{}",
        asked[0].path
    );
    let with = |password: &str| PullOptions {
        credentials: Credentials::Password {
            user: "ada".into(),
            password: password.into(),
        },
        ..options()
    };
    guarded(Stock::new(), "open-sesame")
        .pull_as(&with("sesam"))
        .unwrap();
    let fault = guarded(Stock::new(), "open-sesame")
        .pull_as(&with("wrong"))
        .unwrap_err();
    assert!(fault.contains("refuses app to user \"ada\""), "{fault}");
}

#[test]
fn false_tokens_are_refused() {
    let fault = guarded(Stock::new(), "false").pull().unwrap_err();
    assert!(
        fault.contains("refuses app to anybody who does not log in"),
        "{fault}"
    );
    let fault = guarded(Stock::new(), "a\r\nX-Injected: b").pull().unwrap_err();
    assert!(fault.contains("its token cannot be a header"), "{fault}");
    let fault = guarded(Stock::new(), "").pull().unwrap_err();
    assert!(fault.contains("its answer has no token"), "{fault}");
}

#[test]
fn passwords_do_not_follow_redirects() {
    let stock = Stock::new();
    let other = Stock::new();
    let storage = Server::start(move |request, _| other.answer(request));
    let elsewhere = storage.address.clone();
    let place = Place::new(move |request, _| {
        if request.header("authorization") != Some("Basic YWRhOnNlc2Ft") {
            return Response::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if stock.is_layer(request) {
            let target = format!("http://{elsewhere}/somewhere/{}", stock.layer);
            return Response::new(307, "").header("Location", &target);
        }
        stock.answer(request)
    });
    let options = PullOptions {
        credentials: Credentials::Password {
            user: "ada".into(),
            password: "sesam".into(),
        },
        ..options()
    };
    let image = place.pull_as(&options).unwrap();
    place.assert_whole(&image);
    let asked = storage.asked("/somewhere/");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn nonsense_instead_of_documents_is_refused() {
    let documents: [&str; 8] = [
        "",
        "[]",
        "{\"schemaVersion\":2}",
        "{\"mediaType\":\"text/html\"}",
        "<html>",
        "{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[],\"layers\":[]}",
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}",
        "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"layers\":{}}",
    ];
    for document in documents {
        let place = Place::new(move |_, _| Response::new(200, document));
        let fault = place.pull().unwrap_err();
        assert!(
            fault.contains("its manifest cannot be used"),
            "{document}: {fault}"
        );
        place.assert_empty();
    }
}

#[test]
fn an_index_that_leads_in_circles_ends() {
    let place = Place::new(|request, _| {
        let depth = request.path.len();
        let inner = json!({"schemaVersion": 2, "mediaType": support::oci::INDEX, "manifests": [
            {"mediaType": support::oci::INDEX, "size": 9, "digest": Digest::of(&[depth as u8]).to_string()}]});
        Response::new(200, inner.to_string())
    });
    let fault = place.pull().unwrap_err();
    assert!(fault.contains("sent something else for"), "{fault}");
}
