//! Images that are wrong in places, and a client that uses them: always an answer, never a panic.
//!
//! The fuzzer's own limits bound time (`-timeout`) and memory (`-rss_limit_mb`).
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/malicious/image.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod image;
#[path = "../../tests/malicious/input.rs"]
mod input;
#[path = "../../tests/malicious/script.rs"]
mod script;

thread_local! {
    static TRIAL: script::Trial = script::Trial::start();
}

fuzz_target!(|bytes: &[u8]| {
    TRIAL.with(|trial| trial.run(input::Input::new(bytes)));
});
