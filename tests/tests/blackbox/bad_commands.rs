//! What an operator types wrong: a clear refusal, and nothing changed.

use crate::harness::cluster::Cluster;
use crate::harness::nbd::Client;
use crate::harness::tools::{refuse, run};

const MIB: u64 = 1 << 20;

#[test]
fn bad_names_and_sizes_are_refused_and_change_nothing() {
    let cluster = Cluster::start("bad-volumes", 64 * MIB, "disk", 16 * MIB);
    let before = run(&mut cluster.sdsctl(&["volume", "list"]), 60);
    let long = "n".repeat(64);
    for (name, size, says) in [
        ("", "16M", "name"),
        (long.as_str(), "16M", "63"),
        ("with space", "16M", "name"),
        ("slash/ed", "16M", "name"),
        ("ümlaut", "16M", "name"),
        ("-dash", "16M", ""),
        ("disk", "16M", "disk"),
        ("zero", "0", "size"),
        ("odd", "4097", "4096"),
        ("odd", "1000000", "4096"),
        ("large", "9223372036854775808", ""),
        ("large", "18446744073709551616", ""),
        ("large", "1e400", ""),
        ("large", "-5", ""),
        ("huge", "8E", ""),
        ("words", "sixteen", "size"),
    ] {
        let text = refuse(&mut cluster.sdsctl(&["volume", "create", name, "--size", size]), 60);
        assert!(text.to_lowercase().contains(says), "create {name:?} of {size}: {text}");
        assert!(!text.contains("panicked"), "create {name:?} of {size}: {text}");
    }
    for stripe in [["3000", "8"], ["128K", "0"], ["128K", "1025"], ["2M", "8"], ["0", "8"]] {
        let arguments = ["volume", "create", "striped", "--size", "16M", "--stripe-unit", stripe[0], "--stripe-width", stripe[1]];
        let text = refuse(&mut cluster.sdsctl(&arguments), 60);
        assert!(text.contains("stripe"), "{stripe:?}: {text}");
    }
    let text = refuse(&mut cluster.sdsctl(&["volume", "create", "pooled", "--size", "16M", "--pool", "nowhere"]), 60);
    assert!(text.contains("nowhere"), "{text}");
    for verb in ["show", "delete"] {
        let text = refuse(&mut cluster.sdsctl(&["volume", verb, "nothing"]), 60);
        assert!(text.contains("nothing"), "{text}");
    }
    assert_eq!(run(&mut cluster.sdsctl(&["volume", "list"]), 60), before);
}

#[test]
fn an_open_volume_is_not_deleted() {
    let cluster = Cluster::start("delete-open", 64 * MIB, "disk", 16 * MIB);
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    client.write(0, b"precious");
    let text = refuse(&mut cluster.sdsctl(&["volume", "delete", "disk"]), 60);
    assert!(text.contains("disk") && text.contains("open"), "{text}");
    assert_eq!(client.read(0, 8).expect("still there"), b"precious");
}

#[test]
fn an_api_that_does_not_answer_is_named() {
    let address = format!("127.0.0.1:{}", crate::harness::place::free_port());
    let mut command = std::process::Command::new(crate::harness::place::program("sdsctl"));
    let text = refuse(command.args(["--api", &address, "status"]), 60);
    assert!(text.contains(&address), "{text}");
}
