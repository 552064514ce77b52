//! Streams and events. A command has run when its call returns, so waiting is only a check.

use crate::code::{Code, INVALID_HANDLE, INVALID_VALUE, STREAM_CAPTURE_UNSUPPORTED};
use crate::raw::{Handle, entry, put};
use crate::state::{DEFAULT_STREAMS, Driver, Event, Stream, done, ready};
use std::ffi::{c_int, c_uint};
use std::time::Instant;

impl Driver {
    pub(crate) fn event(&mut self, event: Handle) -> Result<&mut Event, Code> {
        self.events.get_mut(&(event as usize)).ok_or(INVALID_HANDLE)
    }

    /// What may not be done to a stream that is capturing; it spoils the capture.
    fn not_capturing(&mut self, stream: Handle) -> Result<(), Code> {
        if let Some(capture) = self.stream(stream)?.capture {
            if let Some(capture) = self.captures.get_mut(&capture) {
                capture.spoiled = true;
            }
            return Err(STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }
}

entry! {
    /// A new stream.
    cuStreamCreate(stream: *mut Handle, _flags: c_uint) {
        ready(|d| {
            d.healthy()?;
            let handle = d.handle();
            d.streams.insert(handle, Stream::default());
            done(put(stream, handle as Handle))
        })
    }

    /// A new stream; there is one priority.
    cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, _priority: c_int) { cuStreamCreate(stream, flags) }

    /// Destroys a stream.
    cuStreamDestroy_v2(stream: Handle) {
        ready(|d| {
            if stream as usize <= DEFAULT_STREAMS {
                return Err(INVALID_HANDLE);
            }
            d.streams.remove(&(stream as usize)).map(|_| ()).ok_or(INVALID_HANDLE)
        })
    }

    /// Reports what broke; a capturing stream cannot be waited for.
    cuStreamSynchronize(stream: Handle) {
        ready(|d| {
            d.not_capturing(stream)?;
            d.memory.synchronize();
            d.healthy()
        })
    }

    /// Always finished.
    cuStreamQuery(stream: Handle) {
        ready(|d| {
            d.not_capturing(stream)?;
            d.healthy()
        })
    }

    /// Waiting for an event of a capture brings the stream into that capture.
    cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) {
        ready(|d| {
            let capture = d.event(event)?.capture.filter(|c| d.captures.contains_key(c));
            d.memory.synchronize();
            let s = d.stream(stream)?;
            match (s.capture, capture) {
                (None, Some(capture)) => s.capture = Some(capture),
                (Some(own), Some(other)) if own != other => return Err(crate::code::STREAM_CAPTURE_UNMATCHED),
                _ => {}
            }
            Ok(())
        })
    }

    /// A new event.
    cuEventCreate(event: *mut Handle, _flags: c_uint) {
        ready(|d| {
            let handle = d.handle();
            d.events.insert(handle, Event::default());
            done(put(event, handle as Handle))
        })
    }

    /// Marks now; in a capture, the place in it.
    cuEventRecord(event: Handle, stream: Handle) {
        ready(|d| {
            d.healthy()?;
            let capture = d.stream(stream)?.capture;
            let e = d.event(event)?;
            e.capture = capture;
            e.recorded = if capture.is_none() { Some(Instant::now()) } else { None };
            Ok(())
        })
    }

    /// Always there.
    cuEventSynchronize(event: Handle) {
        ready(|d| {
            if d.event(event)?.capture.is_some() {
                return Err(STREAM_CAPTURE_UNSUPPORTED);
            }
            d.memory.synchronize();
            d.healthy()
        })
    }

    /// Always there.
    cuEventQuery(event: Handle) { cuEventSynchronize(event) }

    /// Host time between two events, milliseconds.
    cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) {
        ready(|d| {
            let (start, end) = (d.event(start)?.recorded, d.event(end)?.recorded);
            let (Some(start), Some(end)) = (start, end) else { return Err(INVALID_HANDLE) };
            let seconds = end.saturating_duration_since(start).as_secs_f32();
            if seconds.is_finite() { done(put(milliseconds, seconds * 1e3)) } else { Err(INVALID_VALUE) }
        })
    }

    /// The same.
    cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) {
        cuEventElapsedTime(milliseconds, start, end)
    }

    /// Destroys an event.
    cuEventDestroy_v2(event: Handle) {
        ready(|d| d.events.remove(&(event as usize)).map(|_| ()).ok_or(INVALID_HANDLE))
    }
}
