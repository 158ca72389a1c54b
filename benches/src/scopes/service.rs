//! A service without a network: JSON documents come in, are parsed, changed and written, and leave as text.

use std::env;
use std::hint::black_box;
use std::process::Command;

use family_alloc::Heap;
use serde_json::{Value, json};

use crate::{os, switch};

/// Turns, where nobody says how many.
pub(crate) const TURNS: usize = 21;
/// Requests that a process answers before and while it is measured.
const REQUESTS: usize = 3000;

/// The ways to serve; the first is what the others are compared with.
const WAYS: [(&str, &str); 5] = [
    ("without", "Scoped, no scopes"),
    ("each-in-a-scope", "Scoped, each request in the scope of a heap"),
    ("heap-for-each", "Scoped, each request in a heap of its own"),
    ("plain", "the home as the global allocator"),
    ("system", "the system's allocator"),
];

/// A document as it comes in.
fn request(number: usize) -> String {
    let items: Vec<Value> = (0..20)
        .map(|item| {
            json!({
                "id": 31 * number + item,
                "name": format!("item {item} of {number}"),
                "tags": ["a", "bb", "ccc"],
                "price": 1.5 * item as f64,
                "nested": { "x": item, "y": [1, 2, 3], "text": "longer text that is in a string of its own" },
            })
        })
        .collect();
    json!({ "user": format!("user {number}"), "items": items }).to_string()
}

/// The answer to a request.
fn answer(request: &str) -> String {
    let mut document: Value = serde_json::from_str(request).expect("it is JSON");
    let mut sum = 0.0;
    for item in document["items"].as_array_mut().expect("an array") {
        sum += item["price"].as_f64().expect("a number");
        let name = item["name"].as_str().expect("a string").to_uppercase();
        item["name"] = Value::String(name);
        item["seen"] = Value::Bool(true);
    }
    document["sum"] = json!(sum);
    document.to_string()
}

/// Answers so many requests in the way that the environment says, twice, and prints how long the second time took of the processor.
pub(crate) fn serve(requests: usize) {
    let way = env::var(switch::VARIABLE).unwrap_or_default();
    let documents: Vec<String> = (0..10).map(request).collect();
    let one = Heap::new("all requests").expect("there is memory for a heap");
    let work = || {
        for number in 0..requests {
            let request = &documents[number % documents.len()];
            let answer = match way.as_str() {
                "each-in-a-scope" => one.scope(|| answer(request)),
                "heap-for-each" => {
                    let own = Heap::new("request").expect("there is memory for a heap");
                    own.scope(|| answer(request))
                }
                _ => answer(request),
            };
            // As it would be sent: it is freed outside.
            black_box(&answer);
        }
    };
    work();
    let before = os::processor_nanoseconds();
    work();
    println!("{}", (os::processor_nanoseconds() - before) / requests.max(1) as u64);
}

/// Nanoseconds of the processor for a request, in a process of its own.
fn measure(way: &str) -> Result<f64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["--serve", &REQUESTS.to_string()]).env(switch::VARIABLE, way);
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim().parse().map_err(|_| format!("{way}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The quarters of some numbers: the first, the median, the third.
fn quarters(numbers: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| sorted[quarter * (sorted.len() - 1) / 4])
}

/// Lets all ways take turns, and prints the medians.
pub(crate) fn report(turns: usize) -> Result<(), String> {
    let mut turns_of: Vec<[f64; WAYS.len()]> = Vec::new();
    for turn in 0..turns.max(1) {
        let mut times = [0.0; WAYS.len()];
        for step in 0..WAYS.len() {
            let way = (turn + step) % WAYS.len();
            times[way] = measure(WAYS[way].0)?;
        }
        turns_of.push(times);
    }
    println!("a request of the service, processor time, {} turns", turns_of.len());
    println!("{:46}{:>10}{:>18}{:>18}", "", "ns", "to no scopes", "middle half");
    for (way, (_, what)) in WAYS.iter().enumerate() {
        let [_, time, _] = quarters(turns_of.iter().map(|times| times[way]));
        let [low, ratio, high] = quarters(turns_of.iter().map(|times| times[way] / times[0]));
        println!("{what:46}{time:>10.0}{ratio:>18.3}{:>18}", format!("{low:.3} to {high:.3}"));
    }
    Ok(())
}
