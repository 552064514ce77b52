//! A pool of threads that run one closure together and meet at barriers.
//!
//! A token is a hundred short phases with a barrier after each, so the barrier is the unit of cost, not the task: a
//! wait is a few loads of one cache line, nothing is queued, stolen or allocated. Between runs a worker spins for a
//! bounded number of rounds, since the next token is usually microseconds away, then parks: an idle pool costs nothing.
//! All waiting yields to the scheduler after a while, so that more threads than cores still make progress.
//!
//! A panic in a worker poisons the run: every barrier lets the others out by unwinding them too, and
//! [`Pool::run`] returns an error.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};

use memmap2::MmapMut;

/// Rounds that a thread spins at a barrier before it starts to yield.
const SPINS_AT_BARRIER: u32 = 4_000;
/// Rounds that a worker spins for the next run before it parks, about 100 microseconds.
const SPINS_BEFORE_PARK: u32 = 10_000;

/// Why a run did not finish.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// A worker panicked.
    #[error("worker {worker} of {workers} panicked: {message}")]
    Panicked {
        /// Index of the worker.
        worker: usize,
        /// Threads of the pool.
        workers: usize,
        /// What it said.
        message: String,
    },
    /// The pool was asked to run from within a run, or by two threads at a time.
    #[error("the pool is already running; a run cannot start another")]
    Busy,
    /// The operating system gave no memory for a buffer.
    #[error("cannot map {bytes} bytes: {reason}; ask for a shorter context or a smaller batch")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's words.
        reason: String,
    },
    /// The operating system gave no thread.
    #[error("cannot start worker {worker}: {reason}; ask for fewer threads")]
    Spawn {
        /// Index of the worker.
        worker: usize,
        /// The system's words.
        reason: String,
    },
}

/// A value on cache lines of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Padded<T>(T);

/// Where the workers of one run meet.
///
/// The generation turns over when the last one arrives (a sense that reverses, counted instead of flipped).
#[derive(Debug)]
pub struct Barrier {
    workers: usize,
    arrived: Padded<AtomicUsize>,
    generation: Padded<AtomicUsize>,
    poisoned: AtomicBool,
}

/// The payload that unwinds workers out of a poisoned run.
struct Poisoned;

impl Barrier {
    fn new(workers: usize) -> Self {
        Self {
            workers,
            arrived: Padded::default(),
            generation: Padded::default(),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Workers that meet here.
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Waits until every worker is here. What any of them wrote before is visible to all after.
    ///
    /// If a worker has panicked, this unwinds the caller too; [`Pool::run`] turns it into an error.
    pub fn wait(&self) {
        if self.workers == 1 {
            return;
        }
        let generation = self.generation.0.load(Ordering::Acquire);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.workers {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.generation.0.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.0.load(Ordering::Acquire) == generation {
            if self.poisoned.load(Ordering::Acquire) {
                resume_unwind(Box::new(Poisoned));
            }
            relax(&mut spins, SPINS_AT_BARRIER);
        }
    }
}

/// One round of waiting: a pause, or after `limit` of them a yield.
fn relax(spins: &mut u32, limit: u32) {
    if *spins < limit {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

/// The closure of a run, its lifetime erased.
type Job = *const (dyn Fn(usize, &Barrier) + Sync);

/// What the pool's owner and its workers share.
struct Shared {
    barrier: Barrier,
    /// Counts runs; a worker that sees it move takes the job.
    epoch: Padded<AtomicUsize>,
    /// Workers that have not finished the run.
    running: Padded<AtomicUsize>,
    /// Written before `epoch` moves, read after, never while a worker may hold it.
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    /// Per worker but the first: it is parked or about to be.
    parked: Vec<Padded<AtomicBool>>,
    /// The first panic of the run.
    panic: Mutex<Option<(usize, String)>>,
}

// SAFETY: `job` is written only by the thread that holds `Pool::running`, while no worker runs (`running` is 0), and
// read by workers only between the release of `epoch` and their release of `running`. The closure is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used as described above, whichever thread owns the rest.
unsafe impl Send for Shared {}

impl Shared {
    /// Runs the job as `worker`; a panic is recorded and poisons the barrier.
    fn work(&self, worker: usize, job: &(dyn Fn(usize, &Barrier) + Sync)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(worker, &self.barrier))) {
            if !payload.is::<Poisoned>() {
                let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                panic.get_or_insert_with(|| (worker, message(payload.as_ref())));
            }
            self.barrier.poisoned.store(true, Ordering::Release);
        }
    }

    /// What a worker thread does all its life.
    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.epoch.0.load(Ordering::Acquire) == seen {
                if spins < SPINS_BEFORE_PARK {
                    relax(&mut spins, SPINS_BEFORE_PARK);
                } else if let Some(Padded(parked)) = self.parked.get(worker - 1) {
                    parked.store(true, Ordering::SeqCst);
                    if self.epoch.0.load(Ordering::SeqCst) == seen {
                        thread::park();
                    }
                    parked.store(false, Ordering::SeqCst);
                }
            }
            seen = self.epoch.0.load(Ordering::Acquire);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: the epoch has moved, so the job is written; it is not touched again before this worker has
            // counted itself out of `running`.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: `Pool::run` keeps the closure alive until `running` is 0.
                self.work(worker, unsafe { &*job });
            }
            self.running.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The text of a panic.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

/// Threads that run closures together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
    running: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; 0 counts as 1.
    ///
    /// # Errors
    /// If the system starts no more threads.
    pub fn new(threads: usize) -> Result<Self, PoolError> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            barrier: Barrier::new(threads),
            epoch: Padded::default(),
            running: Padded::default(),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| Padded::default()).collect(),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::new(), threads: Vec::new(), running: Mutex::new(()) };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let spawned = thread::Builder::new()
                .name(format!("aprgpu-worker-{worker}"))
                .spawn(move || shared.serve(worker))
                .map_err(|e| PoolError::Spawn { worker, reason: e.to_string() })?;
            pool.threads.push(spawned.thread().clone());
            pool.workers.push(spawned);
        }
        Ok(pool)
    }

    /// Threads that a run has, the caller's included.
    pub fn threads(&self) -> usize {
        self.shared.barrier.workers
    }

    /// Runs `job` once on every thread, as workers `0..threads`, the caller being worker 0; returns when all are done.
    ///
    /// Every worker must wait at the barrier equally often. Nothing is allocated.
    ///
    /// # Errors
    /// [`PoolError::Panicked`] if a worker panicked, [`PoolError::Busy`] if the pool is running already.
    pub fn run(&self, job: impl Fn(usize, &Barrier) + Sync) -> Result<(), PoolError> {
        let guard = match self.running.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(PoolError::Busy),
        };
        let shared = &*self.shared;
        let job: &(dyn Fn(usize, &Barrier) + Sync) = &job;
        if !self.workers.is_empty() {
            // SAFETY: only the lifetime is erased; this function does not return, nor unwind, before `running` is 0,
            // which is when no worker uses the closure any more.
            let erased: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize, &Barrier) + Sync), Job>(job) };
            // SAFETY: no worker runs, and this thread holds the lock: see `Shared`.
            unsafe { *shared.job.get() = Some(erased) };
            shared.running.0.store(self.workers.len(), Ordering::Release);
            self.wake();
        }
        shared.work(0, job);
        let mut spins = 0;
        while shared.running.0.load(Ordering::Acquire) != 0 {
            relax(&mut spins, SPINS_AT_BARRIER);
        }
        let outcome = if shared.barrier.poisoned.swap(false, Ordering::AcqRel) {
            shared.barrier.arrived.0.store(0, Ordering::Release);
            let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (worker, message) = panic.unwrap_or((0, "no message".to_owned()));
            Err(PoolError::Panicked { worker, workers: self.threads(), message })
        } else {
            Ok(())
        };
        drop(guard);
        outcome
    }

    /// Moves the epoch and wakes who has parked.
    fn wake(&self) {
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (parked, thread) in self.shared.parked.iter().zip(&self.threads) {
            if parked.0.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches its panics, so this cannot fail; in a destructor there is no one to tell.
            let _ = worker.join();
        }
    }
}

/// A contiguous share of `items` for one of `workers`: shares differ by at most one, in the order of the workers.
pub const fn share(items: usize, worker: usize, workers: usize) -> Range<usize> {
    let (each, rest) = (items / workers, items % workers);
    let start = worker * each + if worker < rest { worker } else { rest };
    start..start + each + (worker < rest) as usize
}

/// A buffer that the workers of a run write in disjoint ranges: zeroed at first, aligned to a page.
///
/// It is mapped anonymously, so memory that is never touched (the far end of a KV cache) is never taken.
pub struct SharedBuffer<T> {
    /// Start of `memory`, which is accessed through this pointer only.
    start: NonNull<T>,
    len: usize,
    /// Owns the memory.
    _memory: MmapMut,
}

// SAFETY: the buffer owns its memory, as a `Vec` does.
unsafe impl<T: bytemuck::Pod + Send> Send for SharedBuffer<T> {}
// SAFETY: all access to the contents from a shared reference goes through unsafe methods whose callers promise that
// ranges written by one thread are not accessed by another at the same time.
unsafe impl<T: bytemuck::Pod + Send> Sync for SharedBuffer<T> {}

impl<T> std::fmt::Debug for SharedBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedBuffer").field("len", &self.len).finish()
    }
}

impl<T: bytemuck::Pod> SharedBuffer<T> {
    /// A buffer of `len` zeroes.
    ///
    /// # Errors
    /// [`PoolError::Memory`] if the system has no room for it.
    pub fn new(len: usize) -> Result<Self, PoolError> {
        let error = |bytes, reason| PoolError::Memory { bytes, reason };
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
        let bytes = bytes.ok_or_else(|| error(usize::MAX, "more than the address space".to_owned()))?;
        let mut memory = MmapMut::map_anon(bytes).map_err(|e| error(bytes, e.to_string()))?;
        let start = NonNull::new(memory.as_mut_ptr().cast::<T>());
        let start = start.ok_or_else(|| error(bytes, "the mapping has no address".to_owned()))?;
        Ok(Self { start, len, _memory: memory })
    }

    /// Values in the buffer.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole buffer, by its only owner.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let len = self.len;
        // SAFETY: a mutable reference to the buffer rules out every other access.
        unsafe { self.slice_mut(0..len) }
    }

    /// Clamps a range to the buffer.
    fn clamp(&self, range: Range<usize>) -> Range<usize> {
        let end = range.end.min(self.len);
        range.start.min(end)..end
    }

    /// Values of a range, cut off at the buffer's end.
    ///
    /// # Safety
    /// While the slice lives, no thread may write any part of the range: writers and readers of a range must be the same
    /// thread or be separated by a [`Barrier::wait`].
    pub unsafe fn slice(&self, range: Range<usize>) -> &[T] {
        let range = self.clamp(range);
        let start = self.start.as_ptr();
        // SAFETY: the range lies within the mapping, whose alignment of a page suffices for every `T`; its bytes are
        // zeroes at first and valid for a `Pod` type whatever they are; the caller rules out concurrent writes.
        unsafe { std::slice::from_raw_parts(start.add(range.start), range.len()) }
    }

    /// Values of a range for writing, cut off at the buffer's end.
    ///
    /// # Safety
    /// While the slice lives, no other slice of any part of the range may be alive, on this or any other thread: threads
    /// write disjoint ranges, or are separated by a [`Barrier::wait`].
    #[expect(clippy::mut_from_ref, reason = "the point of the type; the obligations are the caller's")]
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &mut [T] {
        let range = self.clamp(range);
        let start = self.start.as_ptr();
        // SAFETY: as in `slice`, and the mapping is writable; the caller rules out every other access to the range.
        unsafe { std::slice::from_raw_parts_mut(start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_see_what_others_wrote_before_the_barrier() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            let buffer = SharedBuffer::<u32>::new(threads).unwrap();
            for round in 1..200 {
                pool.run(|worker, barrier| {
                    // SAFETY: each worker writes its own element; the barrier separates writing from reading.
                    unsafe { buffer.slice_mut(worker..worker + 1)[0] = round };
                    barrier.wait();
                    // SAFETY: nobody writes before the next barrier.
                    assert!(unsafe { buffer.slice(0..threads) }.iter().all(|&x| x == round));
                    barrier.wait();
                })
                .unwrap();
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for worker in 0..3 {
            let failed = pool.run(|me, barrier| {
                assert!(me != worker, "planted");
                barrier.wait();
                barrier.wait();
            });
            let message = "planted".to_owned();
            assert_eq!(failed, Err(PoolError::Panicked { worker, workers: 3, message }));
            let count = AtomicUsize::new(0);
            pool.run(|_, barrier| {
                count.fetch_add(1, Ordering::Relaxed);
                barrier.wait();
            })
            .unwrap();
            assert_eq!(count.into_inner(), 3);
        }
    }

    #[test]
    fn a_run_within_a_run_is_refused() {
        let pool = Pool::new(2).unwrap();
        let inner = Mutex::new(Ok(()));
        pool.run(|worker, _| {
            if worker == 1 {
                *inner.lock().unwrap() = pool.run(|_, _| ());
            }
        })
        .unwrap();
        assert_eq!(inner.into_inner().unwrap(), Err(PoolError::Busy));
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            while !pool.shared.parked.iter().all(|p| p.0.load(Ordering::SeqCst)) {
                thread::yield_now();
            }
            pool.run(|_, barrier| barrier.wait()).unwrap();
        }
    }

    #[test]
    fn shares_are_disjoint_and_complete() {
        for items in [0, 1, 2, 7, 16, 33] {
            for workers in 1..9 {
                let mut next = 0;
                for worker in 0..workers {
                    let range = share(items, worker, workers);
                    assert_eq!(range.start, next);
                    next = range.end;
                }
                assert_eq!(next, items);
            }
        }
    }

    #[test]
    fn ranges_are_cut_off_at_the_end() {
        let mut buffer = SharedBuffer::<f32>::new(5).unwrap();
        assert!(SharedBuffer::<f32>::new(usize::MAX / 2).is_err() && SharedBuffer::<f32>::new(0).is_ok());
        assert_eq!(buffer.as_mut_slice().len(), 5);
        // SAFETY: nothing else accesses the buffer.
        assert_eq!(unsafe { buffer.slice(3..100) }.len(), 2);
        // SAFETY: nothing else accesses the buffer.
        assert_eq!(unsafe { buffer.slice(9..100) }.len(), 0);
    }
}
