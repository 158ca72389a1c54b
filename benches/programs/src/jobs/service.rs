//! An HTTP service that two clients ask over the loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Job, part, text};
use crate::input;
use crate::random::Random;
use crate::sum;

pub(super) const JOB: Job = Job {
    name: "HTTP service",
    what: "axum and tokio: 48 000 requests with JSON from two clients, half of them orders that are kept",
    prepare,
    run,
};

const CLIENTS: usize = 2;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: usize,
    customer: String,
    lines: Vec<Line>,
    options: BTreeMap<String, String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    article: String,
    quantity: u32,
    price: f64,
}

#[derive(Serialize)]
struct Receipt {
    id: usize,
    total: f64,
    text: String,
}

type Orders = Arc<Mutex<BTreeMap<usize, Order>>>;

/// Orders, a line of JSON each.
fn prepare(percent: usize) -> Vec<u8> {
    let words = input::words();
    let mut random = Random::new(8);
    let mut text = String::new();
    for id in 0..part(24_000, percent) {
        let line = |random: &mut Random| Line {
            article: input::phrase(random, &words, 4),
            quantity: random.between(1, 9) as u32,
            price: random.below(10_000) as f64 / 100.0,
        };
        let order = Order {
            id,
            customer: input::phrase(&mut random, &words, 3),
            lines: (0..random.between(1, 12)).map(|_| line(&mut random)).collect(),
            options: (0..random.below(5))
                .map(|_| (input::phrase(&mut random, &words, 1), input::phrase(&mut random, &words, 3)))
                .collect(),
        };
        text.push_str(&serde_json::to_string(&order).expect("values"));
        text.push('\n');
    }
    text.into_bytes()
}

async fn place(State(orders): State<Orders>, Json(order): Json<Order>) -> (StatusCode, Json<Receipt>) {
    let total = order.lines.iter().map(|line| line.price * f64::from(line.quantity)).sum();
    let articles: Vec<&str> = order.lines.iter().map(|line| line.article.as_str()).collect();
    let receipt = Receipt { id: order.id, total, text: format!("{}: {}", order.customer, articles.join(", ")) };
    orders.lock().expect("no panic").insert(order.id, order);
    (StatusCode::CREATED, Json(receipt))
}

async fn find(State(orders): State<Orders>, Path(id): Path<usize>) -> Result<Json<Order>, StatusCode> {
    let orders = orders.lock().expect("no panic");
    orders.get(&id).cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
}

fn run(input: Vec<u8>) -> u64 {
    let text = text(input);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let routes = Router::new().route("/orders", post(place)).route("/orders/{id}", get(find));
    let service = axum::serve(listener, routes.with_state(Orders::default()));
    let serving = runtime.spawn(async move {
        let end = service.with_graceful_shutdown(async { stopped.await.unwrap_or(()) });
        end.await.expect("a service that ends well");
    });
    let lines: Vec<&str> = text.lines().collect();
    let sum = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let lines = &lines;
                scope.spawn(move || ask(address, lines, client))
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).fold(0, u64::wrapping_add)
    });
    stop.send(()).expect("a service that runs");
    runtime.block_on(serving).expect("no panic");
    sum
}

/// Places every second order and asks for an earlier one after each; the sum of all answers.
fn ask(address: SocketAddr, orders: &[&str], client: usize) -> u64 {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    let mut sum = 0_u64;
    let mut random = Random::new(client as u64 + 9);
    let own: Vec<usize> = (client..orders.len()).step_by(CLIENTS).collect();
    for (number, &id) in own.iter().enumerate() {
        let order = orders[id];
        request.clear();
        write!(request, "POST /orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{order}", order.len()).expect("memory");
        sum = sum.wrapping_add(exchange(&mut stream, &request, &mut answer));
        request.clear();
        let earlier = own[random.below(number + 1)];
        write!(request, "GET /orders/{earlier} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n")
            .expect("memory");
        sum = sum.wrapping_add(exchange(&mut stream, &request, &mut answer));
    }
    sum
}

/// Sends a request; the sum of the answer's body.
fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> u64 {
    stream.write_all(request).expect("a connection");
    answer.clear();
    let mut bytes = [0; 8192];
    loop {
        let count = stream.read(&mut bytes).expect("an answer");
        assert!(count > 0, "the service has hung up");
        answer.extend_from_slice(&bytes[..count]);
        if let Some(body) = whole_body(answer) {
            return sum::of(body);
        }
    }
}

/// The body, once all of it is there.
fn whole_body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    (body.len() >= length).then_some(body)
}
