//! `aprgpu stamp`.

use crate::args::StampArgs;
use crate::failure::Failure;

pub(crate) fn stamp(_args: &StampArgs) -> Result<(), Failure> {
    Err(Failure::Usage("not there yet".to_owned()))
}
