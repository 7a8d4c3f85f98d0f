//! Downloads from a server that behaves as the Hugging Face hub does, and from one that does not.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use burn::tensor::Device;
use netkin_architectures::find;
use netkin_weights::hub::{cached, fetch};
use netkin_weights::{Error, HubConfig, Precision, Source, load, save};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MODEL: &str = "timm/resnet18.a1_in1k";
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";

/// A server on the loopback interface, with a cache folder of its own.
struct Hub {
    config: HubConfig,
    state: Arc<Mutex<State>>,
    _folder: TempDir,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    /// What goes wrong with the next answers that carry a body of a large file.
    faults: VecDeque<Fault>,
    /// Answered to every question.
    refusal: Option<(u16, &'static str)>,
    requests: Vec<Request>,
}

#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

#[derive(Clone, Copy)]
enum Fault {
    /// Closes the connection after so many bytes of the promised ones.
    Cut(usize),
    /// The same without a promise.
    CutWithoutLength(usize),
    /// Sends one other byte.
    WrongByte,
    /// Sends the whole file when a part is asked for.
    Whole,
    /// Sends more than announced.
    TooLong,
    /// Answers with this status.
    Status(u16),
}

impl Hub {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, address) = (state.clone(), endpoint.clone());
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (state, address) = (shared.clone(), address.clone());
                thread::spawn(move || answer(connection.unwrap(), &state, &address));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let config = HubConfig { cache: folder.path().join("hub"), endpoint, offline: false, token: None };
        Self { config, state, _folder: folder }
    }

    /// With a large file of `size` bytes and a small one.
    fn with_model(size: usize) -> (Self, Vec<u8>) {
        let hub = Self::new();
        let bytes: Vec<u8> = (0..size).map(|index| (index * 7 % 251) as u8).collect();
        hub.put(MODEL, WEIGHTS, bytes.clone());
        hub.put(MODEL, CONFIG, b"{\"architecture\": \"resnet18\"}".to_vec());
        (hub, bytes)
    }

    fn put(&self, repository: &str, file: &str, bytes: Vec<u8>) {
        let files = &mut self.state.lock().unwrap().files;
        files.insert(format!("/{repository}/resolve/main/{file}"), bytes);
    }

    fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    fn refuse(&self, status: u16, code: &'static str) {
        self.state.lock().unwrap().refusal = Some((status, code));
    }

    fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    fn fetch(&self, file: &str) -> Result<PathBuf, Error> {
        fetch(&self.config, MODEL, file, &mut |_| {})
    }

    /// The sentence of the error that fetching the weights ends with, without the server's address.
    fn sentence(&self) -> String {
        let error = self.fetch(WEIGHTS).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        assert_eq!(cached(&self.config, MODEL, WEIGHTS), None);
        error.replace(&self.config.endpoint, "HUB")
    }

    /// The folder of the model in the cache.
    fn folder(&self) -> PathBuf {
        self.config.cache.join("models--timm--resnet18.a1_in1k")
    }

    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder().join("blobs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn answer(mut connection: TcpStream, state: &Mutex<State>, address: &str) {
    let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let mut words = first.split(' ');
    let method = words.next().unwrap().to_string();
    let path = words.next().unwrap().to_string();
    let headers: HashMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_string())
        })
        .collect();
    let start: Option<usize> =
        headers.get("range").map(|range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());

    let mut state = state.lock().unwrap();
    state.requests.push(Request { method: method.clone(), path: path.clone(), headers });
    // Where the hub keeps the content: small files itself, large ones elsewhere.
    let asked = path.replacen("/small/", "/", 1).replacen("/large/", "/", 1);
    let (head, body) = match (state.refusal, state.files.get(&asked)) {
        (Some((status, code)), _) => {
            (format!("HTTP/1.1 {status} No\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\n"), vec![])
        }
        (None, None) => {
            let known = asked.split("/resolve/").next().unwrap();
            let model = state.files.keys().any(|file| file.starts_with(known));
            let code = if model { "EntryNotFound" } else { "RepoNotFound" };
            let head = format!("HTTP/1.1 404 Not Found\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\n");
            (head, vec![])
        }
        (None, Some(bytes)) => {
            let bytes = bytes.clone();
            let large = asked.ends_with("safetensors");
            if path.starts_with("/large/") {
                let fault = state.faults.pop_front();
                large_file(bytes, start, fault)
            } else if path.starts_with("/small/") {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nETag: W/\"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\n",
                    &hash(&bytes)[..40],
                    bytes.len()
                );
                (head, bytes)
            } else if large {
                let elsewhere = address.replace("127.0.0.1", "localhost");
                let head = format!(
                    "HTTP/1.1 302 Found\r\nLocation: {elsewhere}/large{path}\r\nX-Repo-Commit: {COMMIT}\r\n\
                     X-Linked-ETag: \"{}\"\r\nX-Linked-Size: {}\r\nETag: \"of-the-pointer\"\r\nContent-Length: 0\r\n",
                    hash(&bytes),
                    bytes.len()
                );
                (head, vec![])
            } else {
                let head = format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nLocation: /small{path}\r\nX-Repo-Commit: {COMMIT}\r\n\
                     Content-Length: 0\r\n"
                );
                (head, vec![])
            }
        }
    };
    drop(state);
    // The client may have gone; that is its affair.
    let _ = connection.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
    if method == "GET" {
        let _ = connection.write_all(&body);
    }
}

fn large_file(bytes: Vec<u8>, start: Option<usize>, fault: Option<Fault>) -> (String, Vec<u8>) {
    let start = match fault {
        Some(Fault::Whole) => None,
        _ => start,
    };
    let (length, from) = (bytes.len(), start.unwrap_or(0));
    if from >= length {
        return (format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{length}\r\n"), vec![]);
    }
    let first_line = match start {
        None => "HTTP/1.1 200 OK\r\n".to_string(),
        Some(start) => {
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{length}\r\n", length - 1)
        }
    };
    let mut body = bytes[from..].to_vec();
    let mut promised = format!("Content-Length: {}\r\n", body.len());
    match fault {
        Some(Fault::Cut(count)) => body.truncate(count),
        Some(Fault::CutWithoutLength(count)) => {
            body.truncate(count);
            promised.clear();
        }
        Some(Fault::WrongByte) => body[0] ^= 1,
        Some(Fault::TooLong) => {
            body.extend(b"more");
            promised = format!("Content-Length: {}\r\n", body.len());
        }
        Some(Fault::Status(status)) => {
            return (format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n"), vec![]);
        }
        Some(Fault::Whole) | None => {}
    }
    (first_line + &promised, body)
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_download_fills_the_cache_as_python_does() {
    let (hub, bytes) = Hub::with_model(300_000);
    let mut seen = Vec::new();
    let path = fetch(&hub.config, MODEL, WEIGHTS, &mut |progress| {
        assert_eq!(progress.file, "timm/resnet18.a1_in1k/model.safetensors");
        assert_eq!(progress.total, Some(300_000));
        seen.push(progress.done);
    })
    .unwrap();
    assert_eq!((seen[0], seen[seen.len() - 1]), (0, 300_000));
    assert!(seen.is_sorted());

    assert_eq!(path, hub.folder().join("snapshots").join(COMMIT).join(WEIGHTS));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_to_string(hub.folder().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(hub.blobs(), [hash(&bytes)]);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), PathBuf::from("../../blobs").join(hash(&bytes)));
    let config = hub.fetch(CONFIG).unwrap();
    assert!(fs::read_to_string(config).unwrap().contains("resnet18"));

    let before = hub.requests().len();
    assert_eq!(hub.fetch(WEIGHTS).unwrap(), path);
    assert_eq!(hub.requests().len(), before);
}

#[test]
fn what_python_has_fetched_is_found_offline() {
    let mut hub = Hub::new();
    hub.config.offline = true;
    let folder = hub.folder();
    for part in ["blobs", "refs", "snapshots/abc"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    fs::write(folder.join("refs/main"), "abc").unwrap();
    // Without links, as on Windows, the snapshot holds the file itself.
    let path = folder.join("snapshots/abc").join(WEIGHTS);
    fs::write(&path, "weights").unwrap();
    assert_eq!(hub.fetch(WEIGHTS).unwrap(), path);

    let error = hub.fetch(CONFIG).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "timm/resnet18.a1_in1k/config.json is not in the cache folder {} and HF_HUB_OFFLINE forbids asking the hub: \
             unset it, or give a file as NAME=PATH",
            hub.config.cache.display()
        )
    );
    assert!(hub.requests().is_empty());
}

#[test]
fn a_cut_download_goes_on_where_it_broke_off() {
    for fault in [Fault::Cut(100_000), Fault::CutWithoutLength(100_000)] {
        let (hub, bytes) = Hub::with_model(300_000);
        hub.fail([fault]);
        let sentence = hub.sentence();
        let begin = "the download of HUB/timm/resnet18.a1_in1k/resolve/main/model.safetensors broke off after 100000 of \
                     300000 bytes (";
        assert!(sentence.starts_with(begin), "{sentence}");
        assert!(sentence.ends_with("): the same command again goes on from there"));

        let path = hub.fetch(WEIGHTS).unwrap();
        assert_eq!(fs::read(path).unwrap(), bytes);
        let last = hub.requests().pop().unwrap();
        assert_eq!(last.headers["range"], "bytes=100000-");
        assert_eq!(hub.blobs(), [hash(&bytes)]);
    }
}

#[test]
fn a_server_that_sends_the_whole_file_again_is_understood() {
    let (hub, bytes) = Hub::with_model(300_000);
    hub.fail([Fault::Cut(100_000), Fault::Whole]);
    hub.sentence();
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);
}

#[test]
fn a_long_download_goes_on_by_itself() {
    let (hub, bytes) = Hub::with_model(3_000_000);
    hub.fail([Fault::Cut(1_200_000), Fault::Cut(1_200_000)]);
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);
}

#[test]
fn wrong_bytes_are_not_kept() {
    let (hub, bytes) = Hub::with_model(300_000);
    hub.fail([Fault::WrongByte]);
    let sentence = hub.sentence();
    assert!(sentence.contains(&format!("not {} as announced, and was deleted: try again", hash(&bytes))));
    assert!(hub.blobs().is_empty());
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);

    // Half of another file, left there by whomever.
    let (hub, bytes) = Hub::with_model(300_000);
    hub.fail([Fault::Cut(1000)]);
    hub.sentence();
    let half = hub.folder().join("blobs").join(&hub.blobs()[0]);
    fs::write(&half, vec![9; 1000]).unwrap();
    assert!(hub.sentence().contains("as announced"));
    fs::write(&half, vec![9; 300_001]).unwrap();
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);
}

#[test]
fn more_bytes_than_announced_are_not_kept() {
    let (hub, bytes) = Hub::with_model(300_000);
    hub.fail([Fault::TooLong]);
    assert!(hub.sentence().contains("sends more bytes than it announces"));
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);
}

#[test]
fn a_download_that_was_killed_at_its_end_is_finished() {
    let (hub, bytes) = Hub::with_model(300_000);
    let blob = hub.folder().join("blobs").join(hash(&bytes));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(blob.with_extension("incomplete"), &bytes).unwrap();
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);
    assert!(!hub.requests().iter().any(|request| request.method == "GET"));
    assert_eq!(hub.blobs(), [hash(&bytes)]);
}

#[test]
fn a_link_to_a_deleted_blob_is_renewed() {
    let (hub, bytes) = Hub::with_model(3000);
    let path = hub.fetch(WEIGHTS).unwrap();
    fs::remove_dir_all(hub.folder().join("blobs")).unwrap();
    assert_eq!(cached(&hub.config, MODEL, WEIGHTS), None);
    assert_eq!(hub.fetch(WEIGHTS).unwrap(), path);
    assert_eq!(fs::read(path).unwrap(), bytes);
}

#[test]
fn of_two_at_once_one_downloads() {
    let (hub, bytes) = Hub::with_model(3_000_000);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes));
        }
    });
    let transfers =
        hub.requests().into_iter().filter(|request| request.method == "GET" && request.path.starts_with("/large/"));
    assert_eq!(transfers.count(), 1);
}

#[test]
fn refusals() {
    let (hub, _) = Hub::with_model(3000);
    hub.refuse(401, "GatedRepo");
    assert_eq!(
        hub.sentence(),
        "the hub refuses timm/resnet18.a1_in1k (HTTP 401): set HF_TOKEN to a token that may read it, and check the name"
    );
    hub.refuse(403, "");
    assert!(hub.sentence().contains("(HTTP 403): set HF_TOKEN"));
    hub.refuse(503, "");
    assert_eq!(
        hub.sentence(),
        "HUB/timm/resnet18.a1_in1k/resolve/main/model.safetensors answers HTTP 503: try again later"
    );
    let mut hub = hub;
    hub.config.token = Some("stale".into());
    hub.refuse(401, "");
    assert!(hub.sentence().contains("check that the token may read it"));
}

#[test]
fn a_failure_between_the_question_and_the_file() {
    let (hub, bytes) = Hub::with_model(3000);
    hub.fail([Fault::Status(500)]);
    assert!(hub.sentence().contains("answers HTTP 500: try again later"));
    assert_eq!(fs::read(hub.fetch(WEIGHTS).unwrap()).unwrap(), bytes);
}

#[test]
fn what_the_hub_does_not_have() {
    let (hub, _) = Hub::with_model(3000);
    let error = |repository, file| {
        let error = fetch(&hub.config, repository, file, &mut |_| {}).unwrap_err();
        error.to_string().replace(&hub.config.endpoint, "HUB")
    };
    assert_eq!(
        error("timm/resnet18.a9_in1k", WEIGHTS),
        "HUB has no model timm/resnet18.a9_in1k: its published tags are a1_in1k, a2_in1k, a3_in1k, \
         fb_ssl_yfcc100m_ft_in1k, fb_swsl_ig1b_ft_in1k, gluon_in1k, tv_in1k"
    );
    assert_eq!(
        error(MODEL, "other.safetensors"),
        "timm/resnet18.a1_in1k on the hub holds no other.safetensors: choose other weights, or give a file as NAME=PATH"
    );
    // Without a token the hub answers so for models that do not exist.
    hub.refuse(401, "RepoNotFound");
    assert!(error("timm/resnet18.a9_in1k", WEIGHTS).contains("its published tags are"));
    assert!(error("somebody/else", WEIGHTS).contains("set HF_TOKEN if the model is private"));
}

#[test]
fn the_token_is_for_the_hub() {
    let (mut hub, _) = Hub::with_model(3000);
    hub.config.token = Some("secret".into());
    hub.fetch(WEIGHTS).unwrap();
    for request in hub.requests() {
        let token = request.headers.get("authorization");
        if request.path.starts_with("/large/") {
            assert_eq!(token, None)
        } else {
            assert_eq!(token.unwrap(), "Bearer secret")
        }
    }
}

#[test]
fn nobody_there() {
    let mut hub = Hub::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    hub.config.endpoint = format!("http://{closed}");
    let sentence = hub.sentence();
    assert!(sentence.starts_with("cannot reach HUB/timm/"), "{sentence}");
    assert!(sentence.ends_with("check the network and HF_ENDPOINT, or give a file as NAME=PATH"));

    hub.config.endpoint = "http://netkin.invalid".into();
    assert!(hub.sentence().starts_with("cannot reach HUB/timm/"));
    for endpoint in ["", "hub", "http://", "http://a b"] {
        hub.config.endpoint = endpoint.into();
        let error = hub.fetch(WEIGHTS).unwrap_err().to_string();
        assert!(error.contains("this is no address"), "{endpoint}: {error}");
    }
}

#[test]
fn what_is_no_hub() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut hub = Hub::new();
    hub.config.endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answers = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "its answer has no ETag"),
        (
            "HTTP/1.1 200 OK\r\nETag: \"../../x\"\r\nX-Repo-Commit: abc\r\nContent-Length: 0\r\n\r\n",
            "its answer has no ETag",
        ),
        ("hello\r\n\r\n", "cannot reach"),
        ("", "cannot reach"),
    ];
    for (answer, reason) in answers {
        let sentence = thread::scope(|scope| {
            scope.spawn(|| {
                let (mut connection, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                connection.write_all(answer.as_bytes()).unwrap();
            });
            hub.sentence()
        });
        assert!(sentence.contains(reason), "{answer:?}: {sentence}");
    }
}

#[test]
fn endless_redirects() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut hub = Hub::new();
    hub.config.endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head = "HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = connection.write_all(head.as_bytes());
        }
    });
    assert!(hub.sentence().contains("redirects without end"));
}

#[test]
fn from_a_name_to_a_network() {
    let hub = Hub::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let network = find("resnet10t").unwrap().build(&Device::flex());
    save(&network, &path, Precision::F16).unwrap();
    let bytes = fs::read(&path).unwrap();
    hub.put("timm/resnet10t.c3_in1k", WEIGHTS, bytes.clone());
    let config = br#"{"architecture": "resnet10t", "pretrained_cfg": {"crop_pct": 0.75}}"#;
    hub.put("timm/resnet10t.c3_in1k", CONFIG, config.to_vec());

    let mut config = hub.config.clone();
    let load = |config: &HubConfig| {
        let spec = "resnet10t".parse().unwrap();
        let loaded = load(&spec, Precision::F32, &Device::flex(), config, &mut |_| {}).unwrap();
        assert_eq!(loaded.name, "resnet10t");
        assert_eq!(loaded.sha256, hash(&bytes));
        let Source::Hub { repository, file } = loaded.source else {
            panic!("not from the hub");
        };
        assert_eq!(repository, "timm/resnet10t.c3_in1k");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        (loaded.preprocessing, file)
    };
    let (preprocessing, file) = load(&config);
    assert_eq!(preprocessing.crop_pct, 0.75);
    assert_eq!(preprocessing.input_size, [176, 176]);

    // timm fetches the weights alone; the catalogue knows the rest, and nothing is asked for.
    fs::remove_file(file.with_file_name(CONFIG)).unwrap();
    let before = hub.requests().len();
    assert_eq!(load(&config).0.crop_pct, 0.875);
    assert_eq!(hub.requests().len(), before);
    config.offline = true;
    assert_eq!(load(&config).0.crop_pct, 0.875);
}
