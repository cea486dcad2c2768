//! `callahead`: recipient callouts for mail filtering servers.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// What one thread allocates another frees: who asks, and who writes the log. The system's allocator takes a lock for that, and a thread
/// that gives way to others may be stopped while it holds it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    callahead::cli::run()
}
