//! Rules of the house that a program can check: file sizes, openings, left-overs, names.

use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file before its tests.
const LINES_MAX: usize = 800;
const LEFT_OVERS: [&str; 5] = ["todo!(", "unimplemented!(", "FIXME", "dbg!(", "#[ignore"];
const NAMES_REFUSED: [&str; 6] = ["util", "utils", "common", "helpers", "types", "misc"];

/// Checks every Rust file under `crates/`; lists all that is wrong.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let mut files = Vec::new();
    collect(&root.join("crates"), &mut files)?;
    let mut wrong = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let production = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        let lines = production.clone().count();
        if lines > LINES_MAX && !name.contains("/tests") {
            wrong.push(format!("{name}: {lines} lines before its tests, at most {LINES_MAX}"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not open with //! (what it answers for)"));
        }
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if NAMES_REFUSED.contains(&stem) {
            wrong.push(format!("{name}: a file named {stem} collects what has no place"));
        }
        for (at, line) in text.lines().enumerate() {
            if let Some(found) = LEFT_OVERS.iter().find(|left| line.contains(*left)) {
                // This file names them.
                if !name.ends_with("xtask/src/tidy.rs") {
                    wrong.push(format!("{name}:{}: {found}", at + 1));
                }
            }
        }
    }
    if !wrong.is_empty() {
        bail!("not tidy:\n  {}", wrong.join("\n  "));
    }
    println!("\n== tidy: {} files", files.len());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for found in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = found?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}
