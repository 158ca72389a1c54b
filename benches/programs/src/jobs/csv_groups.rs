//! A table grouped by two of its columns.

use hashbrown::HashMap;
use serde::Deserialize;

use super::{Job, part};
use crate::input;
use crate::random::Random;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "CSV group by",
    what: "csv and hashbrown: 700 000 rows in 60 000 groups, medians of each, written as CSV",
    prepare,
    run,
};

#[derive(Deserialize)]
struct Row {
    city: String,
    article: String,
    day: u32,
    quantity: u32,
    price: f64,
    #[allow(dead_code, reason = "a column that is read and not used, as there are in every table")]
    remark: String,
}

#[derive(Default)]
struct Group {
    quantity: u64,
    prices: Vec<f64>,
    days: HashMap<u32, u32>,
}

fn prepare(percent: usize) -> Vec<u8> {
    let words = input::words();
    let mut random = Random::new(5);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["city", "article", "day", "quantity", "price", "remark"]).expect("memory");
    for _ in 0..part(700_000, percent) {
        let record = [
            words[random.below(300)].clone(),
            format!("{} {}", words[random.below(200)], random.below(1000) % 7),
            random.below(30).to_string(),
            random.between(1, 50).to_string(),
            format!("{:.2}", random.below(100_000) as f64 / 100.0),
            input::phrase(&mut random, &words, 6),
        ];
        writer.write_record(&record).expect("memory");
    }
    writer.into_inner().expect("memory")
}

fn run(input: Vec<u8>) -> u64 {
    let mut reader = csv::Reader::from_reader(input.as_slice());
    let mut groups: HashMap<(String, String), Group> = HashMap::new();
    for row in reader.deserialize() {
        let Row { city, article, day, quantity, price, .. } = row.expect("a row");
        let group = groups.entry((city, article)).or_default();
        group.quantity += u64::from(quantity);
        group.prices.push(price);
        *group.days.entry(day % 8).or_default() += 1;
    }
    let mut sorted: Vec<_> = groups.into_iter().collect();
    sorted.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let mut writer = csv::Writer::from_writer(Vec::new());
    for ((city, article), mut group) in sorted {
        group.prices.sort_unstable_by(f64::total_cmp);
        let median = group.prices[group.prices.len() / 2];
        let record = [city, article, group.quantity.to_string(), format!("{median:.2}"), group.days.len().to_string()];
        writer.write_record(&record).expect("memory");
    }
    let mut sum = Sum::new();
    sum.bytes(&writer.into_inner().expect("memory"));
    sum.value()
}
