//! Promise: hosts that know nothing of Biplex find a plain SCSI disk at either site, the same one at both.
//!
//! libiscsi's own tools and its test suite, test by test, at site a, at site b, and over both as two paths; once more
//! with CHAP. The tests of what this release leaves out (EXTENDED COPY, ORWRITE, SANITIZE, …) skip themselves
//! on 5/20/00, and those that want removable media; what is skipped is printed.

use biplex_e2e::libiscsi::{Verdict, run, tests};
use biplex_e2e::pair::TARGET;
use biplex_e2e::program::{self, Ended};
use biplex_e2e::{Pair, Settings, Site};
use std::process::Command;
use std::time::Duration;

const TOOL_PATIENCE: Duration = Duration::from_secs(20);

/// Settings under which the suite's large writes do not have to wait for destage.
fn roomy() -> Settings {
    Settings { journal: "512MiB", volume: "128MiB", ..Settings::default() }
}

fn tool(name: &str, arguments: &[&str]) -> Ended {
    program::run(Command::new(name).args(arguments), TOOL_PATIENCE)
}

/// Runs the family's tests that `wanted` picks; panics with the words of all that failed.
fn run_all(family: &str, wanted: impl Fn(&str) -> bool, urls: &[&str]) {
    let names: Vec<String> = tests(family).into_iter().filter(|name| wanted(name)).collect();
    assert!(!names.is_empty(), "family {family} has such tests");
    let (mut passed, mut skipped, mut failed) = (0, Vec::new(), Vec::new());
    for name in &names {
        match run(family, name, urls) {
            Verdict::Passed => passed += 1,
            Verdict::Skipped(why) => skipped.push(format!("{name}: {why}")),
            Verdict::Excused(why) => skipped.push(format!("{name}: excused: {why}")),
            Verdict::Failed(words) => failed.push(format!("{family}.{name}\n{words}")),
        }
    }
    println!(
        "{urls:?}: {passed} passed, {} skipped, {} failed of {}",
        skipped.len(),
        failed.len(),
        names.len()
    );
    skipped.iter().for_each(|line| println!("  skipped {line}"));
    assert!(failed.is_empty(), "{} tests failed at {urls:?}:\n{}", failed.len(), failed.join("\n"));
}

/// All families but the one that wants two paths.
fn one_path(name: &str) -> bool {
    !name.starts_with("MultipathIO.")
}

#[test]
fn every_test_of_libiscsi_passes_at_site_a() {
    let pair = Pair::start(roomy());
    run_all("ALL", one_path, &[&pair.sites[0].url("")]);
}

#[test]
fn every_test_of_libiscsi_passes_at_site_b() {
    let pair = Pair::start(roomy());
    run_all("ALL", one_path, &[&pair.sites[1].url("")]);
}

#[test]
fn both_sites_are_two_paths_to_one_unit() {
    // A pair for each order: MultipathIO.CompareAndWrite takes block 256 for zero, and leaves it otherwise.
    for order in [[0, 1], [1, 0]] {
        let pair = Pair::start(roomy());
        let [first, second] = order.map(|index| pair.sites[index].url(""));
        run_all("ALL", |name| !one_path(name), &[&first, &second]);
    }
}

#[test]
fn hosts_that_prove_themselves_are_served_like_others() {
    let chap = "chap = { user = \"host\", secret = \"twelve-secret\" }";
    let pair = Pair::start(Settings { chap, ..roomy() });
    for site in &pair.sites {
        let url = site.url("host%twelve-secret");
        run_all("ALL", |name| name.starts_with("Read16.") || name.starts_with("iSCSI"), &[&url]);
        tool("iscsi-inq", &[&url]).expect_good();
        assert!(!tool("iscsi-inq", &[&site.url("host%twelve-mistake")]).good());
        assert!(!tool("iscsi-inq", &[&site.url("")]).good());
    }
}

/// Designators of the unit, and those of the port and its target.
fn identity(site: &Site) -> (Vec<String>, Vec<String>) {
    let pages = tool("iscsi-inq", &["-e", "1", "-c", "131", &site.url("")]).expect_good();
    let (mut unit, mut port) = (Vec::new(), Vec::new());
    for descriptor in pages.split("DEVICE DESIGNATOR").skip(1) {
        let of_unit = descriptor.contains("Association:(0)");
        if of_unit { &mut unit } else { &mut port }.push(descriptor.trim().to_owned());
    }
    (unit, port)
}

#[test]
fn discovery_and_identity_tell_of_one_unit_with_two_ports() {
    let pair = Pair::start(Settings::default());
    for site in &pair.sites {
        let portal = format!("iscsi://{}", site.iscsi);
        let listed = tool("iscsi-ls", &["-s", &portal]).expect_good();
        assert!(listed.contains(TARGET), "{listed}");
        assert!(listed.contains("Lun:0"), "{listed}");
        let capacity = tool("iscsi-readcapacity16", &[&site.url("")]).expect_good();
        assert!(capacity.contains(&(32u64 << 20).to_string()), "{capacity}");
    }
    let standard = [0, 1].map(|index| tool("iscsi-inq", &[&pair.sites[index].url("")]).expect_good());
    assert_eq!(standard[0], standard[1]);
    let serial = [0, 1]
        .map(|index| tool("iscsi-inq", &["-e", "1", "-c", "128", &pair.sites[index].url("")]).expect_good());
    assert_eq!(serial[0], serial[1]);
    let [(unit_a, port_a), (unit_b, port_b)] = [0, 1].map(|index| identity(&pair.sites[index]));
    assert!(!unit_a.is_empty());
    assert_eq!(unit_a, unit_b);
    assert!(!port_a.is_empty());
    assert_ne!(port_a, port_b);
}
