// Down: the feed-forward layer's second half, added to the residual stream. Twin: backend/cpu/twin/down.rs.
#include "shared/linear.wgsl"
