//! The `headend` program: parse, log, work, and end with the right code.

use clap::Parser;
use headend::{
    cli::{Cli, Command},
    commands, exit, logging, memory,
};
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Run(_) | Command::Try(_) | Command::Demo(_)) {
        memory::keep_freed();
    }
    match work(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if exit::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", exit::text(&e));
            ExitCode::from(exit::code(&e))
        }
    }
}

fn work(cli: Cli) -> anyhow::Result<()> {
    logging::start(&cli)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone()));
        run(cli.command, stop).await
    })
}

async fn run(command: Command, stop: CancellationToken) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => commands::run::run(args, stop).await,
        Command::Try(args) => {
            // Nothing of it outlives the process, so there is nothing to end in order.
            tokio::select! {
                biased;
                () = stop.cancelled() => Err(exit::Interrupted("stopped before the end".to_owned()).into()),
                done = commands::r#try::run(args) => done,
            }
        }
        Command::Demo(args) => commands::demo::run(args, stop).await,
        Command::Import(args) => commands::import::run(args, stop).await,
        Command::Topics(command) => commands::topics::run(&command).await,
        Command::Tasks(args) => commands::tasks::run(&args).await,
        Command::Skip(args) => commands::skip::run(&args).await,
        Command::Check(args) => commands::check::run(&args).await,
        Command::Explain(args) => commands::explain::run(&args),
        Command::Schema(args) => commands::schema::run(&args),
        Command::Token(args) => commands::token::run(&args),
    }
}

/// The first Ctrl-C or SIGTERM asks for an orderly end, the second ends at once.
async fn stop_on_signal(stop: CancellationToken) {
    if signal().await.is_ok() {
        stop.cancel();
        if signal().await.is_ok() {
            std::process::exit(exit::INTERRUPTED.into());
        }
    }
}

async fn signal() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}

/// Tasks of the engine work for tens of milliseconds at a time: spare workers and frequent looks at the sockets keep them from
/// holding up the gateway.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread().worker_threads(cores + 4).event_interval(5).enable_all().build()
}
