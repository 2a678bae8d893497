//! Internal snapshots: what they have stays as it is.

use super::{
    header::{ENTRIES_MAX, Fault, Header, Table, u32_at, u64_at},
    layout::{OFFSET, numbers},
    metadata::Metadata,
    ownership::{Claims, Purpose, REPAIR},
};

/// The most snapshots, and the most bytes that an entry has that are not known: QEMU's limits.
const SNAPSHOTS_MAX: u32 = 65_536;
const EXTRA_MAX: u64 = 1024;
/// The most entries of the L1 tables of all of them: they are all looked at.
const ALL_ENTRIES_MAX: u64 = 2 * ENTRIES_MAX;

/// Bytes of an entry that all have.
const ENTRY: usize = 40;
/// Bytes behind those up to the length that the disk had.
const EXTRA_LEN: u64 = 16;

impl Metadata {
    /// Claims what snapshots have. Returns whether each knows the length that the disk had: otherwise that must not
    /// change.
    ///
    /// # Errors
    /// What the host said, and what of it is not valid.
    pub(super) async fn claim_snapshots(
        &self,
        header: &Header,
        claims: &mut Claims,
    ) -> Result<bool, Fault> {
        let (count, begin) = header.snapshots;
        if count > SNAPSHOTS_MAX {
            return Err(format!("it has {count} snapshots, and {SNAPSHOTS_MAX} is the most").into());
        }
        let (mut at, mut end) = (begin, begin);
        let mut left = ALL_ENTRIES_MAX;
        let mut know_len = header.version >= 3;
        for _ in 0..count {
            claims.is_inside(Purpose::Snapshots, at.saturating_add(ENTRY as u64))?;
            let entry = self.view(at, ENTRY).await?;
            let extra = u64::from(u32_at(&entry, 36));
            let names = u32_at(&entry, 12);
            let l1 = Table { offset: u64_at(&entry, 0), entries: u32_at(&entry, 8).into() };
            if extra > EXTRA_MAX || l1.entries > ENTRIES_MAX {
                return Err(format!("its snapshot table is not valid; {REPAIR}").into());
            }
            left = left.checked_sub(l1.entries).ok_or_else(|| {
                "its snapshots have too many tables; delete some with `qemu-img snapshot -d`"
                    .to_owned()
            })?;
            know_len &= extra >= EXTRA_LEN;
            claims.table(Purpose::SnapshotL1, l1.offset, l1.entries * 8)?;
            let content = self.view_table(l1).await?;
            for entry in numbers(&content).filter(|&entry| entry & OFFSET != 0) {
                claims.cluster(Purpose::SnapshotL2, entry & OFFSET)?;
            }
            let len = ENTRY as u64 + extra + u64::from(names >> 16) + u64::from(names & 0xffff);
            // The file may end with it. Nothing behind that is read.
            end = at.saturating_add(len);
            claims.is_inside(Purpose::Snapshots, end)?;
            at += len.next_multiple_of(8);
        }
        if count > 0 {
            claims.table(Purpose::Snapshots, begin, end - begin)?;
        }
        Ok(know_len || count == 0)
    }
}
