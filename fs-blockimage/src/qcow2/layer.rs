//! An opened backing image, as imago keeps it.

use std::{fmt, ops::Deref};

use imago::FormatAccess;

use super::imago::Handle;

/// An opened backing image.
#[derive(Debug)]
pub(super) struct Layer(FormatAccess<Handle>);

impl From<FormatAccess<Handle>> for Layer {
    fn from(format: FormatAccess<Handle>) -> Self {
        Self(format)
    }
}

impl Deref for Layer {
    type Target = FormatAccess<Handle>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
