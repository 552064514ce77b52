// Positions per part of attention, and the first position that a row sees.
const SPLIT: u32 = 256u;
fn first_position(end: u32) -> u32 {
    if params.window == 0u || end <= params.window { return 0u; }
    return end - params.window;
}
