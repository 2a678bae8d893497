//! Many power cuts of a few recorded runs.

use std::{fs, sync::Arc, thread};

use fsrv_blockimage::Options;
use tempfile::TempDir;

use crate::{
    model::Model,
    recorder::{Log, Recorder},
    remains::remains,
    seed::Seed,
    workload::Workload,
};

/// Names the seed of a run that is to be repeated, and cut at every point.
const SEED: &str = "FSRV_POWER_CUT_SEED";

/// An image in a directory of its own.
pub(crate) struct Image {
    pub(crate) _dir: TempDir,
    pub(crate) options: Options,
    /// What it reads as.
    pub(crate) content: Vec<u8>,
}

/// A kind of images.
pub(crate) trait Kind: Sync {
    /// What a client does to one.
    fn workload(&self, seed: u64) -> Workload;

    fn create(&self, seed: u64) -> Image;

    /// The content of what a cut left of `image`, which was found to be sound.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn content(&self, image: &Image, left: Vec<u8>, seed: &mut Seed) -> Result<Vec<u8>, String>;

    /// Looks at what is left when all has ended well.
    fn closed(&self, _: &Image) {}
}

/// How many runs, and how many cuts of each.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    runs: u64,
    cuts: u64,
}

impl Plan {
    const LONG: Self = Self { runs: 50, cuts: 100 };

    /// 500 cuts, or with `FSRV_LONG=1` 5,000.
    pub(crate) fn here() -> Self {
        if is_long() { Self::LONG } else { Self { runs: 10, cuts: 50 } }
    }

    /// 20 cuts, or with `FSRV_LONG=1` 5,000.
    pub(crate) fn sample() -> Self {
        if is_long() { Self::LONG } else { Self { runs: 4, cuts: 5 } }
    }
}

/// Whether all is to be tested that there is.
pub(crate) fn is_long() -> bool {
    std::env::var_os("FSRV_LONG").is_some()
}

/// Cuts the power while images of a kind are written to.
pub(crate) fn cut_power<K: Kind>(kind: &K, plan: Plan) {
    if let Ok(seed) = std::env::var(SEED) {
        let run = Run::record(kind, seed.parse().unwrap());
        run.cut_at(kind, (0..=run.log.now + 1).collect());
        return;
    }
    for seed in 0..plan.runs {
        let run = Run::record(kind, seed);
        let mut choice = Seed::part(seed, u64::MAX);
        run.cut_at(kind, (0..plan.cuts).map(|_| choice.below(run.log.now + 2)).collect());
    }
}

/// A recorded run.
pub(crate) struct Run {
    seed: u64,
    image: Image,
    /// The image's file before it.
    before: Vec<u8>,
    pub(crate) log: Log,
}

impl Run {
    pub(crate) fn record(kind: &impl Kind, seed: u64) -> Self {
        let image = kind.create(seed);
        let before = fs::read(&image.options.path).unwrap();
        let outcome = kind.workload(seed).run(&image.options, &Arc::new(Recorder::default()));
        let run = Self { seed, image, before, log: outcome.log };
        let end = run.log.now + 1;
        let content = outcome.content.expect("it can be opened").unwrap();
        run.accept(end, run.model().check(end, &content));
        kind.closed(&run.image);
        run
    }

    fn cut_at<K: Kind>(&self, kind: &K, cuts: Vec<u64>) {
        thread::scope(|scope| {
            for half in cuts.chunks(cuts.len().div_ceil(2)) {
                scope.spawn(move || {
                    for &cut in half {
                        self.accept(cut, self.cut(kind, cut));
                    }
                });
            }
        });
    }

    /// Cuts the power once.
    ///
    /// # Errors
    /// What is wrong with what is left, in words.
    pub(crate) fn cut(&self, kind: &impl Kind, cut: u64) -> Result<(), String> {
        let mut seed = Seed::part(self.seed, cut);
        let left = remains(&self.before, &self.log.host, cut, &mut seed);
        let content = kind.content(&self.image, left, &mut seed)?;
        self.model().check(cut, &content)
    }

    fn model(&self) -> Model<'_> {
        Model { initial: &self.image.content, ops: &self.log.guest }
    }

    fn accept(&self, cut: u64, result: Result<(), String>) {
        if let Err(error) = result {
            let seed = self.seed;
            panic!("cut at {cut} of {}: {error}\n{SEED}={seed} repeats this run", self.log.now);
        }
    }
}
