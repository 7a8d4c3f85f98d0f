//! `netkin`: parse, dispatch, exit code.

fn main() -> std::process::ExitCode {
    netkin::cli::main()
}
