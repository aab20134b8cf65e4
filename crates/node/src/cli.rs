//! Answers for the command line: what can be said, what it does, how it ends.

use crate::admin::{self, Question, ROWS_MAX};
use crate::calm::CalmFormat;
use crate::config::{Config, Refused, summary};
use crate::core_loop::Ending;
use crate::disks::file_disk::FileDisk;
use crate::{keys, render, serve};
use anyhow::Context;
use biplex_site::{ConflictRow, DiscardRow, Explanation, Locks, MapRun, Status, TableRow};
use biplex_store::ExplainOptions;
use clap::{Args, Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Exit code for anything that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code for a wrong command line or config.
pub const EXIT_USAGE: u8 = 2;
/// Exit code for a site that stopped itself.
pub const EXIT_HALTED: u8 = 3;

const AFTER_HELP: &str = "\
Examples:
  biplex demo                                    see it work on this machine, in half a minute
  biplex serve --config examples/site-a.toml     run one site (and site-b.toml in another terminal)
  biplex status --config examples/site-a.toml    how is it? lag, risk, journal, last cut and digest
  biplex table --socket /run/biplex/a.sock       the writes that are held, oldest first
  biplex map vol0 --config examples/site-a.toml  which blocks are reserved, held, on the store
  biplex locks --config examples/site-a.toml     who reserved what; --explain LBA: who holds this block?
  biplex discards --socket /run/biplex/a.sock    writes that a reservation undid (async volumes)
  biplex config check examples/site-a.toml       what a config means, and its risks
  biplex keys examples/keys                      certificates for a pair
  biplex inspect /var/lib/biplex/a/journal       explain a journal; --extract: a write's bytes out of it

Exit codes:
  0  done (serve: stopped as asked)     1  failed
  2  wrong command line or config       3  the site stopped itself: its journal failed

RUST_LOG sets what is logged, e.g. RUST_LOG=debug or RUST_LOG=biplex=trace (default: info).";

/// Biplex keeps one disk at two places: hosts at either site read and write it over iSCSI, and both copies end up equal.
#[derive(Parser, Debug)]
#[command(name = "biplex", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one site until SIGTERM or Ctrl-C (a second one stops at once)
    Serve {
        /// The site's config file; examples/site-a.toml is one, with comments
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show a running site at a glance
    Status(Where),
    /// Show the hold table of a running site: the writes that are not yet on the backing store
    Table {
        #[command(flatten)]
        at: Where,
        /// Show at most so many rows
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show the block state map of a volume: which blocks are reserved, and which are held
    Map {
        /// The volume's name
        volume: String,
        #[command(flatten)]
        at: Where,
    },
    /// Show the reservation table and the persistent registrations, the same at both sites
    Locks {
        /// The volume's name (default: all volumes)
        volume: Option<String>,
        /// Say who holds this block, since when, through which site
        #[arg(long, value_name = "LBA")]
        explain: Option<u64>,
        #[command(flatten)]
        at: Where,
    },
    /// Show the newest writes that were undone because a reservation stood (reserve_conflicting_writes = "discard")
    Discards(Where),
    /// Show the newest overlaps between the two sites' writes, and which write won
    Conflicts(Where),
    /// Try it: two sites on this machine, conflicting writes, a cut line; ends with both disks' checksums
    Demo {
        /// Leave the pair running, and say how to attach a real initiator
        #[arg(long)]
        keep: bool,
        /// Where to put the pair's files (default: a new directory under the system's temporary one)
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Explain a journal file: its segments, records and where it is damaged (read only)
    Inspect {
        /// The journal, STATE_DIR/journal
        file: PathBuf,
        /// A line for each group, too
        #[arg(long)]
        groups: bool,
        /// A line for each record, too
        #[arg(long)]
        records: bool,
        /// Instead: find the write with this stamp, as `discards` and --records show it (or nanoseconds and site letter,
        /// as `table --json` has them), and write its bytes to a file
        #[arg(long, value_name = "STAMP", requires = "to", conflicts_with_all = ["groups", "records"])]
        extract: Option<String>,
        /// Where --extract writes to; must not exist
        #[arg(long, value_name = "OUT", requires = "extract")]
        to: Option<PathBuf>,
    },
    /// Make the certificates of a pair: pair.pem, a.pem, a.key, b.pem, b.key (and pair.key, to be put away)
    Keys {
        /// Where to; made if missing, nothing is overwritten
        directory: PathBuf,
    },
    /// Work with config files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Say what a config file means and what is risky about it, or what is wrong with it
    Check {
        /// The config file
        file: PathBuf,
    },
}

/// Which running site to ask.
#[derive(Args, Debug)]
struct Where {
    /// The site's admin socket
    #[arg(long, value_name = "PATH", required_unless_present = "config")]
    socket: Option<PathBuf>,
    /// The site's config file, which names the socket
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Where {
    fn socket(&self) -> anyhow::Result<PathBuf> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(file)) => Ok(Config::load(file)?.admin_socket),
            (None, None) => anyhow::bail!("name the site: --socket PATH or --config FILE"),
        }
    }
}

/// Parses the command line, does what it says, gives the exit code.
pub fn run() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            eprintln!("biplex: {error:#}");
            ExitCode::from(if error.is::<Refused>() { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { config } => return run_serve(&config),
        Command::Status(at) => {
            show(&at, admin::ask(&at.socket()?, &Question::Status)?, |status: Status| {
                render::status(&status)
            })?;
        }
        Command::Table { at, limit } => run_table(&at, limit)?,
        Command::Map { volume, at } => run_map(&at, &volume)?,
        Command::Locks { volume, explain: Some(lba), at } => {
            let told = admin::ask(&at.socket()?, &Question::Explain { volume, lba })?;
            show(&at, told, |told: Explanation| render::locks::explanation(&told))?;
        }
        Command::Locks { volume, explain: None, at } => {
            let locks = admin::ask(&at.socket()?, &Question::Locks { volume })?;
            show(&at, locks, |locks: Locks| render::locks::locks(&locks))?;
        }
        Command::Discards(at) => {
            let rows = admin::ask(&at.socket()?, &Question::Discards { after: 0 })?;
            show(&at, rows, |rows: Vec<DiscardRow>| render::locks::discards(&rows))?;
        }
        Command::Conflicts(at) => {
            let rows = admin::ask(&at.socket()?, &Question::Conflicts { after: 0 })?;
            show(&at, rows, |rows: Vec<ConflictRow>| render::conflicts(&rows))?;
        }
        Command::Demo { keep, dir } => crate::demo::run(keep, dir)?,
        Command::Inspect { file, extract: Some(stamp), to: Some(out), .. } => {
            let told = crate::extract::run(&file, &stamp, &out)?;
            writeln!(std::io::stdout().lock(), "{told}")?;
        }
        Command::Inspect { file, groups, records, .. } => {
            return run_inspect(&file, ExplainOptions { groups, records });
        }
        Command::Keys { directory } => {
            let mut out = std::io::stdout().lock();
            for path in keys::make(&directory)? {
                writeln!(out, "made {}", path.display())?;
            }
            writeln!(out, "\n{}", keys::advice(&directory))?;
        }
        Command::Config { command: ConfigCommand::Check { file } } => {
            let config = Config::load(&file)?;
            let mut out = std::io::stdout().lock();
            write!(out, "{} is fine:\n{}", file.display(), summary::describe(&config))?;
            for risk in summary::risks(&config) {
                writeln!(out, "  warning   {risk}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_serve(file: &Path) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_ansi(ansi).event_format(CalmFormat::default());
    log.with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Config::load(file)?;
    match serve::serve(&config)? {
        Ending::Drained => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Ending::DrainTimedOut => {
            tracing::warn!("stopped, though not all that was under way had ended; hosts will retry it");
            Ok(ExitCode::SUCCESS)
        }
        Ending::Forced => Ok(ExitCode::from(EXIT_FAILED)),
        Ending::Halted(why) => {
            tracing::error!("HALTED: {why}");
            Ok(ExitCode::from(EXIT_HALTED))
        }
    }
}

fn run_inspect(file: &Path, options: ExplainOptions) -> anyhow::Result<ExitCode> {
    let mut disk = FileDisk::open_to_read(file)?;
    let mut out = std::io::stdout().lock();
    let mut result = Ok(());
    let explained = biplex_store::explain(&mut disk, options, &mut |line| {
        if result.is_ok() {
            result = writeln!(out, "{line}");
        }
    });
    result?;
    match explained.with_context(|| format!("cannot inspect {}", file.display()))?.damage {
        None => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::from(EXIT_FAILED)),
    }
}

fn run_table(at: &Where, limit: usize) -> anyhow::Result<()> {
    let socket = at.socket()?;
    let mut rows: Vec<TableRow> = Vec::new();
    while rows.len() < limit {
        let wanted = (limit - rows.len()).min(ROWS_MAX);
        let more = admin::ask(&socket, &Question::Table { skip: rows.len(), limit: wanted })?;
        let more: Vec<TableRow> = serde_json::from_value(more)?;
        let last = more.len() < wanted;
        rows.extend(more);
        if last {
            break;
        }
    }
    show(at, serde_json::to_value(rows)?, |rows: Vec<TableRow>| render::hold_table(&rows))
}

fn run_map(at: &Where, volume: &str) -> anyhow::Result<()> {
    let socket = at.socket()?;
    let mut runs: Vec<MapRun> = Vec::new();
    loop {
        let from = runs.last().map_or(0, |last| last.start + last.blocks);
        let more = admin::ask(&socket, &Question::Map { volume: volume.to_owned(), from })?;
        let more: Vec<MapRun> = serde_json::from_value(more)?;
        let last = more.len() < ROWS_MAX;
        runs.extend(more);
        if last {
            break;
        }
    }
    show(at, serde_json::to_value(runs)?, |runs: Vec<MapRun>| render::state_map(&runs))
}

fn show<T: serde::de::DeserializeOwned>(
    at: &Where,
    value: serde_json::Value,
    render: impl Fn(T) -> String,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if at.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
    } else {
        let value = serde_json::from_value(value).context("the daemon is of another version")?;
        writeln!(out, "{}", render(value).trim_end())?;
    }
    Ok(())
}
