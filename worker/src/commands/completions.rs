//! `pinion completions`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::output::print;
use super::{CommandLine, Failure};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(pinion completions bash)                                     in this shell
  pinion completions bash > /etc/bash_completion.d/pinion               for everybody
  pinion completions zsh > \"${fpath[1]}/_pinion\"
  pinion completions fish > ~/.config/fish/completions/pinion.fish")]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "pinion", &mut script);
        Ok(print(&String::from_utf8_lossy(&script))?)
    }
}
