//! The config's promises: the documented file is taken as it is; every mistake is told with its place and a remedy.

use super::*;
use biplex_site::Mode;
use proptest::prelude::*;

const VALID: &str = r#"site = "a"
state_dir = "/var/lib/biplex/a"

[clock]
max_offset = "500ms"

[hold]
time = "3m"
every = "1m"
table = "indexed"
memory = "256MiB"

[journal]
size = "1GiB"

[link]
listen = "127.0.0.1:7801"
peer = "127.0.0.1:7802"
tls = { cert = "a.pem", key = "a.key", ca = "pair.pem" }
lease = "2s"
wait = "8s"

[iscsi]
listen = "127.0.0.1:3260"
target = "iqn.2026-11.io.biplex:pair1"
chap = { user = "host", secret = "twelve chars and", mutual = { user = "biplex", secret = "another secret" } }

[admin]
socket = "/run/biplex/a.sock"

[[volume]]
name = "vol0"
lun = 0
size = "1GiB"
mode = "sync"
store = "/var/lib/biplex/a/vol0.img"
serial = "S-1"

[[volume]]
name = "vol1"
lun = 1
size = "64MiB"
mode = "flush"
store = "vol1.img"
"#;

fn parse(text: &str) -> Result<Config, Refused> {
    Config::parse(Path::new("/etc/biplex/a.toml"), text)
}

/// Parses the valid file with one text replaced, which must be refused; gives the message back.
fn refusal(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from}");
    parse(&VALID.replacen(from, to, 1)).expect_err(to).to_string()
}

#[test]
fn the_documented_file_means_what_it_says() {
    let config = parse(VALID).expect("valid");
    assert_eq!(config.site, SiteId::A);
    assert_eq!(config.hold_time, 180_000_000_000);
    assert_eq!(config.hold_every, 60_000_000_000);
    assert_eq!(config.hold_memory, 256 << 20);
    assert_eq!(config.journal_bytes, 1 << 30);
    assert_eq!(config.max_offset, 500_000_000);
    assert_eq!((config.lease, config.wait_max), (2_000_000_000, 8_000_000_000));
    let tls = config.tls.as_ref().expect("tls");
    assert_eq!(tls.cert, Path::new("/etc/biplex/a.pem"), "relative to the config file");
    assert_eq!(config.volumes[1].store, Path::new("/etc/biplex/vol1.img"));
    assert_eq!(config.volumes[0].rules, Rules::of(Mode::Sync));
    let site = config.site_config();
    assert_eq!(site.volumes[0].unit.blocks, 2 << 20);
    assert_eq!(site.volumes[0].unit.serial, "S-1");
    assert_eq!((site.port.group, site.port.relative), (1, 1));
    assert_eq!(site.chap.expect("chap").mutual.expect("mutual").0, "biplex");
}

#[test]
fn both_sites_give_a_volume_the_same_identity() {
    let a = parse(VALID).expect("valid").site_config();
    let b = parse(&VALID.replacen("site = \"a\"", "site = \"b\"", 1)).expect("valid").site_config();
    assert_eq!(a.pair, b.pair);
    for (at_a, at_b) in a.volumes.iter().zip(&b.volumes) {
        assert_eq!(at_a.unit, at_b.unit);
    }
    assert_ne!(a.port.group, b.port.group);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let text = VALID
        .replace("[clock]\nmax_offset = \"500ms\"\n", "")
        .replace("[journal]\nsize = \"1GiB\"\n", "")
        .replace("time = \"3m\"\nevery = \"1m\"\ntable = \"indexed\"\nmemory = \"256MiB\"\n", "")
        .replace("lease = \"2s\"\nwait = \"8s\"\n", "")
        .replace("[admin]\nsocket = \"/run/biplex/a.sock\"\n", "");
    let config = parse(&text).expect("valid");
    let mut full = parse(VALID).expect("valid");
    full.admin_socket = PathBuf::from("/var/lib/biplex/a/admin.sock");
    assert_eq!(config, full);
}

#[test]
fn every_mistake_is_told_with_line_column_and_remedy() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("site = \"a\"", "site = \"c\"", "a.toml:1:8: there is no site \"c\"", "site = \"b\""),
        ("\"500ms\"", "\"0ms\"", ":5:14: clock.max_offset is too small", "at least 1.0 ms"),
        ("\"500ms\"", "\"half\"", ":5:14: clock.max_offset: \"half\" is not a time", "500ms"),
        ("every = \"1m\"", "every = \"0\"", ":9:9: hold.every is too small", "at least"),
        ("\"indexed\"", "\"hash\"", ":10:9: there is no hold table \"hash\"", "plain"),
        ("\"256MiB\"", "\"256 megs\"", ":11:10: hold.memory: ", "256MiB"),
        ("\"1GiB\"", "\"63MiB\"", ":14:8: journal.size is too small: 63MiB", "64 MiB"),
        ("127.0.0.1:7801", "localhost", ":17:10: \"localhost\" is not an address to listen at", "port"),
        ("127.0.0.1:7802", "127.0.0.1", ":18:8: \"127.0.0.1\" is not an address to connect to", "port"),
        (
            "127.0.0.1:7802",
            "127.0.0.1:7801",
            ":18:8: link.peer is the address that this site itself",
            "other site",
        ),
        (
            "{ cert = \"a.pem\", key = \"a.key\", ca = \"pair.pem\" }",
            "\"no\"",
            ":19:7: link.tls cannot be",
            "\"off\"",
        ),
        ("{ cert = \"a.pem\", ", "{ ", ":19:7: missing field `cert`", "examples/site-a.toml"),
        ("cert = \"a.pem\"", "sert = \"a.pem\"", ":19:9: unknown field `sert`", "spelling"),
        ("wait = \"8s\"", "wait = \"1s\"", ":21:8: link.wait must be longer than link.lease", "8.0 s"),
        ("127.0.0.1:3260", "127.0.0.1:7801", ":24:10: link and iscsi cannot listen at the same", "3260"),
        (
            "iqn.2026-11.io.biplex:pair1",
            "iqn.2026-13.io:x",
            ":25:10: \"iqn.2026-13.io:x\" is not an iSCSI",
            "RFC",
        ),
        ("iqn.2026-11.io.biplex:pair1", "pair1", ":25:10: \"pair1\" is not an iSCSI name", "lower case"),
        (
            "twelve chars and",
            "short",
            ":26:34: a CHAP secret has 12 to 255 characters, this one has 5",
            "random",
        ),
        ("another secret", "twelve chars and", ":26:91: the mutual secret is the same", "two secrets"),
        ("[admin]", "[admn]", ":28:2: unknown field `admn`", "spelling"),
        ("name = \"vol0\"", "name = \"vol 0\"", ":32:8: \"vol 0\" is not a volume's name", "1 to 64"),
        ("lun = 0", "lun = 256", ":33:7: 256 is not a lun", "255"),
        ("lun = 0", "lun = \"0\"", ":33:7: invalid type: string \"0\"", "bare number"),
        ("lun = 1", "lun = 0", ":41:7: another volume (line 33) has the lun \"0\" already", "its own"),
        ("vol1\"", "vol0\"", ":40:8: another volume (line 32) has the name \"vol0\" already", "its own"),
        (
            "\"vol1.img\"",
            "\"/var/lib/biplex/a/vol0.img\"",
            ":44:9: another volume (line 36) has the store",
            "its own",
        ),
        ("\"64MiB\"", "\"1000B\"", ":42:8: volume.size is too small: 1000B", "4 KiB"),
        ("\"64MiB\"", "\"4097B\"", ":42:8: volume.size must be a multiple of 4096 bytes", "8192B"),
        ("\"64MiB\"", "\"2097152TiB\"", ":42:8: volume.size is too large", "TiB"),
        ("\"flush\"", "\"fast\"", ":43:8: there is no mode \"fast\"", "durable at both"),
        ("\"S-1\"", "\"S 1\"", ":37:10: \"S 1\" is not a serial number", "ASCII"),
        (
            "mode = \"flush\"",
            "mode = \"flush\"\nreserve_conflicting_writes = \"undo\"",
            ":44:30: reserve_conflicting_writes cannot be \"undo\"",
            "say \"keep\"",
        ),
        (
            "mode = \"sync\"",
            "mode = \"sync\"\nreserve_conflicting_writes = \"discard\"",
            ":36:30: reserve_conflicting_writes means nothing on a sync volume: a write that is done there",
            "remove the line, or say mode = \"async\"",
        ),
        (
            "mode = \"flush\"",
            "mode = \"flush\"\ncompare_and_write = \"yes\"",
            ":44:21: compare_and_write cannot be \"yes\"",
            "say \"refuse\", or \"allow\"",
        ),
        (
            "mode = \"sync\"",
            "mode = \"sync\"\ncompare_and_write = \"refuse\"",
            ":36:21: compare_and_write cannot be refused on a sync volume",
            "remove the line",
        ),
        ("[journal]", "[journal", ":13:", "TOML"),
    ];
    for (from, to, what, remedy) in cases {
        let message = refusal(from, to);
        assert!(message.contains(what), "{to}: {message}");
        let after = message.split_once("remedy: ").expect("a remedy").1;
        assert!(after.contains(remedy), "{to}: {message}");
    }
}

#[test]
fn a_volume_says_what_becomes_of_conflicting_writes_and_of_compare_and_write() {
    let flush = "mode = \"flush\"";
    let rules = |lines: &str| {
        let text = VALID.replacen(flush, &format!("{flush}\n{lines}"), 1);
        let config = parse(&text).expect(lines);
        (
            config.site_config().volumes[1].rules,
            summary::describe(&config),
            summary::risks(&config).join("\n"),
        )
    };
    let keeps = Rules::of(Mode::Flush);
    let (found, told, risks) = rules("");
    assert_eq!(found, keeps);
    assert!(told.contains("= \"keep\": a write") && told.contains("= \"refuse\": COMPARE"), "{told}");
    assert!(told.contains("COMPARE AND WRITE: served, in one step"), "of the sync volume: {told}");
    assert!(!risks.contains("reserve_conflicting_writes") && !risks.contains("compare_and_write"), "{risks}");
    let said = "reserve_conflicting_writes = \"keep\"\ncompare_and_write = \"refuse\"";
    assert_eq!(rules(said).0, keeps, "what is so anyway may be said");
    let (found, told, risks) =
        rules("reserve_conflicting_writes = \"discard\"\ncompare_and_write = \"allow\"");
    assert_eq!(found, Rules { mode: Mode::Flush, discard: true, swaps: true, disk: false });
    assert!(told.contains("undone at both") && told.contains("while the line stands"), "{told}");
    assert!(risks.contains("then undoes") && risks.contains("held twice"), "{risks}");
    let text = VALID.replacen("mode = \"sync\"", "mode = \"sync\"\ncompare_and_write = \"allow\"", 1);
    assert_eq!(parse(&text).expect("as it is").volumes[0].rules, Rules::of(Mode::Sync));
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let text = VALID.replace("lun = 1", "lun = 300").replace("site = \"a\"", "site = \"x\"");
    let refused = parse(&text).expect_err("two mistakes");
    assert_eq!(refused.mistakes.iter().map(|mistake| mistake.line).collect::<Vec<_>>(), [1, 41]);
}

#[test]
fn no_volume_and_long_socket_paths_are_refused() {
    let text = VALID.split("[[volume]]").next().expect("a part");
    assert!(parse(text).expect_err("no volume").to_string().contains("there is no volume"));
    let long = format!("/run/{}/a.sock", "x".repeat(120));
    assert!(refusal("/run/biplex/a.sock", &long).contains(":29:10: the path of the admin socket is"));
}

#[test]
fn tls_files_are_checked_when_a_file_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.toml");
    std::fs::write(&file, VALID).expect("written");
    let message = Config::load(&file).expect_err("no keys").to_string();
    assert!(message.contains("a.toml:19:7: ") && message.contains("biplex keys"), "{message}");
    crate::keys::make(directory.path()).expect("keys");
    Config::load(&file).expect("keys fit");
    std::fs::write(&file, VALID.replacen("site = \"a\"", "site = \"b\"", 1)).expect("written");
    let message = Config::load(&file).expect_err("site a's keys").to_string();
    assert!(message.contains("site-b.biplex"), "{message}");
}

#[test]
fn examples_are_valid_fit_each_other_and_are_described() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let a = Config::load(&examples.join("site-a.toml")).expect("site a");
    let b = Config::load(&examples.join("site-b.toml")).expect("site b");
    assert_eq!((a.site, b.site), (SiteId::A, SiteId::B));
    assert_eq!(a.link_peer, b.link_listen.to_string());
    assert_eq!(b.link_peer, a.link_listen.to_string());
    assert_ne!(a.iscsi_listen, b.iscsi_listen);
    assert_eq!(a.site_config().pair, b.site_config().pair);
    for (at_a, at_b) in a.site_config().volumes.iter().zip(&b.site_config().volumes) {
        assert_eq!(at_a, at_b);
    }
    let text = summary::describe(&a);
    assert!(text.contains("this journal sustains about"), "{text}");
}

#[test]
fn the_sustained_rate_is_the_share_of_the_journal_over_the_time_that_writes_stay() {
    let config = parse(VALID).expect("valid");
    let usable = biplex_store::Layout::for_bytes(1 << 30).expect("large enough").usable_bytes();
    let expected = usable as f64 / 240.0;
    assert!((summary::sustained_rate(&config) - expected).abs() < 1.0);
}

proptest! {
    #[test]
    fn no_mutation_of_a_valid_file_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..8),
    ) {
        let mut bytes = VALID.as_bytes().to_vec();
        for (place, byte, kind) in edits {
            // Earlier edits may have left nothing.
            let at = place.index(bytes.len().max(1));
            match kind {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if let Err(refused) = parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(!refused.mistakes.is_empty());
            prop_assert!(refused.mistakes.iter().all(|mistake| mistake.line > 0 && !mistake.remedy.is_empty()));
        }
    }
}

#[test]
fn files_of_the_site_are_never_taken_for_one_another() {
    let store = "store = \"/var/lib/biplex/a/vol0.img\"";
    for own in ["journal", "journal.new", "lock", "../a/journal", "./lock"] {
        let told = refusal(store, &format!("store = \"/var/lib/biplex/a/{own}\""));
        assert!(told.contains("/etc/biplex/a.toml:36:9: ") && told.contains("remedy: name a file"), "{told}");
    }
    let told = refusal(store, "store = \"/run/biplex/a.sock\"");
    assert!(told.contains("is the admin socket"), "{told}");
    let told = refusal(store, "store = \"/etc/biplex/../biplex/vol1.img\"");
    assert!(told.contains("has the store"), "{told}");
    let told = refusal("/run/biplex/a.sock", "/var/lib/biplex/a/journal");
    assert!(told.contains("/etc/biplex/a.toml:29:10: the admin socket would take the place"), "{told}");
}

#[test]
fn times_beyond_a_year_and_what_no_initiator_can_send_are_refused() {
    for (from, to) in [("lease = \"2s\"", "lease = \"2500000h\""), ("every = \"1m\"", "every = \"8761h\"")] {
        let told = refusal(from, to);
        assert!(told.contains("too large") && told.contains("at most 8760h"), "{told}");
    }
    let told = refusal("user = \"host\"", "user = \"ho\\u0000st\"");
    assert!(told.contains("control character"), "{told}");
    for bare in ["::1", "fd00::2"] {
        let told = refusal("127.0.0.1:7802", bare);
        assert!(told.contains("not an address to connect to") && told.contains("[fd00::2]:7801"), "{told}");
    }
}

#[test]
fn a_store_may_be_a_scsi_unit_and_only_such_a_one_keeps_reservations() {
    let url = r#"store = "iscsi://me%twelve-secret@10.0.0.9:3260/iqn.2026-11.example:array/1""#;
    let text = VALID.replacen(r#"store = "vol1.img""#, &format!("{url}\nreservations = \"disk\""), 1);
    let config = parse(&text).expect("valid");
    let volume = &config.volumes[1];
    assert_eq!(
        volume.store,
        Path::new("iscsi://10.0.0.9:3260/iqn.2026-11.example:array/1"),
        "no secret is shown"
    );
    assert_eq!(volume.unit.as_ref().map(|unit| unit.lun), Some(1));
    let site = config.site_config();
    assert!(!site.volumes[0].rules.disk && site.volumes[1].rules.disk);
    assert!(site.volumes[1].rules.disk && !site.volumes[0].rules.disk, "the peer must say the same");
    assert!(site.volumes[0].store.is_none() && site.volumes[1].store.is_some());
    assert!(!summary::describe(&config).contains("twelve-secret"));

    let said = refusal(r#"store = "vol1.img""#, r#"store = "iscsi://10.0.0.9/iqn.2026-11.example:array/1""#);
    assert!(said.contains(":44:9: this store is no iSCSI unit: the port is missing"), "{said}");
    assert!(said.contains("remedy: write iscsi://HOST:PORT/IQN/LUN"), "{said}");
    let said = refusal(r#"store = "vol1.img""#, "store = \"vol1.img\"\nreservations = \"disk\"");
    assert!(said.contains("needs a store that keeps reservations"), "{said}");
    let discard = format!("{url}\nreservations = \"disk\"\nreserve_conflicting_writes = \"discard\"");
    let text =
        VALID.replacen(r#"store = "vol1.img""#, &discard, 1).replace("mode = \"sync\"", "mode = \"async\"");
    let said = parse(&text).expect_err("discard means nothing there").to_string();
    assert!(said.contains("needs the pair's own reservations"), "{said}");
    let said = refusal(r#"store = "vol1.img""#, "store = \"vol1.img\"\nreservations = \"no\"");
    assert!(said.contains("reservations cannot be"), "{said}");
}
