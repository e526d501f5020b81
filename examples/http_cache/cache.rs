//! The cache: which responses may be used, and how they are asked for, stored and renewed.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};
use larder::{KVFileLock, KVFileStore, MAX_METADATA_BYTES, PathKey, StoreOptions, Value};
use serde::{Deserialize, Serialize};
use ureq::Body;
use ureq::http::request::Parts;
use ureq::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, response};

pub(crate) struct HttpCache {
    store: KVFileStore,
    agent: ureq::Agent,
}

/// The metadata of a value in the store.
#[derive(Serialize, Deserialize)]
enum Known {
    /// The value is the body of the response that this policy is about.
    Response(Box<CachePolicy>),
    /// The value is empty: the response varies with these request headers, and each variant has a key
    /// of its own, which [`Key::narrow`] makes of this one.
    Varies(Vec<String>),
}

/// A response, and where it came from.
pub(crate) struct Answer {
    pub(crate) source: Source,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Box<dyn Read>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was fresh.
    Store,
    /// It was fresh after a wait for somebody who asked the server.
    Wait,
    /// The server said that it had not changed.
    Revalidated,
    /// The server failed, and it may be used all the same.
    Stale,
    /// The server sent it, and it was stored.
    Server,
    /// The server sent it, and it must not be stored.
    Passed,
}

impl Answer {
    fn new(source: Source, head: response::Parts, body: impl Read + 'static) -> Self {
        Answer {
            source,
            status: head.status,
            headers: head.headers,
            body: Box::new(body),
        }
    }
}

/// What is stored for a request.
enum Found {
    Fresh(Answer),
    Stale(Box<Stale>),
    Varies(Vec<String>),
    Nothing,
}

/// A stored response that may not be used without asking.
struct Stale {
    policy: CachePolicy,
    body: Value,
    /// The request, made conditional.
    conditional: Parts,
}

impl HttpCache {
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_recv_body(Some(Duration::from_secs(600)))
            .http_status_as_error(false)
            // A redirect is a response with a policy of its own.
            .max_redirects(0)
            // What is served here is on loopback. A real one leaves this to the environment.
            .proxy(None)
            .build();
        Ok(HttpCache {
            store: StoreOptions::new().sealed(true).open_file_store(dir)?,
            agent: agent.into(),
        })
    }

    /// The response to a request that has no body, at this time.
    pub(crate) fn get(&self, request: &Parts, now: SystemTime) -> anyhow::Result<Answer> {
        let mut key = Key::of(request);
        let mut lock = None;
        loop {
            let stale = match look(self.store.get(&key)?, request, now)? {
                Found::Fresh(answer) if lock.is_some() => {
                    return Ok(Answer {
                        source: Source::Wait,
                        ..answer
                    });
                }
                Found::Fresh(answer) => return Ok(answer),
                Found::Varies(names) => {
                    lock = None;
                    key = key.narrow(&names, request);
                    continue;
                }
                Found::Stale(stale) => Some(stale),
                Found::Nothing => None,
            };
            match lock {
                // Then look again: who held the lock may have asked the server meanwhile.
                None => lock = Some(self.store.lock(&key)?),
                Some(lock) => return self.ask(&key, lock, request, stale, now),
            }
        }
    }

    /// Asks the server, which nobody else does for this key as long as it is locked.
    fn ask(
        &self,
        key: &Key,
        lock: KVFileLock,
        request: &Parts,
        stale: Option<Box<Stale>>,
        now: SystemTime,
    ) -> anyhow::Result<Answer> {
        let sent = stale.as_ref().map_or(request, |stale| &stale.conditional);
        let response = self.agent.run(Request::from_parts(sent.clone(), ()));
        let response = response.with_context(|| format!("cannot get {}", sent.uri));
        let failed = !matches!(&response, Ok(got) if !got.status().is_server_error());
        let Some(stale) = stale else {
            return self.keep(key, lock, request, response?, now);
        };
        if failed {
            return match stale.despite_failure(request, now) {
                Some(answer) => Ok(answer),
                None => self.keep(key, lock, request, response?, now),
            };
        }
        let response = response?;
        match stale.policy.after_response(request, &response, now) {
            AfterResponse::NotModified(policy, head) => {
                let metadata = Known::Response(Box::new(policy)).to_metadata()?;
                if metadata.map_or(Ok(false), |metadata| lock.set_metadata(&metadata))? {
                    return Ok(Answer::new(Source::Revalidated, head, stale.body));
                }
                // There is no room for the new headers, or the value was damaged and is gone: as if
                // there had been none.
                self.ask(key, lock, request, None, now)
            }
            AfterResponse::Modified(..) if response.status() == StatusCode::NOT_MODIFIED => {
                // It speaks of another response than the one that is stored.
                self.ask(key, lock, request, None, now)
            }
            AfterResponse::Modified(..) => self.keep(key, lock, request, response, now),
        }
    }

    /// Stores a response with its body, if it may be stored.
    fn keep(
        &self,
        key: &Key,
        lock: KVFileLock,
        request: &Parts,
        response: Response<Body>,
        now: SystemTime,
    ) -> anyhow::Result<Answer> {
        // The cache of one user, who may keep what is private.
        let options = CacheOptions {
            shared: false,
            ..CacheOptions::default()
        };
        let policy = CachePolicy::new_options(request, &response, now, options);
        let vary = names_in_vary(response.headers());
        let storable = policy.is_storable() && !vary.iter().any(|name| name == "*");
        let metadata = Known::Response(Box::new(policy)).to_metadata()?;
        let (head, body) = response.into_parts();
        let Some(metadata) = metadata.filter(|_| storable) else {
            // The body is nobody else's, so nobody needs to wait for it.
            drop(lock);
            return Ok(Answer::new(Source::Passed, head, body.into_reader()));
        };
        // Locks nest from a key to narrower ones only, so nobody waits in a circle.
        let narrower = key.narrow(&vary, request);
        let variant = match narrower.varies.len() > key.varies.len() {
            true => Some(self.store.lock(&narrower)?),
            false => None,
        };
        let mut value = variant.as_ref().unwrap_or(&lock).begin()?;
        value.set_metadata(&metadata)?;
        if let Some(bytes) = body.content_length() {
            value.expect_len(bytes);
        }
        io::copy(&mut body.into_reader(), &mut value)
            .with_context(|| format!("cannot get {}", request.uri))?;
        let value = value.commit()?.detach_unlocked();
        // The variant comes first: who is sent to it finds it.
        if variant.is_some() {
            let mut signpost = lock.begin()?;
            let metadata = Known::Varies(vary).to_metadata()?;
            signpost.set_metadata(&metadata.context("it varies with too much")?)?;
            signpost.commit()?;
        }
        Ok(Answer::new(Source::Server, head, value))
    }
}

/// What is stored under a key, as far as this request is concerned.
fn look(value: Option<Value>, request: &Parts, now: SystemTime) -> anyhow::Result<Found> {
    let Some(body) = value else {
        return Ok(Found::Nothing);
    };
    let policy = match serde_json::from_slice(body.metadata()) {
        Ok(Known::Response(policy)) => *policy,
        Ok(Known::Varies(names)) => return Ok(Found::Varies(names)),
        // Another version wrote it. The value itself is whole, or it would not be here.
        Err(_) => return Ok(Found::Nothing),
    };
    Ok(match policy.before_request(request, now) {
        BeforeRequest::Fresh(head) => Found::Fresh(Answer::new(Source::Store, head, body)),
        BeforeRequest::Stale {
            request: conditional,
            matches: true,
        } => Found::Stale(Box::new(Stale {
            policy,
            body,
            conditional,
        })),
        BeforeRequest::Stale { matches: false, .. } => Found::Nothing,
    })
}

impl Stale {
    /// The stored response, if it may be used because the server failed.
    ///
    /// `http-cache-semantics` does not know `stale-if-error`. It does know a request's `max-stale`, and
    /// when `must-revalidate` forbids it; so it is asked as if the request allowed what the response
    /// does.
    fn despite_failure(self, request: &Parts, now: SystemTime) -> Option<Answer> {
        let if_allowed = |max_stale: &str| {
            let mut request = request.clone();
            let allowed = HeaderValue::from_str(max_stale).ok()?;
            request.headers.append("cache-control", allowed);
            match self.policy.before_request(&request, now) {
                BeforeRequest::Fresh(head) => Some(head),
                BeforeRequest::Stale { .. } => None,
            }
        };
        let seconds = stale_if_error(&if_allowed("max-stale")?.headers)?;
        let head = if_allowed(&format!("max-stale={seconds}"))?;
        Some(Answer::new(Source::Stale, head, self.body))
    }
}

/// The seconds in a response's `stale-if-error`.
fn stale_if_error(headers: &HeaderMap) -> Option<u64> {
    list(headers, "cache-control")
        .find_map(|directive| directive.strip_prefix("stale-if-error=")?.parse().ok())
}

fn names_in_vary(headers: &HeaderMap) -> Vec<String> {
    list(headers, "vary").map(str::to_lowercase).collect()
}

/// The parts of a header's value.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|part| !part.is_empty())
}

impl Known {
    /// `None` if the store has no room for it.
    fn to_metadata(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let metadata = serde_json::to_vec(self).context("cannot write the policy")?;
        Ok(Some(metadata).filter(|metadata| metadata.len() <= MAX_METADATA_BYTES))
    }
}

/// The key of a response, or of some of its variants.
struct Key {
    /// The method, the URL, and the request's values of the headers in `varies`.
    text: String,
    varies: Vec<String>,
}

impl PathKey for Key {
    fn key(&self) -> PathBuf {
        self.text.key()
    }

    /// So that `entries` lists the URLs, and waiters see what they wait for.
    fn label(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.text))
    }
}

impl Key {
    fn of(request: &Parts) -> Self {
        Key {
            text: format!("{} {}", request.method, request.uri),
            varies: Vec::new(),
        }
    }

    /// The key of those variants that suit the request in these headers too.
    fn narrow(&self, names: &[String], request: &Parts) -> Self {
        let (mut text, mut varies) = (self.text.clone(), self.varies.clone());
        for name in names {
            if !varies.contains(name) {
                let values: Vec<_> = request.headers.get_all(name).iter().collect();
                text.push_str(&format!(" {name}: {values:?}"));
                varies.push(name.clone());
            }
        }
        Key { text, varies }
    }
}
