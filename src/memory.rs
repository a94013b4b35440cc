//! What the allocator does with memory that was freed.

use std::{env, os::unix::process::CommandExt, process::Command};

/// mimalloc reads its settings out of the environment before `main`.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Starts the program again, as the same process, with an allocator that keeps freed memory for itself. Buffers of megabytes come and go with
/// every cut; given back to the system, each is cleared and mapped anew, which takes a fifth of the throughput. Whoever has set
/// `MIMALLOC_PURGE_DELAY` (milliseconds, −1 for never) is left alone, and where it cannot be started again it goes on as it is.
pub fn keep_freed() {
    if env::var_os(PURGE_DELAY).is_some() {
        return;
    }
    let mut args = env::args_os();
    let (Ok(program), Some(name)) = (env::current_exe(), args.next()) else { return };
    let error = Command::new(program).arg0(name).args(args).env(PURGE_DELAY, "-1").exec();
    eprintln!("the allocator gives memory back at once, which costs speed: {error}");
}
