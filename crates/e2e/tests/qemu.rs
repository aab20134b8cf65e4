//! Promise: QEMU's own iSCSI driver writes at one site and reads the same bytes at the other.
//!
//! `-t none` throughout: with a cache or its allocation map a client may answer from memory what the other site has
//! changed.

use biplex_e2e::program;
use biplex_e2e::{Pair, Settings};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
fn qemu_io(url: &str, commands: &[&str]) -> String {
    let mut command = Command::new("qemu-io");
    command.args(["-t", "none", "-f", "raw"]);
    commands.iter().for_each(|line| {
        command.args(["-c", line]);
    });
    let said = program::run(command.arg(url), PATIENCE).expect_good();
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    said
}

#[track_caller]
fn qemu_img(arguments: &[&str]) {
    program::run(Command::new("qemu-img").args(arguments), PATIENCE).expect_good();
}

#[test]
fn what_qemu_writes_at_one_site_it_reads_at_the_other() {
    let mut pair = Pair::start(Settings { volume: "64MiB", journal: "256MiB", ..Settings::default() });
    let [a, b] = [0, 1].map(|index| pair.sites[index].url(""));
    qemu_io(&a, &["write -P 0xa1 0 1M", "write -P 0xa2 3M 64k", "write -P 0xa3 5000k 512"]);
    qemu_io(&b, &["read -P 0xa1 0 1M", "read -P 0xa2 3M 64k", "read -P 0xa3 5000k 512"]);
    qemu_io(&b, &["write -P 0xb1 512k 1M", "write -z 3M 32k"]);
    qemu_io(
        &a,
        &["read -P 0xa1 0 512k", "read -P 0xb1 512k 1M", "read -P 0 3M 32k", "read -P 0xa2 3104k 32k"],
    );
    let compare = ["compare", "-T", "none", "-f", "raw", "-F", "raw", &a, &b];
    qemu_img(&compare);

    // A whole image onto site a; site b has it, in memory, in the journal or on its store.
    let image = pair.directory().join("image.raw");
    let content: Vec<u8> = (0..64u64 << 17).flat_map(|word| (word * 0x9e37_79b9).to_le_bytes()).collect();
    std::fs::write(&image, content).expect("an image can be written");
    let image = image.display().to_string();
    qemu_img(&["convert", "-n", "-t", "none", "-f", "raw", "-O", "raw", &image, &a]);
    qemu_img(&["compare", "-T", "none", "-f", "raw", "-F", "raw", &image, &b]);
    pair.wait_destaged();
    qemu_img(&compare);
    pair.stop();
    pair.assert_stores_equal();
    for site in &pair.sites {
        let store = site.store().display().to_string();
        qemu_img(&["compare", "-f", "raw", "-F", "raw", &image, &store]);
    }
}
