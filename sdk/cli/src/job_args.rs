//! What `run` and `job submit` share: the options that describe a job.

use std::{collections::BTreeMap, io::Read as _, path::Path, path::PathBuf, str::FromStr};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use gristmill_protocol::{
    JobSpec, LimitsSpec, Metering, OuterLimit, Reason,
    limits::{INLINE_BYTES_MAX, SlotSize},
    units::{format_bytes, parse_bytes, parse_duration_ms},
};

use crate::{
    failure::Failure,
    inputs::{InputArg, Takes, check_source},
    limit_texts::range_texts,
};

/// Params are read up to one byte more than a job may have.
const PARAMS_BYTES_READ: u64 = INLINE_BYTES_MAX as u64 + 1;
/// Longest time in the queue, or until the end: ten years.
const WAIT_MS_MAX: u64 = 315_360_000_000;

/// The options that describe a job.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// NAME[@VERSION], OWNER:NAME[@VERSION], sha256:DIGEST, or a local .wasm file
    #[arg(value_name = "MODULE")]
    pub(crate) module: String,
    /// Arguments of the program, after `--`
    #[arg(last = true, value_name = "ARG")]
    pub(crate) args: Vec<String>,
    /// File or directory seen at /in/NAME, or at NAME if it begins with `/`; `:rw` at the end gives a writable copy
    #[arg(long = "in", value_name = "NAME=PATH[:rw]")]
    pub(crate) inputs: Vec<InputArg>,
    /// JSON file that the program sees as /in/params.json
    #[arg(long, value_name = "FILE")]
    pub(crate) params: Option<PathBuf>,
    /// File that is the program's standard input (`-`: this command's own)
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// Environment variable of the program
    #[arg(long, value_name = "K=V", value_parser = parse_env)]
    pub(crate) env: Vec<(String, String)>,
    /// Give the program these variables alone, without GRISTMILL_* and TRACEPARENT
    #[arg(long)]
    pub(crate) bare_env: bool,

    /// Longest time from instantiation to the end, such as 5s or 2h
    #[arg(long, value_name = "D", value_parser = duration_ms, help_heading = "Limits and placement")]
    pub(crate) wall_time: Option<u64>,
    /// Instruction budget; one core-second is 10^10
    #[arg(long, value_name = "N", help_heading = "Limits and placement")]
    pub(crate) fuel: Option<u64>,
    /// Count fuel, or run faster without counting
    #[arg(long, value_name = "fuel|none", value_parser = from_str::<Metering>, help_heading = "Limits and placement")]
    pub(crate) metering: Option<Metering>,
    /// Memory, such as 256MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Limits and placement")]
    pub(crate) memory: Option<u64>,
    /// Cores, such as 1 or 0.5
    #[arg(long, value_name = "N", value_parser = cpus_milli, help_heading = "Limits and placement")]
    pub(crate) cpus: Option<u32>,
    /// Bytes in all files that the program can write
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Limits and placement")]
    pub(crate) disk: Option<u64>,
    /// Bytes of all outputs
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Limits and placement")]
    pub(crate) output_max: Option<u64>,
    /// Number of outputs
    #[arg(long, value_name = "N", help_heading = "Limits and placement")]
    pub(crate) output_files_max: Option<u64>,
    /// Bytes of standard output and standard error together
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Limits and placement")]
    pub(crate) log_max: Option<u64>,
    /// Exit codes beside 0 that mean success
    #[arg(
        long,
        value_name = "CODE,…",
        value_delimiter = ',',
        allow_negative_numbers = true,
        help_heading = "Limits and placement"
    )]
    pub(crate) success_exit: Vec<i32>,
    /// Longest time in the queue before the first start
    #[arg(long, value_name = "D", value_parser = wait_ms, help_heading = "Limits and placement")]
    pub(crate) queue_timeout: Option<u64>,
    /// Longest time from submit to the end
    #[arg(long, value_name = "D", value_parser = wait_ms, help_heading = "Limits and placement")]
    pub(crate) deadline: Option<u64>,
    /// Longest time that this command waits; the job goes on (exit code 5)
    #[arg(long, value_name = "D", value_parser = duration_ms, help_heading = "Limits and placement")]
    pub(crate) wait_timeout: Option<u64>,
    /// How often a failure that asks for it is tried again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100), help_heading = "Limits and placement")]
    pub(crate) retries: Option<u32>,
    /// Reasons beside exit code 75 that ask for a retry
    #[arg(long, value_name = "REASON,…", value_delimiter = ',', value_parser = from_str::<Reason>, help_heading = "Limits and placement")]
    pub(crate) retry_on: Vec<Reason>,
    /// Run only in this zone
    #[arg(long, value_name = "Z", help_heading = "Limits and placement")]
    pub(crate) zone: Option<String>,
    /// Run only on nodes with this label
    #[arg(long, value_name = "K=V", value_parser = parse_label, help_heading = "Limits and placement")]
    pub(crate) label: Vec<(String, String)>,
    /// Run only on nodes with this level of isolation or a stronger one
    #[arg(long, value_name = "LEVEL", value_parser = level(), help_heading = "Limits and placement")]
    pub(crate) isolation: Option<OuterLimit>,
    /// Higher runs first, -100 to 100
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-100..=100),
        help_heading = "Limits and placement"
    )]
    pub(crate) priority: Option<i32>,
    /// Fixed clocks, seeded random numbers, canonical NaNs: bit-identical outputs
    #[arg(long, help_heading = "Limits and placement")]
    pub(crate) reproducible: bool,
    /// Submitting twice with one key gives one job
    #[arg(long, value_name = "K", help_heading = "Limits and placement")]
    pub(crate) idempotency_key: Option<String>,
}

impl JobArgs {
    /// Refuses inputs and standard input that cannot be read to an end, before anything is sent.
    pub(crate) fn check_sources(&self) -> anyhow::Result<()> {
        for input in &self.inputs {
            check_source(&format!("--in {}=", input.name), &input.path, Takes::FileOrDirectory)?;
        }
        let stdin = self.stdin.as_deref().filter(|path| *path != Path::new("-"));
        stdin.map_or(Ok(()), |path| check_source("--stdin ", path, Takes::FileOrPipe))
    }

    /// The job without module, stdin and inputs, which may first have to be uploaded.
    pub(crate) fn spec(&self) -> anyhow::Result<JobSpec> {
        Ok(JobSpec {
            args: self.args.clone(),
            env: unique(&self.env, "--env")?,
            bare_env: self.bare_env,
            params: self.params.as_deref().map(read_params).transpose()?,
            limits: self.limits()?,
            retries: self.retries.unwrap_or(0),
            retry_on: self.retry_on.clone(),
            priority: self.priority.unwrap_or(0),
            labels: unique(&self.label, "--label")?,
            zone: self.zone.clone(),
            isolation: self.isolation,
            success_exit_codes: self.success_exit.clone(),
            queue_timeout_ms: self.queue_timeout,
            deadline_ms: self.deadline,
            reproducible: self.reproducible,
            traceparent: crate::environment::trace(),
            ..JobSpec::default()
        })
    }

    fn limits(&self) -> Result<LimitsSpec, Failure> {
        let limits = LimitsSpec {
            cpus_milli: self.cpus,
            memory_bytes: self.memory,
            wall_time_ms: self.wall_time,
            fuel: self.fuel,
            metering: self.metering,
            disk_bytes: self.disk,
            output_bytes: self.output_max,
            output_files: self.output_files_max,
            log_bytes: self.log_max,
            ..LimitsSpec::default()
        };
        // What the options leave out has defaults in range, whatever slot the server has.
        match limits.resolve(SlotSize::default()) {
            Ok(_) => Ok(limits),
            Err(problems) => Err(Failure::usage(range_texts(&problems))),
        }
    }

    /// The key given, or a fresh one that makes the tries of this one call one job.
    pub(crate) fn key(&self) -> String {
        self.idempotency_key.clone().unwrap_or_else(|| hex::encode(rand::random::<[u8; 16]>()))
    }
}

fn unique(pairs: &[(String, String)], option: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("{option} names {key} twice")));
        }
    }
    Ok(map)
}

fn read_params(path: &Path) -> anyhow::Result<serde_json::Value> {
    check_source("--params ", path, Takes::FileOrPipe)?;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PARAMS_BYTES_READ).read_to_end(&mut text))
        .map_err(|error| Failure::file(format!("--params: cannot read {}", path.display()), &error))?;
    if text.len() > INLINE_BYTES_MAX {
        let max = format_bytes(INLINE_BYTES_MAX as u64);
        let detail = format!("--params: {} is larger than {max}", path.display());
        return Err(Failure::local(detail).hint("give large data as an input").into());
    }
    let value = serde_json::from_slice(&text).map_err(|error| {
        Failure::local(format!("--params: {} is no JSON: {error}", path.display()))
            .hint("correct the file there; the module's schema is shown by `gristmill module get`")
    })?;
    Ok(value)
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    let (key, value) = pair(text).ok_or("write NAME=VALUE")?;
    if key.starts_with("GRISTMILL_") {
        return Err("names that begin with GRISTMILL_ are reserved".into());
    }
    Ok((key, value))
}

/// A label as `key=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    pair(text).ok_or_else(|| "write KEY=VALUE".into())
}

/// A size in bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// A duration in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    parse_duration_ms(text).map_err(|error| error.to_string())
}

/// A time for which a job may wait, in milliseconds.
fn wait_ms(text: &str) -> Result<u64, String> {
    let wait = duration_ms(text)?;
    if (1..=WAIT_MS_MAX).contains(&wait) { Ok(wait) } else { Err("must be from 1 ms to ten years".into()) }
}

/// Cores as thousandths.
pub(crate) fn cpus_milli(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not understood; write a number of cores such as 2 or 0.5");
    let cores: f64 = text.parse().map_err(|_| wrong())?;
    let milli = (cores * 1_000.0).round();
    if milli >= 1.0 && milli <= f64::from(u32::MAX) { Ok(milli as u32) } else { Err(wrong()) }
}

/// A level of isolation; the help names them all.
pub(crate) fn level() -> impl TypedValueParser<Value = OuterLimit> {
    PossibleValuesParser::new(OuterLimit::ALL.iter().map(|level| level.as_str()))
        .try_map(|text| text.parse::<OuterLimit>())
}

/// A word of one of the protocol's closed lists.
pub(crate) fn from_str<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        job: JobArgs,
    }

    fn parse(words: &[&str]) -> Result<JobArgs, clap::Error> {
        Line::try_parse_from([&["x", "m"], words].concat()).map(|line| line.job)
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let job = parse(&[
            "--wall-time",
            "5s",
            "--memory",
            "256MiB",
            "--cpus",
            "0.5",
            "--disk",
            "1GiB",
            "--output-max",
            "10",
            "--output-files-max",
            "7",
            "--log-max",
            "1KiB",
            "--metering",
            "none",
            "--success-exit",
            "10,20,-1",
            "--priority",
            "-5",
            "--label",
            "gpu=no",
            "--isolation",
            "cgroup_v1",
            "--retry-on",
            "trap,fuel_exhausted",
        ])
        .expect("a valid line");
        let spec = job.spec().expect("a valid job");
        assert_eq!(spec.limits.wall_time_ms, Some(5_000));
        assert_eq!(spec.limits.memory_bytes, Some(256 << 20));
        assert_eq!(spec.limits.cpus_milli, Some(500));
        assert_eq!((spec.limits.output_bytes, spec.limits.output_files), (Some(10), Some(7)));
        assert_eq!(spec.limits.metering, Some(Metering::None));
        assert_eq!(spec.success_exit_codes, [10, 20, -1]);
        assert_eq!((spec.priority, spec.retry_on.len()), (-5, 2));
        assert_eq!(spec.labels["gpu"], "no");
        assert_eq!(spec.isolation, Some(OuterLimit::CgroupV1));
        assert!(parse(&["--isolation", "cgroup_v3"]).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_named_by_its_option() {
        let refused = |words: &[&str]| {
            parse(words).expect("parses").spec().map_err(|error| error.to_string()).expect_err("out of range")
        };
        assert_eq!(refused(&["--wall-time", "0"]), "--wall-time must be from 1 ms to 30 days, not 0 ms");
        assert_eq!(
            refused(&["--cpus", "999", "--memory", "1"]),
            "--cpus must be from 0.01 to 256, not 999; --memory must be from 64.0 KiB to 8.0 GiB, not 1 B"
        );
        for words in
            [["--retries", "101"], ["--priority", "-101"], ["--deadline", "0"], ["--queue-timeout", "0ms"]]
        {
            let text = parse(&words).expect_err("out of range").to_string();
            assert!(text.contains(words[0]), "{text}");
        }
    }

    #[test]
    fn what_is_absent_is_left_to_the_server() {
        let spec = parse(&[]).expect("a valid line").spec().expect("a valid job");
        assert_eq!(spec, JobSpec::default());
    }

    #[test]
    fn reserved_and_repeated_names_are_refused() {
        assert!(parse(&["--env", "GRISTMILL_ZONE=x"]).is_err());
        assert!(parse(&["--env", "=x"]).is_err());
        let twice = parse(&["--env", "A=1", "--env", "A=2"]).expect("parses");
        assert!(twice.spec().is_err());
    }

    #[test]
    fn a_job_without_a_key_gets_a_fresh_one_for_each_call() {
        let job = parse(&[]).expect("a valid line");
        assert_ne!(job.key(), job.key());
        assert_eq!(parse(&["--idempotency-key", "k"]).expect("a valid line").key(), "k");
    }
}
