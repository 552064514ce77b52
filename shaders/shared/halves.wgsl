// Sums of 32 numbers: halves are added until one is left, the order of every backend.
var<private> halved: array<f32, 32>;
fn sum_of_halves() -> f32 {
    for (var half = 16u; half > 0u; half >>= 1u) {
        for (var i = 0u; i < half; i++) { halved[i] += halved[i + half]; }
    }
    return halved[0];
}
