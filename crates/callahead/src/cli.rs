//! The commands and their options. Exit codes: 0 done, 1 the answer is "no", 2 it can't be done as it stands (usage, configuration, files, ports),
//! 3 could not be told or done.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use callahead_callout::{Hop, TlsPolicy};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::account_command::AccountCommand;
use crate::admin_client::Untold;
use crate::domain_command::DomainCommand;
use crate::log_command::LogArgs;
use crate::token_command::TokenCommand;
use crate::{account_command, domain_command, log_command, token_command};
use crate::{cache_command, check, config_command, demo, logging, output, serve, verify};

/// Done; the answer is yes.
pub const DONE: u8 = 0;
/// The answer is no.
pub const NO: u8 = 1;
/// The command line or the configuration is wrong, or this machine has not what they name: a file, a port, room on the disk.
pub const USAGE: u8 = 2;
/// A destination or the daemon could not tell it, or do it.
pub const UNTOLD: u8 = 3;

/// Recipient callouts for mail filtering servers.
///
/// Callahead asks a domain's mail server whether a mailbox exists before mail for it is accepted, keeps the answers in a cache that can be
/// seen and cleared, and answers Postfix, Exim and others from it.
///
/// Exit status: 0 done, 1 the answer is "no", 2 it can't be done as it stands: the command line or the configuration is wrong, a file, a folder or a
/// port can't be used (it is missing, taken or full), or the daemon refuses, 3 it could not be told or done: a destination or the daemon does not
/// answer, what answers is no callahead, or the daemon fails.
#[derive(Debug, Parser)]
#[command(name = "callahead", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    ///
    /// SIGHUP makes it read its configuration again; a file with a mistake changes nothing. SIGTERM makes it answer what was asked and end.
    #[command(
        after_help = "Environment:\n  CALLAHEAD_LOG  What is logged: error, warn, info (without it), debug, trace or off; or TARGET=LEVEL, \
                            with commas between, such as \"info,callahead_callout=debug\"\n\n\
                            Example:\n  callahead serve --config /etc/callahead/callahead.toml"
    )]
    Serve(ServeArgs),
    /// Show what Callahead does, with servers of its own on loopback.
    ///
    /// Starts five mail servers that behave differently and Callahead in front of them, plays a session, and prints what was answered and
    /// why. Then it stays up for you to try. It needs no configuration, no other server and no root.
    #[command(after_help = "Example:\n  callahead demo --exit")]
    Demo {
        /// Stop after the session instead of staying up.
        #[arg(long)]
        exit: bool,
    },
    /// Ask a destination now whether recipients exist.
    ///
    /// No cache is used. Where to ask is told by --route, else by the configuration; for a domain that is not in it, the running daemon asks, whose
    /// own domains (those of the web interface and the API) are known only to it. --route needs no daemon; "--route mx" asks the domain's public
    /// MX, which may be this filter itself. postmaster is asked too, though mail for it is always accepted. Exit status: 0 all exist, 1 one does
    /// not, 3 one could not be told: the destination does not answer, or accepts every local part.
    #[command(
        after_help = "Examples:\n  callahead check anna@example.com\n  callahead check --route mail1.example.net:2525 \
                            --transcript anna@example.com\n  callahead check --json anna@example.com ben@example.com"
    )]
    Check(CheckArgs),
    /// Ask for many recipients, from a CSV file to a CSV file.
    ///
    /// The addresses stand in the column "email", "address", "recipient" or "mail", else in the first. The output has the input's columns and
    /// the verdict. What was stopped goes on where it was when the same command is given again. Domains that are not in the configuration are
    /// asked at their public MX, and named on standard error.
    #[command(
        after_help = "Examples:\n  callahead verify list.csv -o checked.csv\n  callahead verify --route mail1.example.net list.csv -o \
                            checked.csv"
    )]
    Verify(VerifyArgs),
    /// See and clear what a running daemon keeps.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// See and change the domains of a running daemon.
    #[command(subcommand)]
    Domain(DomainCommand),
    /// See and change who may use the API.
    #[command(subcommand)]
    Account(AccountCommand),
    /// See, make and take back tokens for the API.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Search what a running daemon has decided.
    ///
    /// Newest first. Exit status 1 where nothing is found.
    #[command(
        after_help = "Examples:\n  callahead log --recipient anna@example.com\n  callahead log --domain example.com --verdict invalid --since 1h --csv"
    )]
    Log(LogArgs),
    /// Check, show or write a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  callahead completions bash > /etc/bash_completion.d/callahead")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands into a folder.
    #[command(after_help = "Examples:\n  callahead man | man -l -\n  callahead man --dir /usr/share/man/man1")]
    Man {
        /// The folder.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = callahead_config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// How the log looks; without it, for people on a terminal and as JSON elsewhere.
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
}

/// How a log looks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Where `check` and `verify` ask.
#[derive(Debug, clap::Args)]
pub struct AskArgs {
    /// Ask this host instead of the configured one; "mx" is the domain's public MX.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub route: Option<Hop>,
    /// When the session is encrypted: off, opportunistic, required or verified. Without it, as configured.
    #[arg(long, value_name = "POLICY")]
    pub tls: Option<TlsPolicy>,
    /// The configuration. Without it, the one in /etc/callahead is used if it is there.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `check` takes.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The recipients.
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Print the dialogue with times.
    #[arg(long)]
    pub transcript: bool,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

/// What `verify` takes.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The file with the addresses; "-" is standard input.
    #[arg(value_name = "FILE.csv")]
    pub input: PathBuf,
    /// Where the verdicts go; without it to standard output, which can't be resumed.
    #[arg(short, long, value_name = "OUT.csv")]
    pub output: Option<PathBuf>,
    /// The column with the addresses.
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Recipients that are asked for at the same time.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub jobs: u16,
    /// Where.
    #[command(flatten)]
    pub ask: AskArgs,
}

impl AskArgs {
    /// The configuration's file.
    pub fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(callahead_config::DEFAULT_PATH))
    }
}

/// How the daemon is reached.
#[derive(Debug, Default, clap::Args)]
pub struct SocketArgs {
    /// The daemon's admin socket. Without it, as configured, else /run/callahead/admin.sock.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The configuration that names the admin socket.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask this daemon over the network instead: http://HOST:PORT or https://HOST.
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    pub server: Option<String>,
    /// The token for --server; better in the environment, as CALLAHEAD_TOKEN, where other users of this machine don't see it.
    #[arg(long, requires = "server")]
    pub token: Option<String>,
    /// The certificate authority (PEM) by which an https:// server is known, or its own certificate where that is self-signed. Without it, the
    /// system's authorities.
    #[arg(long, value_name = "FILE", requires = "server")]
    pub ca: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `cache` can do.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what is kept.
    #[command(
        after_help = "Examples:\n  callahead cache list --domain example.com\n  callahead cache list --state invalid --limit 1000"
    )]
    List {
        /// Of this domain only.
        #[arg(long)]
        domain: Option<String>,
        /// What the local part starts with, where a domain is given; else what the domain starts with.
        #[arg(long)]
        prefix: Option<String>,
        /// valid, invalid, accept_all, not_accept_all, refuses_null_sender or null_mx.
        #[arg(long)]
        state: Option<String>,
        /// Entries at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Show what is kept of one recipient. Exit status 1 where nothing is.
    #[command(after_help = "Example:\n  callahead cache show anna@example.com")]
    Show {
        /// The recipient.
        address: String,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Forget: one recipient, one domain, or everything. When this ends, nothing learned before is served any more.
    #[command(
        after_help = "Examples:\n  callahead cache clear --recipient anna@example.com\n  callahead cache clear --domain example.com\n  \
                            callahead cache clear --all --yes"
    )]
    Clear {
        /// What.
        #[command(flatten)]
        what: ClearArgs,
        /// Do not ask before everything is forgotten.
        #[arg(long)]
        yes: bool,
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Read the whole file of a cache; the daemon does so in a process of its own, which may end by what is wrong with the file.
    #[command(hide = true)]
    LookThrough {
        /// Nobody has it open.
        #[arg(long)]
        alone: bool,
        /// The cache's folder.
        folder: PathBuf,
    },
    /// Show how much is kept.
    #[command(after_help = "Example:\n  callahead cache stats")]
    Stats {
        /// Of which daemon.
        #[command(flatten)]
        socket: SocketArgs,
    },
}

/// What is forgotten.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct ClearArgs {
    /// One recipient.
    #[arg(long, value_name = "ADDRESS")]
    pub recipient: Option<String>,
    /// A domain with all its recipients, without its subdomains.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Everything.
    #[arg(long)]
    pub all: bool,
}

/// What `config` can do.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a configuration is good, and all that is wrong with it. Exit status 2 where something is; a warning is no mistake.
    #[command(after_help = "Example:\n  callahead config check --config callahead.toml")]
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = callahead_config::DEFAULT_PATH)]
        config: PathBuf,
        /// Print JSON: whether it is good, the mistakes, and the warnings.
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration in force, with all defaults filled in.
    #[command(after_help = "Example:\n  callahead config show --config callahead.toml")]
    Show {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = callahead_config::DEFAULT_PATH)]
        config: PathBuf,
        /// Print JSON instead of TOML.
        #[arg(long)]
        json: bool,
    },
    /// Print a configuration with every key and what it means, or write it to a file.
    #[command(after_help = "Example:\n  callahead config init --output /etc/callahead/callahead.toml")]
    Init {
        /// The file; its folder is made where it is missing, and a file that is there is not overwritten.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Runs the program by its command line.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => {
            // Lives until everything that logs has ended.
            match logging::start(args.log_format) {
                Ok((_flush, decisions)) => with_runtime(serve::run(args, decisions)),
                Err(error) => Err(anyhow::Error::new(error).context("the log can't be written: no thread for it")),
            }
        }
        Command::Demo { exit } => with_runtime(demo::run(exit)),
        Command::Check(args) => with_runtime(check::run(args)),
        Command::Verify(args) => with_runtime(verify::run(args)),
        Command::Cache(command) => with_runtime(cache_command::run(command)),
        Command::Domain(command) => with_runtime(domain_command::run(command)),
        Command::Account(command) => with_runtime(account_command::run(command)),
        Command::Token(command) => with_runtime(token_command::run(command)),
        Command::Log(args) => with_runtime(log_command::run(args)),
        Command::Config(command) => config_command::run(command),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "callahead", &mut text);
            output::print(&String::from_utf8_lossy(&text));
            Ok(DONE)
        }
        Command::Man { dir } => man(dir),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::error(&error);
            // What a caller may try again as it stands is told from what it has to mend.
            ExitCode::from(if error.is::<Untold>() { UNTOLD } else { USAGE })
        }
    }
}

fn with_runtime(run: impl Future<Output = anyhow::Result<u8>>) -> anyhow::Result<u8> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run)
}

fn man(dir: Option<PathBuf>) -> anyhow::Result<u8> {
    use anyhow::Context as _;
    match dir {
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            output::print(&String::from_utf8_lossy(&text));
        }
        Some(dir) => clap_mangen::generate_to(Cli::command(), &dir)
            .with_context(|| format!("the manual pages can't be written into {}", dir.display()))?,
    }
    Ok(DONE)
}
