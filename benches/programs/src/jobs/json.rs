//! A large JSON document as a tree of values: read, changed, written.

use serde_json::{Map, Value, json};

use super::{Job, part, text};
use crate::input;
use crate::random::Random;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "json",
    what: "serde_json: a document of 30 MB as a tree of values, changed and written",
    prepare,
    run,
};

/// Orders as an API would list them.
fn prepare(percent: usize) -> Vec<u8> {
    let words = input::words();
    let mut random = Random::new(1);
    let orders: Vec<Value> = (0..part(46_000, percent)).map(|id| order(&mut random, &words, id)).collect();
    serde_json::to_vec(&orders).expect("values")
}

fn order(random: &mut Random, words: &[String], id: usize) -> Value {
    let lines: Vec<Value> = (0..random.between(1, 8))
        .map(|_| {
            json!({
                "article": random.below(100_000),
                "name": input::phrase(random, words, 5),
                "price": random.below(100_000) as f64 / 100.0,
                "quantity": random.between(1, 20),
            })
        })
        .collect();
    let tags: Vec<String> = (0..random.below(6)).map(|_| input::phrase(random, words, 1)).collect();
    json!({
        "id": id,
        "customer": { "name": input::phrase(random, words, 3), "street": input::phrase(random, words, 4), "active": random.below(3) == 0 },
        "lines": lines,
        "tags": tags,
        "note": input::phrase(random, words, 40),
        "parent": null,
    })
}

fn run(input: Vec<u8>) -> u64 {
    let text = text(input);
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    let orders = document.as_array_mut().expect("an array");
    orders.iter_mut().for_each(|order| complete(order.as_object_mut().expect("an object")));
    orders.sort_by(|left, right| left["total"].as_f64().partial_cmp(&right["total"].as_f64()).expect("numbers"));
    let written = serde_json::to_string(&document).expect("values");
    let copy = document.clone();
    drop(document);
    let mut sum = Sum::new();
    sum.bytes(written.as_bytes());
    sum.number(copy.as_array().map_or(0, Vec::len) as u64);
    sum.value()
}

/// Adds up an order and cuts what nobody reads.
fn complete(order: &mut Map<String, Value>) {
    let lines = order["lines"].as_array().expect("lines").iter();
    let total: f64 =
        lines.map(|line| line["price"].as_f64().unwrap_or(0.0) * line["quantity"].as_f64().unwrap_or(0.0)).sum();
    order.insert("total".to_owned(), json!((total * 100.0).round() / 100.0));
    order.remove("parent");
}
