//! A script in an interpreter whose values are small and many.

use rhai::Engine;

use super::{Job, part, text};
use crate::sum::Sum;

pub(super) const JOB: Job =
    Job { name: "script", what: "rhai: a script with maps, arrays, strings and recursion", prepare, run };

/// The script, with how much it is to do in its first line.
fn prepare(percent: usize) -> Vec<u8> {
    format!("const ROUNDS = {};\n{SCRIPT}", part(80, percent)).into_bytes()
}

const SCRIPT: &str = r#"
fn fibonacci(n) { if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) } }

fn tree(depth) { if depth == 0 { #{ leaf: true } } else { #{ left: tree(depth - 1), right: tree(depth - 1), depth: depth } } }

fn leaves(node) { if "leaf" in node { 1 } else { leaves(node.left) + leaves(node.right) } }

let result = [];
for round in 0..ROUNDS {
    let people = [];
    for number in 0..800 {
        people.push(#{ name: `person ${number * 7919 % 1000}`, age: (number * 31 + round) % 90, tags: ["a" + number % 13, "b" + round] });
    }
    people.sort(|left, right| if left.name == right.name { left.age - right.age } else if left.name < right.name { -1 } else { 1 });
    let adults = people.filter(|person| person.age >= 18).map(|person| person.name + " " + person.age);
    let text = "";
    for name in adults { text += name; text += ";"; }
    let counts = #{};
    for part in text.split(";") {
        let key = part.sub_string(0, 8);
        if key in counts { counts[key] += 1; } else { counts[key] = 1; }
    }
    result.push(`${text.len} ${counts.len()} ${fibonacci(15)} ${leaves(tree(9))}`);
}
let all = "";
for line in result { all += line + "\n"; }
all
"#;

fn run(input: Vec<u8>) -> u64 {
    let script = text(input);
    let mut engine = Engine::new();
    engine.set_max_expr_depths(0, 0);
    let result: String = engine.eval(&script).expect("a script that runs");
    let mut sum = Sum::new();
    sum.bytes(result.as_bytes());
    sum.value()
}
