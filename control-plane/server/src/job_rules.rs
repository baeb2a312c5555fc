//! What a job spec may say. Every wrong field is named by its JSON pointer, all at once.

use std::collections::BTreeSet;

use gristmill_protocol::{
    ErrorCode, FieldError, JobSpec, Limits,
    input_place::{InputPlace, place_faults},
    job::InputSpec,
    limits::{INLINE_BYTES_MAX, SlotSize},
    units::format_bytes,
};

use crate::{
    error::ApiError,
    names::{check_labels, check_name},
};

const ARGS_MAX: usize = 4_096;
const ENV_MAX: usize = 1_024;
const WORDS_BYTES_MAX: usize = 256 << 10;
const INPUTS_MAX: usize = 1_000;
const SUCCESS_EXIT_CODES_MAX: usize = 256;
const RETRIES_MAX: u32 = 100;
const PRIORITY_MAX: i32 = 100;
const WAIT_MS_MAX: u64 = 10 * 365 * 24 * 3_600_000;
/// Where the guest finds the job's params.
pub(crate) const PARAMS_PATH: &str = "/in/params.json";

/// Collects what is wrong.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    fn check(&mut self, holds: bool, pointer: &str, detail: &str) {
        if !holds {
            self.add(pointer, detail);
        }
    }

    fn take(&mut self, result: Result<(), ApiError>) {
        if let Err(error) = result {
            self.0.extend(error.errors);
        }
    }
}

/// Escapes a key for a JSON pointer (RFC 6901).
pub(crate) fn pointer_part(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Checks all of a spec that can be checked without looking anything up, and fills in the limits.
/// Fails with `invalid_request`, naming every wrong field.
pub(crate) fn check_spec(spec: &JobSpec, slot: SlotSize) -> Result<Limits, ApiError> {
    let mut faults = Faults::default();
    faults.check(
        !spec.module.is_empty() && spec.module.len() <= 512,
        "/module",
        "must name a module: NAME, NAME@VERSION, OWNER:NAME[@VERSION] or sha256:…",
    );
    check_words(spec, &mut faults);
    check_inputs(spec, &mut faults);
    check_policy(spec, &mut faults);
    let limits = spec.limits.resolve(slot);
    for problem in limits.as_ref().err().into_iter().flatten() {
        faults.add(format!("/limits/{}", problem.field), problem.rule());
    }
    match (limits, faults.0) {
        (Ok(limits), faults) if faults.is_empty() => Ok(limits),
        (_, faults) => Err(invalid(faults)),
    }
}

/// `invalid_request` about several fields.
pub(crate) fn invalid(faults: Vec<FieldError>) -> ApiError {
    let detail = match faults.as_slice() {
        [only] => format!("{} {}", only.pointer, only.detail),
        several => format!("{} fields are wrong, the first is {}", several.len(), several[0].pointer),
    };
    let mut error = ApiError::new(ErrorCode::InvalidRequest, detail);
    error.errors = faults;
    error
}

fn check_words(spec: &JobSpec, faults: &mut Faults) {
    let args: usize = spec.args.iter().map(String::len).sum();
    faults.check(spec.args.len() <= ARGS_MAX, "/args", "must be at most 4,096 arguments");
    faults.check(args <= WORDS_BYTES_MAX, "/args", "must be at most 256 KiB in all");
    for (index, arg) in spec.args.iter().enumerate() {
        if arg.contains('\0') {
            faults.add(format!("/args/{index}"), "must not hold a zero byte");
        }
    }
    let env: usize = spec.env.iter().map(|(name, value)| name.len() + value.len()).sum();
    faults.check(spec.env.len() <= ENV_MAX, "/env", "must be at most 1,024 variables");
    faults.check(env <= WORDS_BYTES_MAX, "/env", "must be at most 256 KiB in all");
    for (name, value) in &spec.env {
        let pointer = format!("/env/{}", pointer_part(name));
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            faults.add(pointer, "names must not be empty or hold =, and nothing may hold a zero byte");
        } else if name.starts_with("GRISTMILL_") {
            faults.add(pointer, "names starting with GRISTMILL_ are reserved");
        }
    }
    if let Some(params) = &spec.params {
        let size = serde_json::to_vec(params).map_or(usize::MAX, |text| text.len());
        if size > INLINE_BYTES_MAX {
            faults.add("/params", format!("must be at most {}", format_bytes(INLINE_BYTES_MAX as u64)));
        }
    }
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\0'])
}

fn check_inputs(spec: &JobSpec, faults: &mut Faults) {
    faults.check(spec.inputs.len() <= INPUTS_MAX, "/inputs", "must be at most 1,000 inputs");
    let guest_paths: Vec<_> = spec.inputs.iter().map(InputSpec::guest_path).collect();
    let places: Vec<_> =
        spec.inputs.iter().zip(&guest_paths).map(|(input, path)| InputPlace::of(input, path)).collect();
    let misplaced = place_faults(&places);
    let mut paths = BTreeSet::new();
    for (index, (input, path)) in spec.inputs.iter().zip(&guest_paths).enumerate() {
        let misplaced = misplaced.iter().find(|fault| fault.index == index);
        let fault = if !input.name.starts_with('/') && !is_file_name(&input.name) {
            Some("must be a plain file name of at most 255 bytes, or an absolute guest path")
        } else if path == PARAMS_PATH {
            Some("is reserved for the job's params")
        } else if let Some(misplaced) = misplaced {
            Some(misplaced.fault)
        } else {
            (!paths.insert(path.as_str())).then_some("is there twice")
        };
        if let Some(fault) = fault {
            faults.add(format!("/inputs/{index}/name"), fault);
        }
    }
    if spec.params.is_some() {
        paths.insert(PARAMS_PATH);
    }
    for path in &paths {
        let outer = path.match_indices('/').find_map(|(at, _)| paths.get(&path[..at]));
        if let Some(outer) = outer {
            faults.add("/inputs", format!("{path} lies within another input, {outer}"));
        }
    }
}

fn check_policy(spec: &JobSpec, faults: &mut Faults) {
    faults.check(spec.retries <= RETRIES_MAX, "/retries", "must be from 0 to 100");
    faults.check(
        (-PRIORITY_MAX..=PRIORITY_MAX).contains(&spec.priority),
        "/priority",
        "must be from -100 to 100",
    );
    faults.check(
        spec.success_exit_codes.len() <= SUCCESS_EXIT_CODES_MAX,
        "/success_exit_codes",
        "must be at most 256 codes",
    );
    faults.take(check_labels("/labels", &spec.labels));
    if let Some(zone) = &spec.zone {
        faults.take(check_name("/zone", zone));
    }
    for (pointer, wait) in [("/queue_timeout_ms", spec.queue_timeout_ms), ("/deadline_ms", spec.deadline_ms)]
    {
        faults.check(
            wait.is_none_or(|ms| (1..=WAIT_MS_MAX).contains(&ms)),
            pointer,
            "must be from 1 millisecond to 10 years",
        );
    }
}

/// Checks that a params schema is a JSON Schema that needs no other document. Fails with
/// `module_invalid`.
pub(crate) fn check_params_schema(schema: &serde_json::Value) -> Result<(), ApiError> {
    match jsonschema::validator_for(schema) {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::new(
            ErrorCode::ModuleInvalid,
            format!("the params schema is not a JSON Schema: {error}"),
        )
        .with_hint("give a self-contained JSON Schema of at most 64 KiB, without references to the net")),
    }
}

/// Checks the params against the module's JSON Schema. References to other documents are not
/// followed, and patterns take linear time.
pub(crate) fn check_params(
    schema: &serde_json::Value,
    params: Option<&serde_json::Value>,
) -> Result<(), ApiError> {
    let validator = jsonschema::options()
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .build(schema)
        .map_err(|error| {
            ApiError::field("/module", format!("the module's params schema cannot be used: {error}"))
                .with_hint("the publisher has to correct the schema in a new version")
        })?;
    let nothing = serde_json::json!({});
    let faults: Vec<_> = validator
        .iter_errors(params.unwrap_or(&nothing))
        .take(20)
        .map(|error| FieldError {
            pointer: format!("/params{}", error.instance_path()),
            detail: error.to_string().chars().take(500).collect(),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(invalid(faults)) }
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::{
        Digest,
        job::{BlobSource, InputKind, InputMode},
    };

    use super::*;

    fn input(name: &str) -> InputSpec {
        InputSpec {
            name: name.into(),
            source: BlobSource::Digest(Digest::from_bytes([1; 32])),
            kind: InputKind::File,
            mode: InputMode::Ro,
        }
    }

    fn pointers(spec: &JobSpec) -> Vec<String> {
        match check_spec(spec, SlotSize::default()) {
            Ok(_) => Vec::new(),
            Err(error) => error.errors.into_iter().map(|fault| fault.pointer).collect(),
        }
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut spec = JobSpec { retries: 101, priority: 101, zone: Some("No".into()), ..JobSpec::default() };
        spec.env.insert("GRISTMILL_JOB_ID".into(), "x".into());
        spec.limits.wall_time_ms = Some(0);
        spec.deadline_ms = Some(0);
        assert_eq!(
            pointers(&spec),
            [
                "/module",
                "/env/GRISTMILL_JOB_ID",
                "/retries",
                "/priority",
                "/zone",
                "/deadline_ms",
                "/limits/wall_time_ms"
            ]
        );
    }

    #[test]
    fn a_params_schema_that_is_none_or_needs_the_net_is_refused() {
        check_params_schema(&serde_json::json!({"type": "object"})).expect("a schema");
        for schema in
            [serde_json::json!({"type": 7}), serde_json::json!({"$ref": "https://example.org/schema.json"})]
        {
            let error = check_params_schema(&schema).expect_err("refused");
            assert_eq!(error.code, ErrorCode::ModuleInvalid);
            assert!(error.detail.contains("is not a JSON Schema"), "{error}");
        }
    }

    #[test]
    fn mounts_that_would_hide_the_guests_own_places_are_refused() {
        for bad in [
            "/",
            "/in",
            "/out",
            "/tmp",
            "/out/a",
            "/a/../b",
            "//a",
            "/a/",
            "a/b",
            "",
            ".",
            "..",
            "params.json",
        ] {
            let spec = JobSpec { module: "m".into(), inputs: vec![input(bad)], ..JobSpec::default() };
            assert_eq!(pointers(&spec), ["/inputs/0/name"], "{bad}");
        }
        for good in ["a.csv", "/share/data", "/work/x", "/tmp/x/y"] {
            let spec = JobSpec { module: "m".into(), inputs: vec![input(good)], ..JobSpec::default() };
            assert_eq!(pointers(&spec), Vec::<String>::new(), "{good}");
        }
        let nested = JobSpec {
            module: "m".into(),
            inputs: ["/a/share", "/a/share-x", "/a/share/x", "/a/share"].map(input).into(),
            ..JobSpec::default()
        };
        assert_eq!(pointers(&nested), ["/inputs/3/name", "/inputs"]);
        let under_params = JobSpec {
            module: "m".into(),
            params: Some(serde_json::json!({})),
            inputs: vec![input("/in/params.json/x")],
            ..JobSpec::default()
        };
        assert_eq!(pointers(&under_params), ["/inputs"]);
    }

    #[test]
    fn an_input_is_refused_where_its_mode_could_not_be_kept() {
        let with = |name: &str, kind, mode| {
            let input = InputSpec { kind, mode, ..input(name) };
            pointers(&JobSpec { module: "m".into(), inputs: vec![input], ..JobSpec::default() })
        };
        for name in ["/data.txt", "/tmp/data.txt"] {
            assert_eq!(with(name, InputKind::File, InputMode::Ro), ["/inputs/0/name"], "{name}");
            assert_eq!(with(name, InputKind::File, InputMode::Rw), Vec::<String>::new(), "{name}");
            assert_eq!(with(name, InputKind::Tree, InputMode::Ro), Vec::<String>::new(), "{name}");
        }
        assert_eq!(with("b", InputKind::File, InputMode::Rw), ["/inputs/0/name"]);
        assert_eq!(with("/in/b", InputKind::Tree, InputMode::Rw), ["/inputs/0/name"]);
        let writable = InputSpec { mode: InputMode::Rw, ..input("/d/b") };
        let mixed =
            JobSpec { module: "m".into(), inputs: vec![input("/d/a"), writable], ..JobSpec::default() };
        assert_eq!(pointers(&mixed), ["/inputs/1/name"], "one directory has one mode");
    }

    #[test]
    fn a_priority_without_an_opposite_is_out_of_range() {
        let spec = JobSpec { module: "m".into(), priority: i32::MIN, ..JobSpec::default() };
        assert_eq!(pointers(&spec), ["/priority"]);
    }

    #[test]
    fn params_are_checked_against_the_schema_and_the_wrong_place_is_named() {
        let schema = serde_json::json!({
            "type": "object", "required": ["top"], "properties": {"top": {"type": "integer"}}
        });
        let check = |params: serde_json::Value| {
            check_params(&schema, Some(&params)).map_err(|error| error.errors[0].pointer.clone())
        };
        assert_eq!(check(serde_json::json!({"top": 3})), Ok(()));
        assert_eq!(check(serde_json::json!({"top": "3"})), Err("/params/top".into()));
        assert!(check_params(&schema, None).is_err());
        let remote = serde_json::json!({"$ref": "http://127.0.0.1:1/schema"});
        assert!(check_params(&remote, None).is_err());
    }
}
