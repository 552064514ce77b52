// AttnOut: the output projection, added to the residual stream. Twin: backend/cpu/twin/attn_out.rs.
#include "shared/linear.wgsl"
