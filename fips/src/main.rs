//! The `cratestack` command, whose TLS, hashes and signatures are those of the validated module.

/// A service allocates and frees small pieces on all threads, which this allocator does in half of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cratestack_cli::main()
}
