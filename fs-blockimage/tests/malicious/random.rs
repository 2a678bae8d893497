//! Images that are wrong in places that nobody chose: the fuzz target without its fuzzer.

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{input::Input, script::Trial};

const CASES: u32 = 2000;

#[test]
fn whatever_is_in_an_image_an_answer_comes() {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let trial = Trial::start();
    let run = |bytes: Vec<u8>| {
        trial.run(Input::new(&bytes));
        Ok(())
    };
    TestRunner::new(config).run(&vec(any::<u8>(), 0..400), run).unwrap();
}
