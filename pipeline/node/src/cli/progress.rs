//! Long work as a person follows it: a bar on a terminal, a line every ten seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::demo::Progress;
use crate::text;

/// Time between two lines of progress where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// One piece of work after the other.
#[derive(Default)]
pub(super) struct Shown {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    done: u64,
    begun: Option<Instant>,
    line: Option<Instant>,
}

impl Progress for Shown {
    fn begin(&mut self, what: &'static str, total: u64) {
        (self.what, self.total, self.done) = (what, total, 0);
        self.begun = Some(Instant::now());
        self.line = self.begun;
        self.bar = std::io::stderr().is_terminal().then(|| {
            let template = format!("  {} {{bar:30}} {{pos:>8}}/{{len}}  {{per_sec}}  {{eta}} left", text::pad(what, 20));
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style)
        });
    }

    fn reach(&mut self, done: u64) {
        self.done = done;
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.line.is_some_and(|line| line.elapsed() >= LINE) => {
                self.line = Some(Instant::now());
                say!("  {} {} of {}", text::pad(self.what, 20), text::count(done), text::count(self.total));
            }
            None => {}
        }
    }

    fn resize(&mut self, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let time = self.begun.map(|begun| begun.elapsed()).unwrap_or_default();
        say!("  {} {:>9} in {}", text::pad(self.what, 20), text::count(self.done), text::span(time));
    }
}
