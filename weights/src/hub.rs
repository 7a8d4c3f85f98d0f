//! The Hugging Face hub and its cache folder.
//!
//! The folder is the one that Python's `huggingface_hub` uses, with its layout, its names of unfinished downloads and its
//! locks, so that what either program has fetched the other finds. Layout and names come from the crate hf-hub.
//!
//! The transfer is netkin's own: hf-hub 0.5 takes a download for complete without looking at its length or hash, appends
//! the whole file to the half that it has if the server sends the whole, loses the hub's own reason for a refusal, waits
//! forever for a silent server, and writes a bar to the terminal.

use std::env;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo, Repo};
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body, RequestBuilder, typestate::WithoutBody};

use crate::file::hexadecimal;
use crate::{Error, catalogue};

/// Where the hub and its cache folder are, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The cache folder, `~/.cache/huggingface/hub` by default.
    pub cache: PathBuf,
    /// The address without a slash at its end, `https://huggingface.co` by default.
    pub endpoint: String,
    /// Whether only the cache folder may be used.
    pub offline: bool,
    /// Shown to the hub with every request.
    pub token: Option<String>,
}

/// How far a download has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is downloaded, `timm/resnet18.a1_in1k/model.safetensors`.
    pub file: &'a str,
    /// Bytes that are here, those of an earlier, unfinished download included.
    pub done: u64,
    /// Bytes of the whole file, if the hub says.
    pub total: Option<u64>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// After so long without a byte, a connection is given up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_REDIRECTS: usize = 10;
const BLOCK: usize = 1 << 17;
/// A broken connection that brought so many bytes is followed by another at once.
const WORTH_ANOTHER: u64 = 1 << 20;

impl HubConfig {
    /// Reads the environment as `huggingface_hub` does: `HF_HUB_CACHE` or else `HF_HOME/hub`; `HF_ENDPOINT`;
    /// `HF_HUB_OFFLINE` (1, true, yes or on); the token from `HF_TOKEN`, or from the file `HF_TOKEN_PATH`, or else from
    /// `HF_HOME/token`.
    pub fn from_env() -> Self {
        Self::from_variables(&|name| env::var(name).ok(), env::home_dir())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Self {
        let text = |name: &str| {
            let value = variable(name)?.trim().to_string();
            (!value.is_empty()).then_some(value)
        };
        let home = home.unwrap_or_default();
        let folder = |name: &str| {
            text(name).map(|path| match path.strip_prefix("~/") {
                Some(rest) => home.join(rest),
                None => PathBuf::from(path),
            })
        };
        let hf_home = folder("HF_HOME").unwrap_or_else(|| {
            let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
            caches.join("huggingface")
        });
        let token_file = || {
            let path = folder("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
            let token = fs::read_to_string(path).ok()?.trim().to_string();
            (!token.is_empty()).then_some(token)
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = text("HF_HUB_OFFLINE").unwrap_or_default().to_lowercase();
        Self {
            cache: folder("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').into(),
            offline: matches!(offline.as_str(), "1" | "true" | "yes" | "on"),
            token: text("HF_TOKEN").or_else(token_file),
        }
    }

    /// No hub and an empty cache: for weights that are at hand.
    pub fn nowhere() -> Self {
        Self { cache: PathBuf::new(), endpoint: String::new(), offline: true, token: None }
    }

    fn repository(&self, repository: &str) -> CacheRepo {
        Cache::new(self.cache.clone()).repo(Repo::model(repository.into()))
    }
}

/// Says whether there is a token, not which.
impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .field("token", &self.token.is_some())
            .finish()
    }
}

/// A file of a model's main branch in the cache folder, if it is there. Asks nobody.
pub fn cached(config: &HubConfig, repository: &str, file: &str) -> Option<PathBuf> {
    config.repository(repository).get(file)
}

/// A file of a model's main branch: from the cache folder if it is there, else from the hub, into the folder.
///
/// The file appears in the folder when it is complete: it has the announced length and, if the hub gives one, the
/// announced sha256. What a broken download brought is kept aside, and the next one goes on behind it. Of several
/// programs that want the same file one downloads and the others wait.
///
/// # Errors
/// [`Error::Offline`], [`Error::NotOnHub`], [`Error::NoSuchHubFile`], [`Error::Refused`], [`Error::Status`],
/// [`Error::Unreachable`], [`Error::Cut`], [`Error::Corrupt`], [`Error::NotAHub`] or [`Error::Io`].
pub fn fetch(
    config: &HubConfig,
    repository: &str,
    file: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, Error> {
    if let Some(path) = cached(config, repository, file) {
        return Ok(path);
    }
    if config.offline {
        return Err(Error::Offline { repository: repository.into(), file: file.into(), cache: config.cache.clone() });
    }
    let client = Client::new(config, repository, file)?;
    let announced = client.ask()?;

    let folder = config.repository(repository);
    let blob = folder.blob_path(&announced.etag);
    let name = Repo::model(repository.into()).folder_name();
    let lock = config.cache.join(".locks").join(name);
    let lock = lock.join(format!("{}.lock", announced.etag));
    let _lock = Lock::take(&lock)?;
    if !is_complete(&blob, announced.size) {
        let unfinished = blob.with_file_name(format!("{}.incomplete", announced.etag));
        make_folder_of(&blob)?;
        client.download(&announced, &unfinished, progress)?;
        fs::rename(&unfinished, &blob).map_err(io_error("write", &blob))?;
    }

    let pointer = folder.pointer_path(&announced.commit).join(file);
    make_folder_of(&pointer)?;
    link(&blob, &pointer).map_err(io_error("write", &pointer))?;
    let reference = folder.create_ref(&announced.commit);
    reference.map_err(io_error("write", &config.cache))?;
    Ok(pointer)
}

/// What the hub says about a file before it sends it.
#[derive(Debug)]
struct Announcement {
    /// The repository's version.
    commit: String,
    /// Changes with the content; for large files it is the sha256.
    etag: String,
    /// Bytes.
    size: Option<u64>,
}

impl Announcement {
    fn sha256(&self) -> Option<&str> {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (self.etag.len() == 64 && self.etag.bytes().all(hexadecimal)).then_some(&self.etag)
    }
}

/// One file's conversation with the hub.
struct Client<'a> {
    config: &'a HubConfig,
    repository: &'a str,
    file: &'a str,
    url: String,
    agent: Agent,
}

impl<'a> Client<'a> {
    fn new(config: &'a HubConfig, repository: &'a str, file: &'a str) -> Result<Self, Error> {
        let url = format!("{}/{repository}/resolve/main/{file}", config.endpoint);
        let host = url.parse::<Uri>().ok();
        let Some(host) = host.as_ref().and_then(|url| url.scheme().and(url.host())) else {
            return Err(Error::Unreachable { url, reason: "this is no address, it should begin with https://".into() });
        };
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .max_redirects(MOST_REDIRECTS as u32)
            .user_agent(concat!("netkin/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            agent = agent.proxy(None);
        }
        Ok(Self { config, repository, file, agent: agent.build().into(), url })
    }

    /// Length, hash and version of the file. The hub says so itself, before it sends on to where large files lie.
    fn ask(&self) -> Result<Announcement, Error> {
        let mut headers = HeaderMap::new();
        let mut url = self.url.clone();
        for _ in 0..MOST_REDIRECTS {
            let request = self.agent.head(&url).config().max_redirects(0).build();
            let response = self.send(request)?;
            let status = response.status();
            if !status.is_success() && !status.is_redirection() {
                return Err(self.refusal(&response));
            }
            // What an earlier answer said about the file counts more than what a later one says about its place.
            for (name, value) in response.headers() {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            let location = text(response.headers(), "location");
            match location.filter(|to| status.is_redirection() && is_relative(to)) {
                Some(to) => url = format!("{}{to}", origin(&url)),
                None => {
                    return self.announcement(&headers, response.headers(), status.is_success());
                }
            }
        }
        Err(self.not_a_hub("it redirects without end"))
    }

    fn announcement(&self, all: &HeaderMap, last: &HeaderMap, is_file: bool) -> Result<Announcement, Error> {
        let etag = text(all, "x-linked-etag").or_else(|| text(last, "etag"));
        let etag = etag.as_deref().map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let commit = text(all, "x-repo-commit");
        let size = text(all, "x-linked-size")
            .or_else(|| text(last, "content-length").filter(|_| is_file))
            .and_then(|size| size.parse().ok());
        match (etag, commit.as_deref()) {
            // Both become names of files.
            (Some(etag), Some(commit)) if is_name(etag) && is_name(commit) => {
                Ok(Announcement { commit: commit.into(), etag: etag.into(), size })
            }
            _ => Err(self.not_a_hub("its answer has no ETag or no X-Repo-Commit")),
        }
    }

    /// Brings the file to `unfinished`, going on behind what is there, and checks it.
    fn download(
        &self,
        announced: &Announcement,
        unfinished: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        loop {
            let start = fs::metadata(unfinished).map_or(0, |file| file.len());
            match self.transfer(announced, unfinished, progress) {
                Err(Error::Cut { done, .. }) if done >= start + WORTH_ANOTHER => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        let Some(expected) = announced.sha256() else {
            return Ok(());
        };
        let found = sha256_of(unfinished).map_err(io_error("read", unfinished))?;
        if found == expected {
            return Ok(());
        }
        fs::remove_file(unfinished).map_err(io_error("remove", unfinished))?;
        Err(Error::Corrupt { url: self.url.clone(), announced: expected.into(), found })
    }

    /// One connection's worth of [`Self::download`].
    fn transfer(
        &self,
        announced: &Announcement,
        unfinished: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let failed = || io_error("write", unfinished);
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).open(unfinished).map_err(failed())?;
        let mut done = file.metadata().map_err(failed())?.len();
        if announced.size.is_some_and(|size| done > size) {
            file.set_len(0).map_err(failed())?;
            done = 0;
        }
        if done > 0 && announced.size == Some(done) {
            return Ok(());
        }

        let mut response = self.get(done)?;
        if done > 0 && !continues_at(&response, done) {
            // The server sends the whole file, or refuses to send a part: from the beginning, then.
            file.set_len(0).map_err(failed())?;
            done = 0;
            if !response.status().is_success() || response.status() == 206 {
                response = self.get(0)?;
            }
        }
        if !response.status().is_success() {
            return Err(self.refusal(&response));
        }
        let rest = text(response.headers(), "content-length").and_then(|rest| rest.parse().ok());
        let promised: Option<u64> = rest.map(|rest: u64| done + rest);
        let total = announced.size.or(promised);
        if total.is_none() && announced.sha256().is_none() {
            return Err(self.not_a_hub("it gives neither the length nor the sha256"));
        }

        let label = format!("{}/{}", self.repository, self.file);
        let mut report = |done| progress(Progress { file: &label, done, total });
        report(done);
        let mut body = response.into_body().into_reader();
        let mut block = vec![0; BLOCK];
        let end = loop {
            match body.read(&mut block) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    file.write_all(&block[..count]).map_err(failed())?;
                    done += count as u64;
                    report(done);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error.to_string()),
            }
            if total.is_some_and(|total| done > total) {
                file.set_len(0).map_err(failed())?;
                return Err(self.not_a_hub("it sends more bytes than it announces"));
            }
        };
        file.sync_all().map_err(failed())?;
        match (end, total) {
            (Ok(()), total) if total.is_none_or(|total| total == done) => Ok(()),
            (end, total) => Err(Error::Cut {
                url: self.url.clone(),
                done,
                total,
                reason: end.err().unwrap_or("the connection was closed".into()),
            }),
        }
    }

    fn get(&self, start: u64) -> Result<Response<Body>, Error> {
        let request = self.agent.get(&self.url);
        self.send(match start {
            0 => request,
            start => request.header("range", format!("bytes={start}-")),
        })
    }

    fn send(&self, request: RequestBuilder<WithoutBody>) -> Result<Response<Body>, Error> {
        let request = match &self.config.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        request.call().map_err(|error| match error {
            ureq::Error::TooManyRedirects => self.not_a_hub("it redirects without end"),
            error => Error::Unreachable { url: self.url.clone(), reason: error.to_string() },
        })
    }

    /// What an answer that is no success means. The hub answers 401 for a model that does not exist unless a valid token is
    /// shown, and then says in a header what it means.
    fn refusal(&self, response: &Response<Body>) -> Error {
        let status = response.status().as_u16();
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        let repository = self.repository.to_string();
        match (status, code.as_str()) {
            (404, "EntryNotFound") => Error::NoSuchHubFile { repository, file: self.file.into() },
            (404, _) | (401, "RepoNotFound") => {
                Error::NotOnHub { endpoint: self.config.endpoint.clone(), tags: tags_of(&repository), repository }
            }
            (401 | 403, _) => Error::Refused { repository, status, with_token: self.config.token.is_some() },
            _ => Error::Status { url: self.url.clone(), status },
        }
    }

    fn not_a_hub(&self, reason: &str) -> Error {
        Error::NotAHub { url: self.url.clone(), reason: reason.into() }
    }
}

/// Held while a file is downloaded; the file system frees it when the program ends in whatever way.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(path: &Path) -> Result<Self, Error> {
        make_folder_of(path)?;
        let file = File::create(path).map_err(io_error("write", path))?;
        // Some network file systems know no locks; a download without one is better than none.
        let _ = file.lock();
        Ok(Self { _file: file })
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

/// Whether an answer holds the part of the file that begins at `start`.
fn continues_at(response: &Response<Body>, start: u64) -> bool {
    let range = text(response.headers(), "content-range").unwrap_or_default();
    response.status() == 206 && range.starts_with(&format!("bytes {start}-"))
}

fn is_relative(location: &str) -> bool {
    location.starts_with('/') && !location.starts_with("//")
}

/// Scheme and host.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |colon| colon + 3);
    let end = url[host..].find('/').map_or(url.len(), |slash| host + slash);
    &url[..end]
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed)
}

/// The published tags of the architecture in `timm/NAME.TAG`.
fn tags_of(repository: &str) -> Vec<&'static str> {
    let model = repository.rsplit('/').next().unwrap_or_default();
    catalogue::tags(model.split('.').next().unwrap_or_default())
}

fn is_complete(blob: &Path, size: Option<u64>) -> bool {
    fs::metadata(blob).is_ok_and(|blob| size.is_none_or(|size| size == blob.len()))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hexadecimal(&hash.finalize()))
}

fn make_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(io_error("create", folder))
}

/// Makes `pointer`, in `snapshots/COMMIT`, lead to `blob`, in `blobs`.
fn link(blob: &Path, pointer: &Path) -> io::Result<()> {
    if pointer.exists() {
        return Ok(());
    }
    // A link whose blob was deleted is there and yet does not exist.
    match fs::remove_file(pointer) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    #[cfg(unix)]
    {
        let name = blob.file_name().expect("a blob has a name");
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), pointer)
    }
    #[cfg(not(unix))]
    fs::rename(blob, pointer)
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| Error::Io { action, path: path.into(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> HubConfig {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.to_string())
        };
        HubConfig::from_variables(&variable, Some("/home/me".into()))
    }

    #[test]
    fn without_variables() {
        let config = config(&[("HF_HOME", ""), ("HF_TOKEN", " ")]);
        assert_eq!(config.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert!(!config.offline);
        assert_eq!(config.token, None);
    }

    #[test]
    fn folders() {
        let cache = |variables: &[(&str, &str)]| config(variables).cache;
        assert_eq!(cache(&[("HF_HOME", "/h")]), Path::new("/h/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/h")]), Path::new("/home/me/h/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        let both = [("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(cache(&both), Path::new("/c"));
    }

    #[test]
    fn switches() {
        for on in ["1", "true", "YES", "On"] {
            assert!(config(&[("HF_HUB_OFFLINE", on)]).offline, "{on}");
        }
        for off in ["0", "false", "", "no"] {
            assert!(!config(&[("HF_HUB_OFFLINE", off)]).offline, "{off}");
        }
        let mirror = config(&[("HF_ENDPOINT", "https://mirror.example/")]);
        assert_eq!(mirror.endpoint, "https://mirror.example");
    }

    #[test]
    fn tokens() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        fs::write(folder.path().join("token"), "from-home\n").unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "from-path").unwrap();
        let other = other.to_str().unwrap();
        let token = |variables: &[(&str, &str)]| config(variables).token.unwrap();
        assert_eq!(token(&[("HF_HOME", home)]), "from-home");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", other)]), "from-path");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "direct")]), "direct");
        let debug = format!("{:?}", config(&[("HF_TOKEN", "secret")]));
        assert!(!debug.contains("secret"));
    }

    #[test]
    fn names_from_the_hub_stay_inside_the_folder() {
        assert!(is_name("0a1b-2"));
        for bad in ["", "..", "a/b", "a.b", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn origins() {
        assert_eq!(origin("http://a:1/b/c"), "http://a:1");
        assert_eq!(origin("https://a"), "https://a");
    }
}
