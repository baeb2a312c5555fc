//! What is no command is refused when it is published, with its code.

use gristmill_tests::{cli::Home, cluster::TestCluster, guests};

use super::{run_at, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_refused_with_its_code_and_a_hint() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    let elf = b"\x7fELF\x02\x01\x01 no module at all".to_vec();
    let cases = [
        ("library", guests::library(), "module_no_entry"),
        ("exec", guests::imports_exec(), "import_not_allowed"),
        ("elf", elf, "module_invalid"),
        ("empty", Vec::new(), "module_invalid"),
        ("text", b"(module)".to_vec(), "module_invalid"),
        ("cut", guests::noop()[..20].to_vec(), "module_invalid"),
    ];
    for (name, wasm, code) in cases {
        let file = text(&home.file(&format!("{name}.wasm"), &wasm));
        let publish = ["module", "publish", &file, "--name", name, "--version", "1.0.0"];
        let ended = run_at(&cluster, &home, &cluster.api.url, &publish).expect_code(1);
        assert!(ended.stderr.contains(code), "{name}: {}", ended.stderr);
        let refused = cluster.api.publish(name, wasm).await.expect_err("it is no command").to_string();
        assert!(refused.contains("422") && refused.contains(code), "{name}: {refused}");
    }
    let listed = run_at(&cluster, &home, &cluster.api.url, &["module", "list", "--output", "json"]);
    assert!(!listed.expect_code(0).text().contains("library"), "a refused module is not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_version_never_changes() {
    let cluster = TestCluster::start().await;
    cluster.api.publish("fixed", guests::noop()).await.expect("the first time");
    cluster.api.publish("fixed", guests::noop()).await.expect("the same bytes again");
    let refused = cluster.api.publish("fixed", guests::cat()).await.expect_err("other bytes").to_string();
    assert!(refused.contains("409") && refused.contains("version_exists"), "{refused}");
}
