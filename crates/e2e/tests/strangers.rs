//! Promise: whoever does not belong is refused and logged, and disturbs nobody: wrong CHAP secrets in either
//! direction, another pair's certificate, a site on plain TCP, garbage on the iSCSI port, the link port and the admin
//! socket, connections that say nothing.

use biplex_e2e::host::Identity;
use biplex_e2e::pair::biplex;
use biplex_e2e::{Host, HostError, Load, Pair, Settings, wait_until};
use biplex_front::iscsi::Chap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const CHAP: &str = "chap = { user = \"host\", secret = \"twelve-secret\", \
                    mutual = { user = \"biplex\", secret = \"mutual-secret\" } }";

fn proving(user: &str, secret: &str, mutual: Option<(&str, &str)>) -> Identity {
    // Names of their own: the same name would take the older session over.
    let name = if mutual.is_some() { "mutual-prover" } else { "prover" };
    let mutual = mutual.map(|(user, secret)| (user.to_owned(), secret.to_owned()));
    let chap = Chap { user: user.to_owned(), secret: secret.to_owned(), mutual };
    Identity { chap: Some(chap), ..Identity::named(name) }
}

#[test]
fn only_hosts_that_know_the_secret_are_let_in_and_only_a_target_that_knows_its_own_is_trusted() {
    let pair = Pair::start(Settings { chap: CHAP, ..Settings::default() });
    for site in &pair.sites {
        let login = |identity: &Identity| Host::login(site.iscsi, identity);
        let mut host = login(&proving("host", "twelve-secret", None)).expect("the right secret");
        let mut mutual = login(&proving("host", "twelve-secret", Some(("biplex", "mutual-secret"))))
            .expect("both secrets are right");
        mutual.write(0, &[7; 512]);

        // RFC 7143 11.13.5: class 2 detail 1, authentication failure. 255: the host does not trust the target.
        let strangers = [
            (Identity::named("no-secret"), 2),
            (proving("host", "twelve-mistake", None), 2),
            (proving("guest", "twelve-secret", None), 2),
            (proving("host", "twelve-secret", Some(("biplex", "other-mutual-secret"))), 255),
        ];
        for (stranger, wanted) in strangers {
            match login(&stranger) {
                Err(HostError::Refused { class, detail }) => {
                    assert_eq!(class, wanted, "{stranger:?}");
                    assert!(class != 2 || detail == 1, "{stranger:?}: detail {detail}");
                }
                Ok(_) => panic!("{stranger:?} was let in"),
                Err(other) => panic!("{stranger:?}: {other:?}"),
            }
        }
        site.wait_log(&["WARN", "host refused", "127.0.0.1"]);
        assert_eq!(host.read(0, 1)[..], [7; 512]);
        assert!(
            !site.log().contains("twelve-") && !site.log().contains("mutual-secret"),
            "a secret in the log"
        );
    }
}

/// Bytes that are no protocol: a pattern that never repeats within a test.
fn garbage(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

/// Sends and then reads until the other side ends the connection; panics if it stays open for long.
fn say(mut stream: impl Read + Write, bytes: &[u8], end: impl FnOnce()) {
    // It may end while we still talk.
    drop(stream.write_all(bytes));
    end();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                panic!("the connection stays open after {} bytes of garbage", bytes.len())
            }
            Err(_) => return,
        }
    }
}

fn connect(port: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(port).expect("a port");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a socket");
    stream
}

fn disturb(settings: Settings, refusal: &str) {
    let mut pair = Pair::start(settings);
    let running = [0, 1].map(|index| Load::new(index as u64).run(pair.sites[index].iscsi));
    let sessions = pair.sites.each_ref().map(|site| site.status().expect("a status").link.sessions);
    for site in &pair.sites {
        // Connections that say nothing stay beside all this and must not get in the way.
        let silent = [site.iscsi, site.link].map(connect);
        for (seed, length) in [(1, 1), (2, 47), (3, 48), (4, 5_000), (5, 300_000)] {
            for port in [site.iscsi, site.link] {
                let stream = connect(port);
                let ending = stream.try_clone().expect("a socket");
                // A short one might be the beginning of something: its end says that it is not.
                let end = move || drop(ending.shutdown(Shutdown::Write));
                say(stream, &garbage(length, seed), end);
            }
            let stream = UnixStream::connect(&site.socket).expect("the admin socket");
            stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a socket");
            let ending = stream.try_clone().expect("a socket");
            say(stream, &garbage(length, seed), move || drop(ending.shutdown(Shutdown::Write)));
        }
        // A site's words at the hosts' port, and a host's at the site's: long enough for a first judgement.
        let greeting = b"biplex-link/1 a\n".repeat(8);
        let login = [0x43, 0x87, 0, 0, 0, 0, 0, 0].repeat(64);
        for (port, words) in [(site.iscsi, greeting.as_slice()), (site.link, &login)] {
            say(connect(port), words, || ());
        }
        site.wait_log(&["WARN", "host refused"]);
        site.wait_log(&["WARN", "link", "refused", refusal]);
        drop(silent);
    }
    for (running, site) in running.iter().zip(&pair.sites) {
        let before = running.acknowledged();
        wait_until("load to go on", || {
            if running.acknowledged() > before + 50 { Ok(()) } else { Err(site.log()) }
        });
    }
    for load in running.map(|running| running.stop()) {
        assert_eq!((load.refused, load.lost), (0, 0), "hosts noticed");
        pair.sites.iter().for_each(|site| load.verify(&mut Host::at(site, "verifier"), site.name.letter()));
    }
    let after = pair.sites.each_ref().map(|site| site.status().expect("a status").link.sessions);
    assert_eq!(sessions, after, "the line between the sites was disturbed");
    pair.stop();
}

#[test]
fn garbage_on_every_port_is_refused_and_logged_while_hosts_go_on() {
    disturb(Settings::default(), "127.0.0.1");
}

#[test]
fn garbage_on_a_plain_tcp_link_is_refused_and_logged_while_hosts_go_on() {
    disturb(Settings { tls: false, ..Settings::default() }, "does not greet");
}

#[test]
fn a_site_with_another_pairs_certificate_is_refused() {
    let mut pair = Pair::make(Settings { mode: "async", ..Settings::default() });
    let stranger = pair.directory().join("stranger");
    biplex(&["keys", &stranger.display().to_string()]).expect_good();
    let keys = pair.directory().join("keys").display().to_string();
    let stranger = stranger.display().to_string();
    pair.sites[1].edit_config(|text| text.replace(&keys, &stranger));
    pair.sites.iter_mut().for_each(|site| site.start());
    for site in &mut pair.sites {
        site.wait_answers();
        site.wait_log(&["WARN", "certificate"]);
        let status = site.status().expect("a status");
        assert!(!status.link.up && status.link.sessions == 0, "{status:?}");
    }
    let mut host = Host::at(&pair.sites[0], "host");
    host.write(3, &[9; 512]);

    // With the pair's own certificate it is welcome.
    assert_eq!(pair.sites[1].stop(), Some(0));
    pair.sites[1].edit_config(|text| text.replace(&stranger, &keys));
    pair.sites[1].start();
    pair.wait_converged();
    assert_eq!(Host::at(&pair.sites[1], "host").read(3, 1)[..], [9; 512]);
    assert_eq!(host.read(3, 1)[..], [9; 512]);
    pair.stop();
}

#[test]
fn a_site_on_plain_tcp_is_refused_by_one_on_tls() {
    let mut pair = Pair::make(Settings { mode: "async", ..Settings::default() });
    pair.sites[1].edit_config(|text| {
        let lines = text.lines().map(|line| if line.starts_with("tls =") { "tls = \"off\"" } else { line });
        lines.collect::<Vec<_>>().join("\n")
    });
    pair.sites.iter_mut().for_each(|site| site.start());
    for site in &mut pair.sites {
        site.wait_answers();
        site.wait_log(&["WARN", "link", "refused"]);
        assert!(!site.status().expect("a status").link.up);
        Host::at(site, "host").write(0, &[1; 512]);
    }
    pair.stop();
}

#[test]
fn sites_whose_settings_differ_refuse_each_other_and_say_what_to_make_equal() {
    let mut pair = Pair::make(Settings::default());
    pair.sites[1].edit_config(|text| text.replace("size = \"32MiB\"", "size = \"16MiB\""));
    pair.sites.iter_mut().for_each(|site| site.start());
    for site in &mut pair.sites {
        let status = site.wait_status("the refusal", |status| status.link.refused.is_some());
        assert!(status.why.contains("vol0") && status.why.contains("make them equal"), "{}", status.why);
        site.wait_log(&["ALARM", "not paired", "vol0"]);
        assert!(!status.volumes[0].serving);
    }
    pair.stop();
}
