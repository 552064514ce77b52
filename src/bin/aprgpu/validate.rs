//! `aprgpu validate`.

use crate::args::ValidateArgs;
use crate::failure::Failure;

pub(crate) fn validate(_args: &ValidateArgs) -> Result<(), Failure> {
    Err(Failure::Usage("not there yet".to_owned()))
}
