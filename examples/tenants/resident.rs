//! What the system says is resident of this process.

use crate::run::Failure;

/// Bytes of anonymous memory that are resident now.
pub(crate) fn bytes() -> Result<usize, Failure> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or("no line `Anonymous:`")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}
