//! A graph that two threads search.

use std::collections::{BTreeMap, VecDeque};

use petgraph::algo::{dijkstra, kosaraju_scc};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use rayon::prelude::*;

use super::{Job, part, text};
use crate::random::Random;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "graph, two threads",
    what: "rayon and petgraph: a graph of 150 000 named nodes, 24 shortest-path searches by two threads",
    prepare,
    run,
};

/// Edges, a line each: two names and a length.
fn prepare(percent: usize) -> Vec<u8> {
    let mut random = Random::new(6);
    let nodes = part(150_000, percent);
    let mut text = String::new();
    for node in 0..nodes {
        for _ in 0..random.between(1, 5) {
            // Most edges lead to nodes near by, as in a net of roads.
            let target =
                if random.below(10) == 0 { random.below(nodes) } else { (node + random.between(1, 50)) % nodes };
            text.push_str(&format!("place-{node} place-{target} {}\n", random.between(1, 100)));
        }
    }
    text.into_bytes()
}

fn run(input: Vec<u8>) -> u64 {
    let graph = read(&text(input));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("two threads");
    let mut sum = Sum::new();
    let starts: Vec<NodeIndex> = graph.node_indices().step_by((graph.node_count() / 24).max(1)).collect();
    let distances: Vec<u64> = pool.install(|| starts.par_iter().map(|&start| shortest(&graph, start)).collect());
    distances.iter().for_each(|&distance| sum.number(distance));
    let reached: Vec<u64> = pool.install(|| starts.par_iter().map(|&start| names_near(&graph, start)).collect());
    reached.iter().for_each(|&count| sum.number(count));
    sum.number(kosaraju_scc(&graph).len() as u64);
    sum.value()
}

fn read(text: &str) -> DiGraph<String, u32> {
    let mut graph = DiGraph::new();
    let mut nodes: BTreeMap<String, NodeIndex> = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split(' ');
        let mut node = || {
            let name = parts.next().expect("a name");
            *nodes.entry(name.to_owned()).or_insert_with(|| graph.add_node(name.to_owned()))
        };
        let (from, to) = (node(), node());
        graph.add_edge(from, to, parts.next().and_then(|length| length.parse().ok()).expect("a length"));
    }
    graph
}

/// The lengths of all shortest ways, added up.
fn shortest(graph: &DiGraph<String, u32>, start: NodeIndex) -> u64 {
    let lengths = dijkstra(graph, start, None, |edge| u64::from(*edge.weight()));
    lengths.values().sum()
}

/// Names of nodes near by, each with the way to it.
fn names_near(graph: &DiGraph<String, u32>, start: NodeIndex) -> u64 {
    let mut ways: BTreeMap<NodeIndex, Vec<String>> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    ways.insert(start, vec![graph[start].clone()]);
    while let Some(node) = waiting.pop_front() {
        if ways.len() > 3000 {
            break;
        }
        for edge in graph.edges(node) {
            let target = edge.target();
            if !ways.contains_key(&target) {
                let mut way = ways[&node].clone();
                way.push(graph[target].clone());
                ways.insert(target, way);
                waiting.push_back(target);
            }
        }
    }
    ways.values().flatten().map(|name| name.len() as u64).sum()
}
