//! `cp.async`: bytes are read when it is issued and arrive at the wait, so that code which does not wait sees it.

use super::access::Use;
use super::block::{Block, Step};
use super::warp::{PendingCopy, Warp};
use crate::ir::{AsyncCopy, Inst, Space};

impl Block<'_> {
    pub(super) fn async_copy(&mut self, w: &mut Warp, inst: &Inst, copy: &AsyncCopy, m: u32) -> Step<()> {
        let len = copy.size;
        let to = self.addresses(w, inst, copy.to, m)?;
        let from = self.addresses(w, inst, copy.from, m)?;
        self.check_alignment(w, inst, &to, m, len)?;
        self.check_alignment(w, inst, &from, m, len)?;
        let read = match copy.source_size {
            Some(s) => self.get32(w, inst, s, m)?.map(|n| (n as usize).min(len)),
            None => [len; 32],
        };
        if self.grid.options.profile {
            self.profile_access(inst, Space::Global, &from, m, len);
        }
        let mut words = [[0u32; 8]; 32];
        for size in [4, 8, 16] {
            let lanes = (0..32).filter(|i| m >> i & 1 == 1 && read[*i] == size).fold(0, |l, i| l | 1 << i);
            self.each_global(w, inst, &from, lanes, (size, Use::Read, false), |_, i, a, offset| {
                a.load(offset, size, &mut words[i]);
            })?;
        }
        for i in (0..32).filter(|i| m >> i & 1 == 1) {
            if !matches!(read[i], 0 | 4 | 8 | 16) {
                // the rest of a partial source is zero; odd sizes go byte by byte
                self.read_bytes(w, inst, i, from[i], read[i], &mut words[i])?;
            }
            let size = self.shared.bytes.len();
            let at = self.check_range(w, inst, i, (to[i], len), ("the block's shared memory", size))?;
            self.check_shared(w, inst, i, (at, len), true, false)?;
            self.shared.mark(at, len, true);
            let mut bytes = [0; 16];
            for (slot, word) in bytes.chunks_exact_mut(4).zip(words[i]) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
            w.copies.push(PendingCopy {
                lane: i as u8,
                to: at,
                len: len as u8,
                bytes,
                group: w.copy_group[i],
            });
        }
        Ok(())
    }

    fn read_bytes(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        lane: usize,
        address: u64,
        count: usize,
        out: &mut [u32; 8],
    ) -> Step<()> {
        for k in 0..count {
            let at = [address + k as u64; 32];
            self.each_global(w, inst, &at, 1 << lane, (1, Use::Read, false), |_, _, a, offset| {
                let mut byte = [0; 8];
                a.load(offset, 1, &mut byte);
                out[(k / 4) & 7] |= byte[0] << (8 * (k % 4));
            })?;
        }
        Ok(())
    }

    pub(super) fn async_commit(w: &mut Warp, m: u32) {
        for i in (0..32).filter(|i| m >> i & 1 == 1) {
            w.copy_group[i] += 1;
        }
    }

    /// Lands the copies of lanes `m` in all but the last `pending` groups; all of them for `None`.
    pub(super) fn async_wait(&mut self, w: &mut Warp, inst: &Inst, m: u32, pending: Option<u32>) -> Step<()> {
        for copy in std::mem::take(&mut w.copies) {
            let lane = usize::from(copy.lane);
            let group_done = pending.is_none_or(|n| copy.group.saturating_add(n) < w.copy_group[lane & 31]);
            if m >> lane & 1 == 0 || !group_done {
                w.copies.push(copy);
                continue;
            }
            let len = usize::from(copy.len);
            let mut words = [0; 8];
            for (word, bytes) in words.iter_mut().zip(copy.bytes.chunks_exact(4)) {
                *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            self.shared.mark(copy.to, len, false);
            self.note_shared(w, inst, lane, (copy.to, len), true)?;
            self.shared.store(copy.to, len, &words);
        }
        Ok(())
    }
}
