//! The service: a heap for each tenant, a scope for each request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use family_alloc::{Heap, HeapError};
use tiny_http::{Method, Request, Response, Server};

use crate::load::Load;
use crate::run::Failure;

/// The most that a tenant may hold.
const LIMIT: usize = 8 << 20;

/// So many words are in an answer.
pub(crate) const MOST_WORDS: usize = 40;

type Documents = HashMap<String, String>;

/// One tenant: all that it holds is in its heap, the table too.
struct Tenant {
    heap: Heap,
    documents: Mutex<Documents>,
}

/// All tenants, by name.
pub(crate) struct Service {
    tenants: Mutex<HashMap<String, Arc<Tenant>>>,
    /// Is charged for all of them.
    parent: Heap,
}

/// What is said of a tenant in the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) documents: usize,
    pub(crate) charged_bytes: usize,
    pub(crate) limit_bytes: usize,
}

/// A status and a text.
type Answer = (u16, String);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tenant {
    fn new(name: &str, parent: &Heap) -> Result<Self, HeapError> {
        let heap = Heap::builder(&format!("tenant {name}")).limit(LIMIT).parent(parent).build()?;
        let documents = heap.scope(|| Mutex::new(Documents::new()));
        Ok(Self { heap, documents })
    }

    /// Keeps a document, unless the tenant has no room for it.
    fn load(&self, name: &str, text: &str) -> Answer {
        let mut documents = lock(&self.documents);
        self.heap.scope(|| documents.insert(name.to_string(), text.to_string()));
        if self.heap.over_limit() {
            // The others do not notice: it is this tenant's memory, and goes back to it.
            documents.remove(name);
            return (507, format!("{LIMIT} bytes are all that there is for a tenant"));
        }
        (201, String::new())
    }

    /// The words that are in a document most often: found in the request's scope, of which nothing is left when it is answered.
    fn most_frequent(&self, name: &str) -> Answer {
        let documents = lock(&self.documents);
        let Some(text) = documents.get(name) else { return (404, "no such document".to_string()) };
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for word in text.split_whitespace() {
            *counts.entry(word).or_insert(0) += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
        (200, counts.iter().take(MOST_WORDS).map(|(word, count)| format!("{word} {count}\n")).collect())
    }
}

impl Service {
    fn new() -> Result<Self, HeapError> {
        Ok(Self { tenants: Mutex::new(HashMap::new()), parent: Heap::new("all tenants")? })
    }

    /// The tenant of that name, from now on. The list is nobody's but the service's.
    fn tenant(&self, name: &str) -> Result<Arc<Tenant>, HeapError> {
        Heap::outside(|| {
            let mut tenants = lock(&self.tenants);
            if let Some(tenant) = tenants.get(name) {
                return Ok(Arc::clone(tenant));
            }
            let tenant = Arc::new(Tenant::new(name, &self.parent)?);
            tenants.insert(name.to_string(), Arc::clone(&tenant));
            Ok(tenant)
        })
    }

    fn answer(&self, request: &mut Request) -> Result<Answer, Failure> {
        let url = request.url().to_string();
        let mut parts = url.trim_matches('/').splitn(2, '/');
        let (tenant, document) = (parts.next().unwrap_or(""), parts.next());
        Ok(match (request.method(), document) {
            (Method::Put, Some(document)) => {
                let mut text = String::new();
                request.as_reader().read_to_string(&mut text)?;
                self.tenant(tenant)?.load(document, &text)
            }
            (Method::Get, Some(document)) => self.tenant(tenant)?.most_frequent(document),
            (Method::Delete, None) => match lock(&self.tenants).remove(tenant) {
                Some(_) => (200, "evicted".to_string()),
                None => (404, "no such tenant".to_string()),
            },
            _ => (400, "PUT and GET /tenant/document, DELETE /tenant".to_string()),
        })
    }

    /// Answers a request, in a scope that ends with it.
    fn serve(&self, mut request: Request) -> Result<(), Failure> {
        let scope = Heap::new("request")?;
        scope.scope(|| {
            let (status, text) = self.answer(&mut request).unwrap_or_else(|error| (500, error.to_string()));
            request.respond(Response::from_string(text).with_status_code(status))
        })?;
        Ok(())
    }

    /// What is to say of all tenants now, by name.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let tenants = lock(&self.tenants);
        let mut rows: Vec<Row> = tenants
            .iter()
            .map(|(name, tenant)| Row {
                name: name.clone(),
                documents: lock(&tenant.documents).len(),
                charged_bytes: tenant.heap.charged_bytes(),
                limit_bytes: tenant.heap.limit().unwrap_or(usize::MAX),
            })
            .collect();
        rows.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        rows
    }
}

/// A service and the threads that serve.
pub(crate) struct Running {
    service: Arc<Service>,
    server: Arc<Server>,
    workers: Vec<JoinHandle<()>>,
}

/// Starts a service on a port of the loopback device.
pub(crate) fn start(workers: usize) -> Result<Running, Failure> {
    let server = Arc::new(Server::http("127.0.0.1:0")?);
    let service = Arc::new(Service::new()?);
    let workers = (0..workers)
        .map(|_| {
            let (server, service) = (Arc::clone(&server), Arc::clone(&service));
            std::thread::spawn(move || {
                while let Ok(request) = server.recv() {
                    // Who does not wait for an answer gets none.
                    _ = service.serve(request);
                }
            })
        })
        .collect();
    Ok(Running { service, server, workers })
}

impl Running {
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.server_addr().to_ip().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Evicts the tenants that a load was for, as any client could.
    pub(crate) fn evict_all(&self, load: &Load) -> Result<(), Failure> {
        load.evict(self.address())
    }

    /// Ends the service when what it is at is answered.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        self.workers.iter().for_each(|_| self.server.unblock());
        self.workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker has panicked".into()))
    }
}
