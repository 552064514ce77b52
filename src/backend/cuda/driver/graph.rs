//! Work captured from a stream, to be launched again as one.

use super::{Context, DriverError, Stream, check};
use cudarc::driver::sys;
use std::sync::Arc;

/// An executable graph.
#[derive(Debug)]
pub(in crate::backend::cuda) struct Graph {
    context: Arc<Context>,
    exec: sys::CUgraphExec,
}

// SAFETY: a graph is a handle; `launch` takes `&self`, but a `Graph` is not shared between threads.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `record` queues in the stream, and instantiates it. Nothing of it runs.
    pub(in crate::backend::cuda) fn capture<E: From<DriverError>>(
        stream: &Stream,
        record: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        stream.context.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives and is not the legacy one.
        check(unsafe { sys::cuStreamBeginCapture_v2(stream.stream, mode) })?;
        let recorded = record();
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes one handle. The capture is ended whether or not recording failed.
        let ended = check(unsafe { sys::cuStreamEndCapture(stream.stream, &raw mut graph) });
        let mut exec = std::ptr::null_mut();
        let made = recorded.and_then(|()| {
            ended?;
            // SAFETY: the graph is whole; writes one handle, destroyed once, in `drop`.
            check(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0) })?;
            Ok(())
        });
        if !graph.is_null() {
            // SAFETY: the executable graph has its own copy; destroyed once.
            let _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        made?;
        let graph = Self { context: Arc::clone(&stream.context), exec };
        // SAFETY: both live.
        check(unsafe { sys::cuGraphUpload(graph.exec, stream.stream) })?;
        Ok(graph)
    }

    /// Queues everything in it.
    pub(in crate::backend::cuda) fn launch(&self, stream: &Stream) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: both live; the memory that the graph touches belongs to whoever owns the graph.
        check(unsafe { sys::cuGraphLaunch(self.exec, stream.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let bound = self.context.bind();
        // SAFETY: instantiated once, destroyed once; a launch that is under way is finished first.
        let _ = bound.and_then(|()| check(unsafe { sys::cuGraphExecDestroy(self.exec) }));
    }
}
