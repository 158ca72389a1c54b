//! A service over HTTP in which each tenant is a heap, and each request runs in a scope of its own.
//!
//! ```text
//! cargo run --release --example tenants [SECONDS]
//! ```
//!
//! Tenants load documents and count words in them; one of them loads too much and is refused, and at the end they
//! are evicted. Nothing of the service names a family in a type: its documents are `String`s in a `HashMap`, and the
//! server crate knows nothing of heaps. What the heaps say is compared with what the system says is resident.

#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod resident;
#[cfg(target_os = "linux")]
mod service;

use family_alloc::{Scoped, family};

family! { struct Home; }

#[global_allocator]
static GLOBAL: Scoped<Home> = Scoped::new();

#[cfg(target_os = "linux")]
mod run {
    use std::time::Duration;

    use family_alloc::families;

    use super::{load, resident, service};

    const MIB: f64 = (1 << 20) as f64;

    /// What went wrong, in words.
    pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

    fn expect(is_so: bool, what: &str) -> Result<(), Failure> {
        if is_so { Ok(()) } else { Err(format!("not so: {what}").into()) }
    }

    /// Serves a load of that length, and prints what came of it.
    pub(crate) fn run(length: Duration) -> Result<(), Failure> {
        let running = service::start(4)?;
        let before = resident::bytes()?;
        let load = load::run(running.address(), length)?;
        let rows = running.service().rows();
        println!(
            "{:<10} {:>10} {:>9} {:>12} {:>12} {:>9}",
            "tenant", "documents", "refused", "charged, MiB", "limit, MiB", "requests"
        );
        for row in &rows {
            let client = load.of(&row.name);
            let (charged, limit) = (row.charged_bytes as f64 / MIB, row.limit_bytes as f64 / MIB);
            let (name, documents, refused, requests) = (&row.name, row.documents, client.refused, client.requests);
            println!("{name:<10} {documents:>10} {refused:>9} {charged:>12.2} {limit:>12.2} {requests:>9}");
            expect(row.charged_bytes <= row.limit_bytes, "what is kept of a tenant is within its limit")?;
            let is_greedy = row.name == load::GREEDY;
            expect((refused > 0) == is_greedy, "only who asks for too much is refused")?;
            expect(client.failed == 0, "all other requests are answered")?;
        }
        let charged: usize = rows.iter().map(|row| row.charged_bytes).sum();
        let loaded = resident::bytes()?;
        running.evict_all(&load)?;
        let evicted = resident::bytes()?;
        running.stop()?;
        let orphans = families().filter(|family| family.is_orphan()).count();
        println!();
        println!("{:>10} requests in {:.1} s, each in a scope of its own", load.requests(), load.seconds());
        println!("{:>10.2} MiB charged to the tenants", charged as f64 / MIB);
        println!("{:>10.2} MiB more resident than before the load", loaded.saturating_sub(before) as f64 / MIB);
        println!("{:>10.2} MiB went back when the tenants were evicted", loaded.saturating_sub(evicted) as f64 / MIB);
        println!("{orphans:>10} heaps of requests or tenants have left something behind");
        expect(loaded.saturating_sub(before) >= charged * 8 / 10, "what is charged is resident")?;
        expect(loaded.saturating_sub(evicted) >= charged * 8 / 10, "what is evicted is given back")?;
        expect(families().all(|family| !family.name().starts_with("tenant")), "no tenant is left")
    }
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), run::Failure> {
    let seconds = match std::env::args().nth(1) {
        Some(text) => text.parse::<f64>()?,
        None => 3.0,
    };
    run::run(std::time::Duration::try_from_secs_f64(seconds)?)
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("what is resident is read from where Linux has it");
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    #[test]
    #[cfg_attr(feature = "portable", ignore = "this backend gives no pages back")]
    fn a_short_load_is_served() {
        super::run::run(std::time::Duration::from_millis(300)).expect("as the example says");
    }
}
