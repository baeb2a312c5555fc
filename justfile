# Shortcuts; `just` lists them. CI runs .ci/run.

_list:
    @just --list

# Run the example of the README
example:
    cargo run --release -- run examples/csv-summary.wasm --in data.csv=examples/simulations.csv --out summary

# Set up what the tests need and run all of them, or those named
test *names:
    tests/run {{names}}

# Format, lints, licences, README commands, all tests
ci:
    .ci/run

# Fuzz what reads hostile bytes, so many seconds each
fuzz seconds="60":
    tests/fuzz {{seconds}}

# Rebuild the committed example module
guests:
    examples/guests/build examples

# Durable jobs per second and latencies, against baselines of the same machine
bench:
    cargo run --release -- bench queue
