//! Tokens: the part that knows when to run what. The scheduler alone chooses batch, chunk, capture and replay; a
//! generation turns its tokens into text and knows when to stop.

mod ahead;
mod choice;
mod device;
mod error;
mod generate;
mod load;
mod scheduler;
mod stop;

pub use choice::BackendChoice;
pub use device::{Device, MAX_BATCH};
pub use error::Error;
pub use generate::{Finish, Generated, Generator, Request};
pub use load::{LoadReport, SetUp, Settings, decoder, load, rope_table, set_up, start, weight_source};
pub use scheduler::{Produced, Scheduler, SequenceId, Stats};
pub use stop::StopStrings;
