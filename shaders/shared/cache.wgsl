// Rotation of a pair, its dimensions, and the append to the cache.
fn turn(position: u32, pair: u32, a: f32, b: f32) -> vec2<f32> {
    if pair >= params.rope_pairs { return vec2(a, b); }
    let c = rope[position * params.rope_pairs + pair];
    return vec2(a * c.x - b * c.y, a * c.y + b * c.x);
}

// The dimensions that pair `pair` of the stored order stands for.
fn dims_of(pair: u32) -> vec2<u32> {
    if has(FLAG_NEOX) && pair < params.rope_pairs { return vec2(pair, pair + params.rope_pairs); }
    return vec2(2u * pair, 2u * pair + 1u);
}

fn words_per_head() -> u32 { return select(params.head_dim / 2u, params.head_dim, has(FLAG_KV_F32)); }

fn key_place(slot: u32, head: u32, position: u32, word: u32) -> u32 {
    let tile = ((slot * params.num_kv_heads + head) * params.context + position) / 32u;
    return ((tile * (words_per_head() / 4u) + word / 4u) * 32u + position % 32u) * 4u + word % 4u;
}

fn append_key(slot: u32, head: u32, position: u32, pair: u32, a: f32, b: f32) {
    if has(FLAG_KV_F32) {
        keys[key_place(slot, head, position, 2u * pair)] = bitcast<u32>(a);
        keys[key_place(slot, head, position, 2u * pair + 1u)] = bitcast<u32>(b);
    } else {
        keys[key_place(slot, head, position, pair)] = half_pair(a, b);
    }
}

#ifndef KEYS_ONLY
fn append_value(slot: u32, head: u32, position: u32, pair: u32, a: f32, b: f32) {
    let place = ((slot * params.num_kv_heads + head) * params.context + position) * words_per_head();
    if has(FLAG_KV_F32) {
        values[place + 2u * pair] = bitcast<u32>(a);
        values[place + 2u * pair + 1u] = bitcast<u32>(b);
    } else {
        values[place + pair] = half_pair(a, b);
    }
}
#endif
