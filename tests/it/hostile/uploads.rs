//! Uploads whose numbers lie, at the real server.

use gristmill_tests::{cluster::TestCluster, guests};

/// What the server may grow by, whatever it is told: less than any room for what is claimed.
const FLAT_BYTES: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn h06_counts_that_overflow_are_refused_without_room_for_them() {
    let cluster = TestCluster::start().await;
    cluster.api.publish("noop", guests::noop()).await.expect("a module");
    let before = cluster.server.memory_peak_bytes();
    let section = |id: u8, content: &[u8]| [&[id, content.len() as u8], content].concat();
    let types = section(1, &[1, 0x60, 0, 0]);
    let largest = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let mut refused = Vec::new();
    // Of functions, of their bodies, of everything else; of the entries of one segment; and overlong ones.
    for id in [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13] {
        refused.extend([section(id, &largest), section(id, &[0x80; 11])]);
    }
    refused.push(section(9, &[&[1, 0, 0x41, 0, 0x0b], &largest[..]].concat()));
    refused.push([&[1][..], &largest].concat());
    for (number, content) in refused.into_iter().enumerate() {
        let wasm = [&b"\0asm\x01\0\0\0"[..], &types, &content].concat();
        let text = cluster.api.publish("evil", wasm).await.expect_err("no module").to_string();
        assert!(text.contains("422") && text.contains("module_invalid"), "{number}: {text}");
    }
    let after = cluster.server.memory_peak_bytes();
    assert!(before > 0 && after < before + FLAT_BYTES, "{before} bytes before, {after} after");
}
