//! Random histories: nodes write to each other's rows, n1 dies with others behind it, and is recovered while writing goes on
//! and nodes are killed. Sometimes another one dies as well, survivors lag behind each other, a recovery stops half-way, or n1
//! returns. Afterwards all survivors hold the same rows, and nothing that they have committed has vanished.
//!
//! What native replication by itself would not bring together is left out by the rules of `history`, and nothing else is. Where
//! a seed fails, its twin is played, in which nobody dies and nobody is behind who dies: whether that converges is said.
//! What happens, and in which order, follows from the seed (`course`); the moments of kills do not.
//! `CONVERGENCE_SEEDS=7`, `=100-199` or `=3,8,20-29` plays those, `CONVERGENCE_JOBS=6` so many side by side,
//! `CONVERGENCE_KILLS=0` without kills, and `CONVERGENCE_YOUNG=1` on a mesh of this second, which is empty and has not seen a
//! transaction. `CONVERGENCE_REBUILDS=1`: slots and WAL are lost as well, and nodes are rebuilt and replaced (`rebuilds`).

mod course;
mod history;
mod rebuilds;
mod script;
mod world;

use world::{Family, Play};

use std::env;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Those of each `make test`.
const SEEDS: [u64; 4] = [73, 13, 25, 26];

/// Those of each `make test` that begin on a mesh of this second.
const YOUNG_SEEDS: [u64; 2] = [8, 31];

/// Those of each `make test` in which something is rebuilt.
const REBUILDS_SEEDS: [u64; 2] = [8, 5];

/// Tests, each a process of its own, which share the seeds out among them.
const PLACES: usize = 3;

fn number(text: &str, name: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("{name} is a number, and not \"{text}\""))
}

fn range(text: &str) -> RangeInclusive<u64> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    number(first, "CONVERGENCE_SEEDS")..=number(last, "CONVERGENCE_SEEDS")
}

/// How many seeds are played side by side, in all tests together.
fn jobs() -> usize {
    env::var("CONVERGENCE_JOBS").map_or(PLACES, |jobs| number(&jobs, "CONVERGENCE_JOBS") as usize).max(1)
}

/// The seeds of one test; none where there are fewer jobs than tests.
fn seeds_of(place: usize) -> Vec<u64> {
    let all: Vec<u64> = match env::var("CONVERGENCE_SEEDS") {
        Ok(given) => given.split(',').flat_map(range).collect(),
        Err(_) => SEEDS.to_vec(),
    };
    let places = PLACES.min(jobs());
    if place < places { all.into_iter().skip(place).step_by(places).collect() } else { Vec::new() }
}

fn next_of(seeds: &Mutex<Vec<u64>>) -> Option<u64> {
    seeds.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Plays seeds until there are no more.
fn play_all(seeds: &Mutex<Vec<u64>>, failed: &Mutex<Vec<u64>>, family: Family) {
    // The moments of kills do not follow from the seed: `make test` leaves them to tests/recover/kills.rs and its like.
    let with_kills = env::var_os("CONVERGENCE_SEEDS").is_some()
        && env::var("CONVERGENCE_KILLS").ok().is_none_or(|kills| kills != "0");
    while let Some(seed) = next_of(seeds) {
        let play = |as_what| {
            let script = script::Script::new();
            let played = catch_unwind(AssertUnwindSafe(|| world::play(seed, as_what, family, &script)));
            played.map_err(|_| script.text())
        };
        if let Err(script) = play(if with_kills { Play::Kills } else { Play::Calm }) {
            let twin = if play(Play::Twin).is_ok() { "its twin converges" } else { "its twin fails as well" };
            let young = if family.is_young { "CONVERGENCE_YOUNG=1 " } else { "" };
            let rebuilds = if family.with_rebuilds { "CONVERGENCE_REBUILDS=1 " } else { "" };
            eprintln!("{script}{young}{rebuilds}CONVERGENCE_SEEDS={seed} replays it; {twin}");
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
        }
    }
}

fn run(place: usize) {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| value == "1");
    let family = Family { is_young: is_set("CONVERGENCE_YOUNG"), with_rebuilds: is_set("CONVERGENCE_REBUILDS") };
    play_side_by_side(seeds_of(place), place, family);
}

fn play_side_by_side(mut seeds: Vec<u64>, place: usize, family: Family) {
    seeds.reverse();
    let (seeds, failed) = (Mutex::new(seeds), Mutex::default());
    thread::scope(|scope| {
        for _ in (place..jobs()).step_by(PLACES) {
            scope.spawn(|| play_all(&seeds, &failed, family));
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn survivors_converge_after_random_histories_first_third() {
    run(0);
}

#[test]
fn survivors_converge_after_random_histories_second_third() {
    run(1);
}

#[test]
fn survivors_converge_after_random_histories_last_third() {
    run(2);
}

#[test]
fn survivors_of_a_mesh_of_this_second_converge() {
    play_side_by_side(YOUNG_SEEDS.to_vec(), PLACES - 1, Family { is_young: true, ..Family::default() });
}

#[test]
fn survivors_that_are_rebuilt_converge() {
    play_side_by_side(REBUILDS_SEEDS.to_vec(), PLACES - 1, Family { with_rebuilds: true, ..Family::default() });
}
