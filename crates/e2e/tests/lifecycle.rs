//! Promise: SIGTERM drains and ends with code 0, and the same state starts again with the data there. What must not be
//! started is refused in words that help: a second daemon on the same state, a mistaken config (file, line, remedy), a
//! damaged journal (segment and offset), a foreign or missing part of the state. A torn tail is cut off and starts.

use biplex_e2e::pair::{biplex, overwrite};
use biplex_e2e::program::Ended;
use biplex_e2e::{Host, Load, Pair, Settings, SiteName, wait_until};
use rustix::process::Signal;

/// Settings under which nothing is destaged while a test looks.
fn holding() -> Settings {
    Settings { hold_time: "10m", hold_every: "1s", journal: "128MiB", ..Settings::default() }
}

#[track_caller]
fn assert_refused(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code(), Some(code), "{ended}");
    for part in parts {
        assert!(ended.said().contains(part), "no \"{part}\" in:\n{ended}");
    }
}

#[test]
fn sigterm_drains_under_load_and_the_same_state_starts_again() {
    let mut pair = Pair::start(Settings { mode: "async", ..Settings::default() });
    let mut loads = Vec::new();
    for round in 0..3 {
        let running = Load::new(round).run(pair.sites[0].iscsi);
        wait_until("load", || if running.acknowledged() > 200 { Ok(()) } else { Err("little load".into()) });
        let victim = if round % 2 == 0 { SiteName::A } else { SiteName::B };
        assert_eq!(pair.site_mut(victim).stop(), Some(0));
        pair.site(victim).wait_log(&["INFO", "stopped"]);
        assert!(!pair.site(victim).socket.exists(), "the admin socket is left behind");
        pair.site_mut(victim).start();
        pair.wait_paired();
        let before = running.acknowledged();
        wait_until("load after the restart", || {
            if running.acknowledged() > before + 50 { Ok(()) } else { Err("no load".into()) }
        });
        loads.push(running.stop());
        pair.wait_converged();
        for site in &pair.sites {
            loads.iter().for_each(|load| load.verify(&mut Host::at(site, "verifier"), site.name.letter()));
        }
    }
    pair.wait_destaged();
    pair.stop();
    pair.assert_stores_equal();
}

#[test]
fn a_second_sigterm_ends_at_once_and_sigint_is_as_good_as_sigterm() {
    let mut pair = Pair::start(Settings::default());
    pair.sites[0].signal(Signal::INT);
    assert_eq!(pair.sites[0].wait_end().code(), Some(0));
    pair.sites[1].signal(Signal::TERM);
    pair.sites[1].signal(Signal::TERM);
    // One of them may find the daemon gone already.
    assert!(matches!(pair.sites[1].wait_end().code(), Some(0 | 1)));
}

#[test]
fn what_is_held_outlives_orderly_ends_of_both_sites() {
    let mut pair = Pair::start(holding());
    Host::at(&pair.sites[0], "host").write(100, &[0xaa; 8192]);
    Host::at(&pair.sites[1], "host").write(108, &[0xbb; 4096]);
    pair.wait_converged();
    pair.stop();
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    for site in &pair.sites {
        let status = site.status().expect("a status");
        assert!(status.volumes[0].records >= 2, "{status:?}");
        let data = Host::at(site, "host").read(100, 16);
        assert_eq!(data[..4096], [0xaa; 4096]);
        assert_eq!(data[4096..], [0xbb; 4096]);
    }
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let mut pair = Pair::start(Settings::default());
    let ended = pair.sites[0].start_refused();
    assert_refused(&ended, 1, &["in use by another biplex", "process", "state_dir"]);
    // The first one has not noticed.
    pair.wait_paired();
    Host::at(&pair.sites[0], "host").write(0, &[1; 512]);
    // Another state directory with the same store is refused for the store's sake.
    pair.sites[0].edit_config(|text| text.replace("state_dir = \"state\"", "state_dir = \"other\""));
    assert_refused(&pair.sites[0].start_refused(), 1, &["vol0", "in use by another biplex"]);
}

#[test]
fn config_mistakes_are_refused_with_file_line_and_remedy() {
    let pair = Pair::make(Settings::default());
    let site = &pair.sites[0];
    let good = std::fs::read_to_string(&site.config).expect("a config");
    let file = site.config.display().to_string();
    biplex(&["config", "check", &file]).expect_good();
    let mistakes = [
        ("mode = \"sync\"", "mode = \"fast\"", "there is no mode \"fast\""),
        ("every = \"200ms\"", "every = \"200\"", "unit"),
        ("size = \"64MiB\"", "size = \"1MiB\"", "64 MiB"),
        ("lun = 0", "lun = 0\nluns = 1", "unknown field"),
        ("wait = \"3s\"", "wait = \"500ms\"", "link.wait must be longer"),
        ("site = \"a\"", "site = \"c\"", "there is no site \"c\""),
        ("[iscsi]", "[iscsi", "TOML"),
        ("a.pem", "b.pem", "site-a.biplex"),
    ];
    for (right, wrong, words) in mistakes {
        assert!(good.contains(right), "{right}");
        let text = good.replacen(right, wrong, 1);
        std::fs::write(&site.config, &text).expect("a config can be written");
        let line = text.lines().position(|line| line.contains(wrong.lines().last().expect("a line")));
        let place = format!("{file}:{}:", line.expect("the mistake is there") + 1);
        for ended in [site.start_refused(), biplex(&["config", "check", &file])] {
            assert_refused(&ended, 2, &[&place, "remedy: ", words]);
        }
    }
    // All mistakes at once.
    let text = good.replace("mode = \"sync\"", "mode = \"fast\"").replace("site = \"a\"", "site = \"c\"");
    std::fs::write(&site.config, text).expect("a config can be written");
    assert_refused(&site.start_refused(), 2, &["no mode \"fast\"", "no site \"c\""]);
    assert!(!site.journal().exists(), "a refused config leaves nothing behind");
}

/// Offsets of groups as `biplex inspect --groups` tells them: (segment, offset), oldest first.
fn groups(journal: &str) -> Vec<(u64, u64)> {
    let told = biplex(&["inspect", "--groups", journal]).expect_good();
    let group = |line: &str| {
        let mut words = line.strip_prefix("group ")?.split_whitespace();
        let offset = words.nth(2)?.trim_end_matches(',').parse().ok()?;
        let segment = words.nth(1)?.trim_end_matches(',').parse().ok()?;
        Some((segment, offset))
    };
    told.lines().filter_map(group).collect()
}

#[test]
fn a_journal_damaged_in_the_middle_is_refused_with_segment_and_offset() {
    let mut pair = Pair::start(holding());
    let mut host = Host::at(&pair.sites[0], "host");
    for turn in 0..200u64 {
        host.write(turn * 64, &[turn as u8; 64 * 512]);
    }
    pair.stop();
    let site = &mut pair.sites[0];
    let path = site.journal();
    let journal = path.display().to_string();
    let groups = groups(&journal);
    assert!(groups.len() > 100, "{} groups", groups.len());
    let (segment, offset) = groups[groups.len() / 3];
    let at = offset + 4096 + 100;
    let whole = std::fs::read(&path).expect("a journal")[at as usize];
    overwrite(&path, at, &[whole ^ 1]);

    let (segment, offset) = (format!("segment {segment}"), format!("offset {offset}"));
    let refused = site.start_refused();
    assert_refused(&refused, 1, &["journal is damaged", &segment, &offset, "biplex inspect"]);
    let inspected = biplex(&["inspect", &journal]);
    assert_refused(&inspected, 1, &["DAMAGED", &segment, &offset]);

    // Nothing was changed by the refusal: with the bit put back the site starts, and has everything.
    overwrite(&path, at, &[whole]);
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    for site in &pair.sites {
        let mut host = Host::at(site, "host");
        for turn in 0..200u64 {
            assert!(host.read(turn * 64, 64).iter().all(|byte| *byte == turn as u8), "write {turn}");
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_the_peer_gives_back_what_was_lost() {
    let mut pair = Pair::start(holding());
    let path = pair.sites[0].journal();
    let journal = path.display().to_string();
    let mut load = Load::new(0);
    loop {
        let running = load.run(pair.sites[0].iscsi);
        wait_until("load", || if running.acknowledged() > 300 { Ok(()) } else { Err("little load".into()) });
        pair.sites[0].kill();
        load = running.stop();
        // Where a checkpoint alone was written after the last group, that one is known to have been durable.
        let told = biplex(&["inspect", "--groups", &journal]).expect_good();
        let last = told.lines().rfind(|line| line.starts_with("group ")).expect("groups");
        let number = last.split_whitespace().nth(1).expect("a group has a number");
        if !told.contains(&format!(", after group {number}:")) {
            break;
        }
        pair.sites[0].start();
        pair.wait_paired();
    }
    let (_, offset) = *groups(&journal).last().expect("groups");
    // The last group as a medium leaves it that lost power within the write: its later pages never came.
    overwrite(&path, offset + 512, &vec![0; 3584]);
    let told = biplex(&["inspect", &journal]).expect_good();
    assert!(told.contains("would be cut off"), "{told}");
    pair.sites[0].start();
    pair.wait_paired();
    pair.sites[0].wait_log(&["recovered", "cut off"]);
    for site in &pair.sites {
        load.verify(&mut Host::at(site, "verifier"), site.name.letter());
    }
    pair.stop();
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let mut pair = Pair::start(Settings::default());
    Host::at(&pair.sites[0], "host").write(0, &[1; 512]);
    pair.wait_destaged();
    pair.stop();
    let [a, b] = &pair.sites;
    // The other site's journal.
    let own = std::fs::read(a.journal()).expect("a journal");
    std::fs::copy(b.journal(), a.journal()).expect("a copy");
    assert_refused(&a.start_refused(), 1, &["belongs to site b", "state_dir"]);
    // A journal that is cut off.
    std::fs::write(a.journal(), &own[..own.len() / 2]).expect("written");
    assert_refused(&a.start_refused(), 1, &["cut off", "restore"]);
    // No journal at all.
    std::fs::write(a.journal(), vec![0; own.len()]).expect("written");
    assert_refused(&a.start_refused(), 1, &["journal"]);
    std::fs::write(a.journal(), &own).expect("written");
    // A store of another size, and none.
    let store = std::fs::read(a.store()).expect("a store");
    std::fs::write(a.store(), &store[..store.len() / 2]).expect("written");
    assert_refused(&a.start_refused(), 1, &["vol0", "correct the size"]);
    std::fs::remove_file(a.store()).expect("removed");
    assert_refused(&a.start_refused(), 1, &["vol0", "missing"]);
    std::fs::write(a.store(), &store).expect("written");
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    assert_eq!(Host::at(&pair.sites[0], "host").read(0, 1)[..], [1; 512]);
}
