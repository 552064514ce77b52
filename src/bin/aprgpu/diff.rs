//! `aprgpu diff`.

use crate::args::DiffArgs;
use crate::failure::Failure;

pub(crate) fn diff(_args: &DiffArgs) -> Result<(), Failure> {
    Err(Failure::Usage("not there yet".to_owned()))
}
