//! What happened, folded into one number that is equal for equal runs, and printed line by line when asked.

/// The record of a run.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    steps: u64,
    print: bool,
}

impl Trace {
    /// An empty record; with `print`, every line goes to the standard output.
    pub fn new(print: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, steps: 0, print }
    }

    /// Folds in a happening: its time, its place, and a line that is made only when printed.
    pub fn note(&mut self, time: u64, mark: &[u64], bytes: &[u8], line: impl FnOnce() -> String) {
        self.steps += 1;
        self.fold(time);
        for &number in mark {
            self.fold(number);
        }
        self.fold(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word));
        }
        if self.print {
            println!("{:>13} {}", format!("{}.{:06}", time / 1_000_000, time % 1_000_000), line());
        }
    }

    /// The number that equal runs share.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many happenings were folded in.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    fn fold(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
