//! The machine that was measured, in words.

use std::fs;
use std::process::Command;

use crate::peers;

/// Processor, memory, kernel and compiler.
pub(crate) fn describe() -> String {
    let memory = field("/proc/meminfo", "MemTotal").and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
    [
        format!(
            "{} × {}",
            std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned())
        ),
        format!("{} GiB", (memory.unwrap_or(0) + (1 << 19)) >> 20),
        format!("Linux {}", read("/proc/sys/kernel/osrelease")),
        format!("transparent huge pages {}", huge_pages()),
        compiler(),
        format!("mimalloc {}", peers::mimalloc_version()),
    ]
    .join(", ")
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The setting in brackets.
fn huge_pages() -> String {
    let text = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let setting =
        text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(setting, _)| setting.to_owned());
    setting.unwrap_or_else(|| "unknown".to_owned())
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("-V").output();
    output.map_or_else(
        |_| "unknown compiler".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
