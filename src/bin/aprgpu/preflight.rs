//! `aprgpu preflight`.

use crate::args::PreflightArgs;
use crate::failure::Failure;

pub(crate) fn preflight(_args: &PreflightArgs) -> Result<(), Failure> {
    Err(Failure::Usage("not there yet".to_owned()))
}
