//! Stream capture, graphs and their replay.
//!
//! A capture records the commands of its streams in the order of the calls, and a replay runs them in that order:
//! one of the orders that a graph allows.

use crate::code::{
    ILLEGAL_STATE, INVALID_HANDLE, INVALID_VALUE, STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_UNMATCHED,
    STREAM_CAPTURE_UNSUPPORTED,
};
use crate::launch::Command;
use crate::raw::{Handle, element, entry, put, put_if};
use crate::state::{done, ready};
use std::ffi::{c_int, c_uint};
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Capture {
    /// The stream that began it.
    origin: usize,
    pub(crate) commands: Vec<Command>,
    /// Something happened that a capture does not allow.
    pub(crate) spoiled: bool,
}

/// Node handles carry the graph and the place in it.
fn node(graph: usize, at: usize) -> Handle {
    ((graph << 24) | at) as Handle
}

entry! {
    /// Begins a capture.
    cuStreamBeginCapture_v2(stream: Handle, mode: c_int) {
        ready(|d| {
            d.healthy()?;
            if !(0..=2).contains(&mode) {
                return Err(INVALID_VALUE);
            }
            // the legacy stream cannot be captured
            if (stream as usize) <= 1 {
                return Err(STREAM_CAPTURE_UNSUPPORTED);
            }
            if d.stream(stream)?.capture.is_some() {
                return Err(ILLEGAL_STATE);
            }
            let handle = d.handle();
            d.captures.insert(handle, Capture { origin: stream as usize, ..Capture::default() });
            d.stream(stream)?.capture = Some(handle);
            Ok(())
        })
    }

    /// Ends a capture with its graph, or with null and an error if it was spoiled.
    cuStreamEndCapture(stream: Handle, graph: *mut Handle) {
        ready(|d| {
            let id = d.stream(stream)?.capture.ok_or(ILLEGAL_STATE)?;
            let capture = d.captures.get(&id).ok_or(ILLEGAL_STATE)?;
            if capture.origin != stream as usize {
                return Err(STREAM_CAPTURE_UNMATCHED);
            }
            let capture = d.captures.remove(&id).ok_or(ILLEGAL_STATE)?;
            for s in d.streams.values_mut().filter(|s| s.capture == Some(id)) {
                s.capture = None;
            }
            for e in d.events.values_mut().filter(|e| e.capture == Some(id)) {
                e.capture = None;
            }
            if capture.spoiled {
                put_if(graph, std::ptr::null_mut());
                return Err(STREAM_CAPTURE_INVALIDATED);
            }
            let handle = d.handle();
            d.graphs.insert(handle, Arc::new(capture.commands));
            done(put(graph, handle as Handle))
        })
    }

    /// 0: not capturing, 1: capturing, 2: spoiled.
    cuStreamIsCapturing(stream: Handle, status: *mut c_int) {
        ready(|d| {
            let capture = d.stream(stream)?.capture;
            let spoiled = capture.and_then(|c| d.captures.get(&c)).is_some_and(|c| c.spoiled);
            done(put(status, c_int::from(capture.is_some()) + c_int::from(spoiled)))
        })
    }

    /// Makes a graph that can be launched.
    cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, _flags: u64) {
        ready(|d| {
            let commands = d.graphs.get(&(graph as usize)).ok_or(INVALID_HANDLE)?.clone();
            let handle = d.handle();
            d.graph_execs.insert(handle, commands);
            done(put(exec, handle as Handle))
        })
    }

    /// Nothing to upload.
    cuGraphUpload(exec: Handle, _stream: Handle) {
        ready(|d| if d.graph_execs.contains_key(&(exec as usize)) { Ok(()) } else { Err(INVALID_HANDLE) })
    }

    /// Replays a graph; in a capturing stream, its commands join the capture.
    cuGraphLaunch(exec: Handle, stream: Handle) {
        ready(|d| {
            let commands = d.graph_execs.get(&(exec as usize)).ok_or(INVALID_HANDLE)?.clone();
            for command in commands.iter() {
                d.submit(stream, command.clone())?;
            }
            Ok(())
        })
    }

    /// Destroys an executable graph.
    cuGraphExecDestroy(exec: Handle) {
        ready(|d| d.graph_execs.remove(&(exec as usize)).map(|_| ()).ok_or(INVALID_HANDLE))
    }

    /// Destroys a graph.
    cuGraphDestroy(graph: Handle) {
        ready(|d| d.graphs.remove(&(graph as usize)).map(|_| ()).ok_or(INVALID_HANDLE))
    }

    /// The nodes, one for each command: their number, and as many handles as there is room for.
    cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) {
        ready(|d| {
            let len = d.graphs.get(&(graph as usize)).ok_or(INVALID_HANDLE)?.len();
            if !nodes.is_null() {
                let room = element(count, 0).ok_or(INVALID_VALUE)?;
                for at in 0..len.min(room) {
                    done(put(nodes.wrapping_add(at), node(graph as usize, at)))?;
                }
            }
            done(put(count, len))
        })
    }

    /// 0: kernel, 1: copy, 2: fill.
    cuGraphNodeGetType(handle: Handle, kind: *mut c_uint) {
        ready(|d| {
            let (graph, at) = ((handle as usize) >> 24, (handle as usize) & 0xff_ffff);
            let command = d.graphs.get(&graph).and_then(|g| g.get(at)).ok_or(INVALID_HANDLE)?;
            done(put(kind, match command {
                Command::Launch(_) => 0,
                Command::Set { .. } => 2,
                _ => 1,
            }))
        })
    }
}
