//! Answers for the local admin socket: newline-delimited JSON, one request a line, one answer a line. Threads here
//! only carry text; the core answers. Limits: clients at a time, bytes of a request, rows of an answer.
//!
//! ```text
//! {"ask":"status"}                        {"ok":{"site":"a",…}}
//! {"ask":"table","skip":0,"limit":100}    {"ok":[{"number":1,…},…]}
//! {"ask":"map","volume":"vol0"}           {"error":"there is no volume \"vol0\""}
//! {"ask":"explain","lba":8}               {"ok":{"volume":"vol0","lba":8,"state":2,…}}
//! ```

use crate::mailbox::{Letter, Sender};
use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Clients at a time.
pub const CLIENTS_MAX: usize = 16;
/// Bytes of a request.
pub const REQUEST_BYTES_MAX: u64 = 4096;
/// Rows of one answer; a client asks again for more.
pub const ROWS_MAX: usize = 4096;
/// How long a client may be silent, and how long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    /// The site at a glance.
    Status,
    /// The hold table (E1.3) from row `skip`, at most `limit` rows and at most [`ROWS_MAX`].
    Table {
        /// Rows to leave out.
        #[serde(default)]
        skip: usize,
        /// Rows wanted.
        limit: usize,
    },
    /// The block state map of a volume (E1.6, E3.2), at most [`ROWS_MAX`] runs.
    Map {
        /// Its name.
        volume: String,
        /// Block to begin at: where the last run of the answer before ended.
        #[serde(default)]
        from: u64,
    },
    /// Reservations and registrations (E3.3).
    Locks {
        /// The volume's name; all volumes without it.
        #[serde(default)]
        volume: Option<String>,
    },
    /// Who holds a block.
    Explain {
        /// The volume's name; not needed where there is only one.
        #[serde(default)]
        volume: Option<String>,
        /// The block.
        lba: u64,
    },
    /// The newest writes that a reservation undid (E4.1), those numbered beyond `after`.
    Discards {
        /// 0 for all that are remembered.
        #[serde(default)]
        after: u64,
    },
    /// The newest overlaps between the two sites' writes and who won, those numbered beyond `after`.
    Conflicts {
        /// 0 for all that are remembered.
        #[serde(default)]
        after: u64,
    },
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why there is none.
    Error(String),
}

/// A question on its way to the core, with where the answer goes.
pub struct Ask {
    /// The question.
    pub question: Question,
    /// Takes one answer.
    pub reply: SyncSender<Answer>,
}

/// The admin socket; removed when dropped.
pub struct AdminSocket {
    path: PathBuf,
}

impl AdminSocket {
    /// Listens, for this user alone. The state lock is held, so a socket file that lies there is a dead daemon's.
    pub fn listen(path: &Path, sender: Sender) -> anyhow::Result<AdminSocket> {
        let shown = path.display();
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        if UnixStream::connect(path).is_ok() {
            bail!("the admin socket {shown} is served by another process; name another one");
        }
        match std::fs::symlink_metadata(path) {
            // Anything else that lies there may be a store: it is never removed.
            Ok(metadata) if !metadata.file_type().is_socket() => {
                bail!("{shown} exists and is no socket; name another [admin] socket");
            }
            Ok(_) => std::fs::remove_file(path)
                .with_context(|| format!("cannot remove the stale admin socket {shown}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot look at the admin socket {shown}"));
            }
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen at the admin socket {shown}"))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(|| shown.to_string())?;
        let serve = move || serve(&listener, &sender);
        std::thread::Builder::new().name("biplex-admin".to_owned()).spawn(serve)?;
        Ok(AdminSocket { path: path.to_owned() })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

fn serve(listener: &UnixListener, sender: &Sender) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("admin: cannot accept: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if clients.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
            clients.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!("admin: a client was refused: {CLIENTS_MAX} are connected");
            turn_away(stream);
            continue;
        }
        let (sender, counter) = (sender.clone(), clients.clone());
        let talk = move || {
            if let Err(error) = talk(&stream, &sender) {
                tracing::debug!("admin: {error}");
            }
            counter.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = std::thread::Builder::new().name("biplex-admin-client".to_owned()).spawn(talk) {
            clients.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!("admin: no thread for a client: {error}");
        }
    }
}

/// Says why to a client that is one too many.
fn turn_away(mut stream: UnixStream) {
    let why =
        Answer::Error(format!("{CLIENTS_MAX} clients are connected already; try again in {PATIENCE:?}"));
    let told = stream
        .set_nonblocking(true)
        .and_then(|()| stream.write_all(format!("{}\n", serde_json::json!(why)).as_bytes()))
        // Only our side: a request that is still on its way must not make the client miss the answer.
        .and_then(|()| stream.shutdown(Shutdown::Write));
    if let Err(error) = told {
        tracing::debug!("admin: {error}");
    }
}

fn talk(mut stream: &UnixStream, sender: &Sender) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(REQUEST_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(question) => pass_on(question, sender),
            Err(error) => Answer::Error(format!("this is not a request: {error}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        stream.write_all(&text)?;
        if !line.ends_with('\n') {
            bail!("a request of more than {REQUEST_BYTES_MAX} bytes");
        }
    }
}

fn pass_on(question: Question, sender: &Sender) -> Answer {
    let (reply, answers) = sync_channel(1);
    if !sender.post(Letter::Ask(Ask { question, reply })) {
        return Answer::Error("the site is stopping".to_owned());
    }
    answers.recv_timeout(PATIENCE).unwrap_or_else(|_| Answer::Error("the site did not answer".to_owned()))
}

/// The client's side: asks the daemon at `socket`.
pub fn ask(socket: &Path, question: &Question) -> anyhow::Result<serde_json::Value> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!("nobody answers at {shown}; is `biplex serve` running with this admin socket?")
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(question)?;
    request.push(b'\n');
    // Who is turned away may find that out here already; why is what it can still read. The error itself would be
    // taken for that of a closed standard output.
    let sent = stream.write_all(&request);
    let mut line = String::new();
    match BufReader::new(&stream).read_line(&mut line) {
        Ok(0) => bail!("the daemon at {shown} closed the connection without an answer"),
        Err(error) => bail!("no answer from the daemon at {shown}: {}", sent.err().unwrap_or(error)),
        Ok(_) => {}
    }
    match serde_json::from_str(&line)
        .with_context(|| format!("the daemon at {shown} answered something else"))?
    {
        Answer::Ok(value) => Ok(value),
        Answer::Error(why) => Err(anyhow!("{why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::mailbox;

    #[test]
    fn questions_reach_the_core_and_answers_come_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let (sender, letters) = mailbox(Arc::new(|| ()));
        let socket = AdminSocket::listen(&path, sender).expect("listens");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let core = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while asked.len() < 2 {
                if let Some(Letter::Ask(ask)) = letters.next() {
                    let answer = match &ask.question {
                        Question::Map { volume, .. } => Answer::Error(format!("no {volume}")),
                        Question::Status
                        | Question::Table { .. }
                        | Question::Conflicts { .. }
                        | Question::Locks { .. }
                        | Question::Explain { .. }
                        | Question::Discards { .. } => Answer::Ok(serde_json::json!([1, 2])),
                    };
                    ask.reply.send(answer).expect("someone waits");
                    asked.push(ask.question);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            asked
        });
        let rows = ask(&path, &Question::Table { skip: 0, limit: 5 }).expect("an answer");
        assert_eq!(rows, serde_json::json!([1, 2]));
        let refused =
            ask(&path, &Question::Map { volume: "x".to_owned(), from: 0 }).expect_err("no such volume");
        assert_eq!(refused.to_string(), "no x");
        assert_eq!(core.join().expect("no panic").len(), 2);
        drop(socket);
        assert!(!path.exists());
        let nobody = ask(&path, &Question::Status).expect_err("nobody").to_string();
        assert!(nobody.contains("biplex serve"), "{nobody}");
    }

    #[test]
    fn what_may_be_left_out_of_a_question_has_a_default() {
        let read = |text: &str| serde_json::from_str::<Question>(text).map_err(|error| error.to_string());
        let volume = "vol0".to_owned();
        assert_eq!(read(r#"{"ask":"map","volume":"vol0"}"#), Ok(Question::Map { volume, from: 0 }));
        assert_eq!(read(r#"{"ask":"locks"}"#), Ok(Question::Locks { volume: None }));
        assert_eq!(read(r#"{"ask":"explain","lba":7}"#), Ok(Question::Explain { volume: None, lba: 7 }));
        assert_eq!(read(r#"{"ask":"discards"}"#), Ok(Question::Discards { after: 0 }));
        let refused = read(r#"{"ask":"explain","volume":"vol0"}"#).expect_err("no block");
        assert!(refused.contains("lba"), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("vol0.img");
        std::fs::write(&path, b"a volume").expect("written");
        let (sender, _letters) = mailbox(Arc::new(|| ()));
        let refused = AdminSocket::listen(&path, sender.clone()).err().expect("refused").to_string();
        assert!(refused.contains("name another"), "{refused}");
        assert_eq!(std::fs::read(&path).expect("still there"), b"a volume");
        // A dead daemon's socket makes room.
        let path = directory.path().join("admin.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        AdminSocket::listen(&path, sender).expect("listens");
    }

    #[test]
    fn a_client_too_many_is_told_so_and_never_taken_for_a_closed_output() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let (sender, _letters) = mailbox(Arc::new(|| ()));
        let _socket = AdminSocket::listen(&path, sender).expect("listens");
        let silent: Vec<_> =
            (0..CLIENTS_MAX).map(|_| UnixStream::connect(&path).expect("connects")).collect();
        for _ in 0..50 {
            let refused = ask(&path, &Question::Status).expect_err("one too many");
            assert!(refused.to_string().contains("try again"), "{refused:#}");
            assert!(refused.downcast_ref::<std::io::Error>().is_none());
        }
        drop(silent);
    }

    #[test]
    fn garbage_is_answered_with_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let (sender, _letters) = mailbox(Arc::new(|| ()));
        let _socket = AdminSocket::listen(&path, sender).expect("listens");
        let mut stream = UnixStream::connect(&path).expect("connects");
        stream.write_all(b"\xff\xfe{}\n").expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("ends");
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        assert!(answer.is_empty() || answer.contains("error"), "{answer}");
        let mut stream = UnixStream::connect(&path).expect("connects");
        stream.write_all(b"{\"ask\":\"coffee\"}\n").expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("ends");
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("not a request"), "{answer}");
    }
}
