//! A run: each row of an image by each of its subjects in turn.

use std::path::Path;

use anyhow::Result;

use super::Extent;
use super::export::Export;
use super::images::Images;
use super::rows::{Kind, Plan};
use crate::backing::Scratch;
use crate::fio::{self, Amount};
use crate::load::{self, Sample};
use crate::report::Results;

/// The part of a thin image that a turn of small writes writes: most of its clusters, some of them more than once.
const THIN_PART: u64 = 8;

pub(super) struct Run<'a> {
    pub(super) extent: Extent,
    pub(super) plans: &'a [Plan],
    pub(super) exports: &'a [Export],
    pub(super) images: &'a Images,
    pub(super) scratch: &'a Scratch,
    pub(super) results: Results,
}

impl Run<'_> {
    pub(super) fn measure(mut self) -> Result<Results> {
        for kind in Kind::ALL {
            let plans: Vec<&Plan> = self.plans.iter().filter(|plan| plan.kind == kind).collect();
            if !plans.is_empty() {
                self.rounds(kind, &plans)?;
            }
        }
        Ok(self.results)
    }

    fn rounds(&mut self, kind: Kind, plans: &[&Plan]) -> Result<()> {
        let image = self.images.full(kind)?;
        for repetition in 0..self.extent.repeat {
            for plan in plans {
                let count = self.exports.len();
                for turn in 0..count {
                    let export = &self.exports[(turn + repetition) % count];
                    if export.takes_part(plan) {
                        let sample = self.turn(plan, export, &image);
                        self.results.record(&plan.row, &export.name, sample, self.scratch);
                    }
                }
            }
        }
        Ok(())
    }

    /// One server at a time: none may open an image that another writes.
    fn turn(&self, plan: &Plan, export: &Export, full: &Path) -> Result<Sample> {
        let fresh = plan.needs_fresh_image().then(|| self.images.fresh()).transpose()?;
        let image = fresh.as_deref().unwrap_or(full);
        if plan.kind != Kind::RawDirect {
            load::warm(image)?;
        }
        let running = export.start(image, plan.kind, self.scratch)?;
        let work = fio::Work {
            job: plan.job,
            file: &running.root,
            mib: self.extent.mib,
            amount: self.amount(plan),
        };
        let sample = fio::run(&work, &running);
        if plan.writes() {
            // The disk must not work for this row while the next is measured.
            rustix::fs::sync();
        }
        sample
    }

    fn amount(&self, plan: &Plan) -> Amount {
        if !plan.needs_fresh_image() {
            return Amount::Seconds(self.extent.seconds);
        }
        // The faster server must not find more clusters allocated than the slower one.
        Amount::Mib(match plan.job.block {
            fio::SMALL => self.extent.mib / THIN_PART,
            _ => self.extent.mib,
        })
    }
}
