// What changes from pass to pass, in device memory: see `state.rs`. Words 0.. are rows, rows that ask for logits,
// passes done; from word 8 four words per row: token, slot, position, place among those that ask (or NONE).
const STATE_ROWS: u32 = 0u;
const STATE_ASKED: u32 = 1u;
const STATE_PASS: u32 = 2u;
const STATE_FIRST: u32 = 8u;
const NONE: u32 = 0xffffffffu;
fn row_at(row: u32) -> u32 { return STATE_FIRST + 4u * row; }
