//! Runs fio and reads its JSON.

use crate::error::BenchError;
use crate::system::Target;
use crate::workload::Workload;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// What fio saw of one job. Latencies are completion latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FioResult {
    /// Requests done.
    pub requests: f64,
    /// Requests per second.
    pub iops: f64,
    /// Bytes per second.
    pub bandwidth: f64,
    /// Mean latency.
    pub mean_us: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99 % are not slower.
    pub p99_us: f64,
    /// 99.9 % are not slower.
    pub p999_us: f64,
    /// None is slower.
    pub max_us: f64,
    /// CPU time of fio itself, in microseconds.
    pub cpu_us: f64,
}

/// Runs one job against a target for `seconds`.
///
/// # Errors
/// When fio fails, or reports an error, or prints what is not understood.
pub fn run(target: &Target, workload: &Workload, size: u64, seconds: u64) -> Result<FioResult, BenchError> {
    let mut command = base(target);
    command
        .args([format!("--rw={}", workload.fio_rw()), format!("--bs={}", workload.block_bytes), format!("--iodepth={}", workload.depth)])
        .args([format!("--size={}", workload.region_bytes.map_or(size, |region| region.min(size))), format!("--runtime={seconds}")])
        .args(["--time_based", "--rwmixread=70", "--norandommap", "--randrepeat=0", "--unified_rw_reporting=1"])
        .args(["--output-format=json", "--percentile_list=50:99:99.9"]);
    if let Some(rate) = workload.rate {
        command.arg(format!("--rate_iops={rate}"));
    }
    if workload.flush_each {
        command.arg("--fsync=1");
    }
    parse(&output(&mut command)?, workload)
}

/// Writes the whole target once, front to back, with data that does not repeat, and flushes it.
///
/// # Errors
/// When fio fails.
pub fn prefill(target: &Target, size: u64) -> Result<(), BenchError> {
    let mut command = base(target);
    command.args(["--rw=write", "--bs=1M", "--iodepth=4", "--refill_buffers", "--end_fsync=1"]).arg(format!("--size={size}"));
    output(&mut command).map(drop)
}

fn base(target: &Target) -> Command {
    let mut command = Command::new("fio");
    command.args(["--name=job", "--thread", "--group_reporting"]);
    match target {
        Target::File(path) => command.args(["--ioengine=io_uring", "--direct=1", &format!("--filename={}", path.display())]),
        Target::Nbd(uri) => command.args(["--ioengine=nbd", &format!("--uri={uri}")]),
    };
    command
}

fn output(command: &mut Command) -> Result<String, BenchError> {
    // fio drops a `local-…-verify.state` into its directory now and then: not into the user's.
    crate::daemon::run(command.current_dir(std::env::temp_dir()).stdin(Stdio::null()))
}

fn parse(text: &str, workload: &Workload) -> Result<FioResult, BenchError> {
    let start = text.find('{').ok_or_else(|| BenchError::parse("fio's output", text))?;
    let document: Value = serde_json::from_str(&text[start..]).map_err(|cause| BenchError::parse("fio's JSON", cause.to_string()))?;
    let job = &document["jobs"][0];
    if job["error"] != 0 {
        return Err(BenchError::Failed { program: format!("fio {}", workload.name), output: format!("error {}", job["error"]) });
    }
    let mixed = &job["mixed"];
    let number = |value: &Value, name: &str| value.as_f64().ok_or_else(|| BenchError::parse("fio's JSON", format!("{name} is {value}")));
    let percentile = |name: &str| number(&mixed["clat_ns"]["percentile"][name], name).map(|ns| ns / 1e3);
    let runtime_us = number(&job["job_runtime"], "job_runtime")? * 1e3;
    let result = FioResult {
        requests: number(&mixed["total_ios"], "total_ios")?,
        iops: number(&mixed["iops"], "iops")?,
        bandwidth: number(&mixed["bw_bytes"], "bw_bytes")?,
        mean_us: number(&mixed["clat_ns"]["mean"], "mean")? / 1e3,
        p50_us: percentile("50.000000")?,
        p99_us: percentile("99.000000")?,
        p999_us: percentile("99.900000")?,
        max_us: number(&mixed["clat_ns"]["max"], "max")? / 1e3,
        cpu_us: (number(&job["usr_cpu"], "usr_cpu")? + number(&job["sys_cpu"], "sys_cpu")?) / 100.0 * runtime_us,
    };
    if result.requests < 1.0 {
        return Err(BenchError::Failed { program: format!("fio {}", workload.name), output: "no request was completed".into() });
    }
    Ok(result)
}

/// fio's version, or that there is none.
#[must_use]
pub fn version() -> String {
    first_line(Path::new("fio"), "--version")
}

/// First line of what a program says of its version.
#[must_use]
pub fn first_line(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| format!("no {}", program.display()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    const SAMPLE: &str = r#"fio: connected to NBD server
{"fio version":"fio-3.33","jobs":[{"error":0,"job_runtime":1001,"usr_cpu":6.0,"sys_cpu":28.0,"mixed":{"iops":14648.7,"bw_bytes":60001085,
"total_ios":14678,"clat_ns":{"mean":2172634.18,"max":20170432,"percentile":{"50.000000":2146304,"99.000000":4947968,"99.900000":17170432}}}}]}"#;

    #[test]
    fn json_is_read_past_the_chatter_before_it() {
        let result = parse(SAMPLE, &WORKLOADS[0]).expect("well-formed");
        assert!((result.p50_us - 2146.304).abs() < 1e-6);
        assert!((result.cpu_us - 340_340.0).abs() < 1.0);
    }

    #[test]
    fn an_error_or_an_empty_job_is_no_result() {
        assert!(parse(&SAMPLE.replace("\"error\":0", "\"error\":5"), &WORKLOADS[0]).is_err());
        assert!(parse(&SAMPLE.replace("14678", "0"), &WORKLOADS[0]).is_err());
        assert!(parse("fio: nothing", &WORKLOADS[0]).is_err());
    }
}
