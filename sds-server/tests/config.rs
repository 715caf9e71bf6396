//! Configurations: the example is right, and every wrong one is told by key.

use sds_server::{ConfigError, FormatPolicy, NodeConfig, Size};

fn refused(text: &str) -> String {
    NodeConfig::from_toml(text).expect_err("refused").to_string()
}

#[test]
fn the_annotated_example_states_the_defaults() {
    let text = include_str!("../../docs/operating/sds.toml");
    let example = NodeConfig::from_toml(text).expect("a good example");
    let mut defaults = NodeConfig::new("/var/lib/sds");
    defaults.name.clone_from(&example.name);
    defaults.devices.push(sds_server::DeviceConfig::file("/var/lib/sds/device0", Size::new(64 << 30)));
    assert_eq!(example, defaults);
}

#[test]
fn an_empty_file_says_what_is_missing() {
    assert!(refused("").contains("state_dir"));
}

#[test]
fn wrong_keys_and_types_are_named() {
    for (text, words) in [
        ("state_dir = \"s\"\nlisen = \"127.0.0.1:1\"", vec!["lisen"]),
        ("state_dir = 5", vec!["state_dir", "string"]),
        ("state_dir = \"s\"\nlisten = \"nonsense\"", vec!["listen", "nonsense", "IP:PORT"]),
        ("state_dir = \"s\"\nmdm = []", vec!["mdm"]),
        ("state_dir = \"s\"\nmdm = [\"host\"]", vec!["mdm", "HOST:PORT"]),
        ("state_dir = \"s\"\nlisten = \"0.0.0.0:9710\"", vec!["advertise"]),
        ("state_dir = \"s\"\nmemory = \"1 MiB\"", vec!["memory", "32 MiB"]),
        ("state_dir = \"s\"\nmemory = \"lots\"", vec!["lots"]),
        ("state_dir = \"s\"\nname = \"two words\"", vec!["name"]),
        ("state_dir = \"s\"\nconnections_max = 0", vec!["connections_max"]),
        ("state_dir = \"s\"\n[[device]]\nsize = \"1G\"", vec!["path"]),
        ("state_dir = \"s\"\n[[device]]\npath = \"p\"\nsize = 4097", vec!["device[0].size", "4 KiB"]),
        ("state_dir = \"s\"\n[[device]]\npath = \"p\"\n[[device]]\npath = \"p\"", vec!["device[1].path", "twice"]),
        ("state_dir = \"s\"\n[[device]]\npath = \"p\"\nformat = \"yes\"", vec!["if-blank", "force"]),
        ("state_dir = \"s\"\n[[device]]\npath = \"p\"\ncolour = 1", vec!["colour"]),
    ] {
        let error = refused(text);
        for word in words {
            assert!(error.contains(word), "{text:?} gives {error:?}, which does not name {word:?}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = NodeConfig::from_file(std::path::Path::new("/nowhere/sds.toml")).expect_err("not there");
    assert!(matches!(error, ConfigError::Read { .. }) && error.to_string().contains("/nowhere/sds.toml"));
}

#[test]
fn sizes_are_read_and_printed() {
    for (text, bytes) in [("4096", 4096), ("1 KiB", 1024), ("16G", 16 << 30), ("2TiB", 2 << 40), (" 3 mb ", 3 << 20)] {
        assert_eq!(text.parse::<Size>().expect(text).bytes(), bytes, "{text}");
    }
    for text in ["", "G", "1.5G", "-1", "1 PiB", "99999999999999999999", "9223372036854775808", "8388608T"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
    assert_eq!(Size::new(64 << 30).to_string(), "64 GiB");
    assert_eq!(Size::new(5000).to_string(), "5000 bytes");
    assert_eq!(FormatPolicy::default(), FormatPolicy::IfBlank);
}
