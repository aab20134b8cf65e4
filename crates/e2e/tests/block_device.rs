//! Promise (F.3): the backing store may be a block device, so md, LVM, ZFS or Ceph's kernel device serve; and two disks
//! that differ are never taken for one (shown on devices and on files alike).

use biplex_e2e::{Host, Pair, Settings};
use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: usize = 32 << 20;

/// A loop device; given back when dropped.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Loop {
        std::fs::write(file, vec![0; BYTES]).expect("a file for the device");
        let made =
            Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Loop(PathBuf::from(String::from_utf8_lossy(&made.stdout).trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("-d").arg(&self.0).status());
    }
}

fn small() -> Settings {
    Settings { volume: "32MiB", hold_time: "200ms", hold_every: "100ms", ..Settings::default() }
}

#[test]
fn a_block_device_at_one_site_and_a_file_at_the_other_end_equal() {
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED: this kernel has no loop devices");
        return;
    }
    let mut pair = Pair::make(small());
    let device = Loop::over(&pair.directory().join("disk.img"));
    let shown = device.0.display().to_string();
    pair.sites[0].edit_config(|text| text.replace("store = \"vol0.img\"", &format!("store = \"{shown}\"")));
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    for turn in 0..64u64 {
        let mut hosts = [0, 1].map(|index| Host::at(&pair.sites[index], "host"));
        hosts[(turn % 2) as usize].write(turn * 300, &vec![turn as u8 + 1; 512 * 400]);
    }
    pair.wait_converged();
    pair.wait_destaged();
    pair.stop();
    let (on_device, in_file) = (
        std::fs::read(&device.0).expect("the device"),
        std::fs::read(pair.sites[1].store()).expect("the file"),
    );
    assert_eq!(on_device.len(), BYTES);
    assert!(on_device.iter().any(|byte| *byte != 0), "something was destaged");
    assert!(on_device == in_file, "device and file differ");
}

#[test]
fn sites_whose_stores_differ_when_they_first_meet_do_not_pair() {
    let mut pair = Pair::make(small());
    let mut other = vec![0; BYTES];
    other[20 << 20] = 1;
    std::fs::write(pair.sites[1].store(), other).expect("a store that is there before");
    pair.sites.iter_mut().for_each(|site| site.start());
    for site in &pair.sites {
        site.wait_log(&["do not hold the same bytes", "copy the good site's stores"]);
    }
    assert!(!pair.sites[0].status().expect("a status").volumes[0].serving);
    // The remedy: equal stores, and they pair.
    pair.sites.iter_mut().for_each(|site| assert_eq!(site.stop(), Some(0)));
    std::fs::copy(pair.sites[1].store(), pair.sites[0].store()).expect("copied");
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    assert_eq!(Host::at(&pair.sites[0], "host").read((20 << 20) / 512, 1)[0], 1);
}
