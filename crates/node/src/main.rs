//! The binary `biplex`.

use std::process::ExitCode;

fn main() -> ExitCode {
    biplex::cli::run()
}
