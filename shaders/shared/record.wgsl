// A record is 32 columns of a row of activations, in eleven vec4: 0..8 float32 values, 8..10 the integers (four per
// word), 10 the header: scale, two sums of 16 integers (one word), the sum of squares before the norm's weight, unused.
//
// A norm's factor 1 / rms is not in a record: it is known only when the whole row is, and it scales every product of
// the row alike. Consumers sum the squares of the row's records and multiply their results. So a norm costs no
// dispatch of its own: whoever writes the residual stream writes the records of the next norm.
const RECORD: u32 = 11u;
const RECORD_WORDS: u32 = 44u;
