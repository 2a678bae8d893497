//! Groups of users.

use std::fs;

use anyhow::{Context, Result};

const GROUPS: &str = "/etc/group";

/// The number of the group `name`, which may be a number itself.
///
/// # Errors
/// When there is no such group.
pub(crate) fn find(name: &str) -> Result<u32> {
    let groups = fs::read_to_string(GROUPS).unwrap_or_default();
    number(&groups, name).with_context(|| {
        format!(
            "cannot let group {name} use the socket: {GROUPS} has no such group; give its number"
        )
    })
}

/// Looks `name` up in lines of `name:password:number:members`.
fn number(groups: &str, name: &str) -> Option<u32> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields.first() == Some(&name));
    found.and_then(|fields| fields.get(2)?.parse().ok()).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_name_or_a_number() {
        let groups = "root:x:0:\nkvm:x:104:alice,bob\nbroken\n";
        assert_eq!(number(groups, "kvm"), Some(104));
        assert_eq!(number(groups, "999"), Some(999));
        assert_eq!(number(groups, "broken"), None);
        assert_eq!(number(groups, "missing"), None);
    }
}
