//! Whole members in one thread, in virtual time, from a seed: `e2e/run simulation`. See docs/testing.md.
//!
//! Each seed runs in a process of its own: chance that some libraries draw once a process is then the same every time.
#![cfg_attr(
    simulation,
    expect(
        clippy::print_stdout,
        clippy::disallowed_methods,
        reason = "a test driver: it prints what it found, and its processes and files are real"
    )
)]

#[cfg(simulation)]
mod checks;
#[cfg(simulation)]
mod clients;
#[cfg(simulation)]
mod faults;
#[cfg(simulation)]
mod leases;
#[cfg(simulation)]
mod local;
#[cfg(simulation)]
mod lost_vote;
#[cfg(simulation)]
mod member;
#[cfg(simulation)]
mod membership;
#[cfg(simulation)]
mod pairs;
#[cfg(simulation)]
mod records;
#[cfg(simulation)]
mod seeds;
#[cfg(simulation)]
mod watchers;
#[cfg(simulation)]
mod world;

#[cfg(simulation)]
fn main() -> std::process::ExitCode {
    seeds::main()
}

#[cfg(not(simulation))]
fn main() {}
