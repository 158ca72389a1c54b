//! Typed JSON, one document a line, as a queue of messages is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Job, part, text};
use crate::input;
use crate::random::Random;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "messages",
    what: "serde: 300 000 typed JSON messages, the last of each user kept, answers written",
    prepare,
    run,
};

#[derive(Serialize, Deserialize)]
struct Message {
    user: u32,
    channel: String,
    text: String,
    mentions: Vec<String>,
    fields: BTreeMap<String, f64>,
    reply_to: Option<Box<Message>>,
}

fn prepare(percent: usize) -> Vec<u8> {
    let words = input::words();
    let mut random = Random::new(2);
    let mut lines = String::new();
    for _ in 0..part(300_000, percent) {
        let mut message = message(&mut random, &words);
        if random.below(3) == 0 {
            message.reply_to = Some(Box::new(self::message(&mut random, &words)));
        }
        lines.push_str(&serde_json::to_string(&message).expect("values"));
        lines.push('\n');
    }
    lines.into_bytes()
}

fn message(random: &mut Random, words: &[String]) -> Message {
    Message {
        user: random.below(60_000) as u32,
        channel: input::phrase(random, words, 2),
        text: input::phrase(random, words, 25),
        mentions: (0..random.below(4)).map(|_| input::phrase(random, words, 1)).collect(),
        fields: (0..random.below(5)).map(|_| (input::phrase(random, words, 1), random.below(1000) as f64)).collect(),
        reply_to: None,
    }
}

fn run(input: Vec<u8>) -> u64 {
    let text = text(input);
    let mut last: BTreeMap<u32, Message> = BTreeMap::new();
    let mut sum = Sum::new();
    for line in text.lines() {
        let mut message: Message = serde_json::from_str(line).expect("a message");
        if let Some(earlier) = last.remove(&message.user) {
            message.mentions.extend(earlier.mentions.into_iter().take(2));
            message.mentions.truncate(8);
        }
        let answer = serde_json::to_string(&message).expect("values");
        sum.number(answer.len() as u64);
        last.insert(message.user, message);
    }
    last.values().for_each(|message| sum.bytes(message.text.as_bytes()));
    sum.value()
}
