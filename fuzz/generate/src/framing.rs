//! Frames between a node and its children, each kind of message alone and some in a row.

use gristmill_channel::{
    AssignSpec, CompileReport, CompileSpec, Confinement, MountSpec, Order, Report, RunEnd, RunEvent, RunSpec,
    StopReason,
};
use gristmill_protocol::{
    LimitsSpec, Metering, Outcome, Reason, attempt::LogStream, limits::SlotSize, module::ModuleWorld,
};

fn run() -> RunSpec {
    RunSpec {
        label: "l".into(),
        code_key: "k".into(),
        world: ModuleWorld::WasiP1,
        program: "p".into(),
        args: vec!["a".into()],
        env: [("k".into(), "v".into())].into(),
        has_stdin: true,
        mounts: vec![MountSpec { guest_path: "/".into(), writable: true }],
        limits: LimitsSpec::default().resolve(SlotSize::default()).expect("the defaults are in range"),
        success_exit_codes: vec![10],
        reproducible: false,
    }
}

/// Names and bytes.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let compile = CompileSpec {
        world: ModuleWorld::WasiP2,
        metering: Metering::None,
        reproducible: true,
        time_ms: 1,
        memory_bytes: 2,
    };
    let assign = AssignSpec { readable: 2, writable: 1, ..AssignSpec::default() };
    let log = |stream, bytes: &[u8]| RunEvent::Log { stream, bytes: bytes.to_vec(), elapsed_us: 1 << 40 };
    let end = RunEnd { outcome: Outcome::failed(Reason::Trap, "x"), reusable: true };
    let orders = [
        ("assign", Order::Assign(assign.clone())),
        ("probe", Order::Probe(assign)),
        ("compile", Order::Compile(compile)),
        ("run", Order::Run(Box::new(run()))),
        ("stop", Order::Stop(StopReason::Deadline)),
    ];
    let reports = [
        ("probed", Report::Probed(Confinement { seccomp: true, landlock_abi: 7, own_uid: false })),
        ("compiled", Report::Compiled(CompileReport::Refused("why".into()))),
        ("started", Report::Event(RunEvent::Started)),
        ("stdout", Report::Event(log(LogStream::Stdout, b"\0\xff"))),
        ("stderr", Report::Event(log(LogStream::Stderr, b""))),
        ("truncated", Report::Event(RunEvent::LogTruncated)),
        ("end", Report::End(Box::new(end))),
        ("rested", Report::Rested(true)),
    ];
    let wires = orders.iter().map(|(name, order)| (*name, order.encode().expect("short")));
    let wires = wires.chain(reports.iter().map(|(name, report)| (*name, report.encode().expect("short"))));
    let mut seeds: Vec<_> = wires.map(|(name, wire)| (name, [&[7, 0], &wire[..]].concat())).collect();
    let row: Vec<u8> = seeds[7..].iter().flat_map(|(_, seed)| seed[2..].to_vec()).collect();
    seeds.push(("in_a_row", [&[9, 0], &row[..]].concat()));
    seeds
}
