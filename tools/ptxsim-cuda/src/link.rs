//! Linking: PTX to an image that can be kept in a file. The image is the text behind a line that says how long it is and
//! what it adds up to, so that a damaged one is refused as machine code would be.

use crate::code::{INVALID_HANDLE, INVALID_VALUE};
use crate::raw::{Handle, bytes_from, element, entry, put, text_to};
use crate::state::{done, ready};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// `CUjit_option`s that carry the error log, and the `CUjitInputType` of PTX.
const ERROR_LOG: c_int = 5;
const ERROR_LOG_SIZE: c_int = 6;
const INPUT_PTX: c_int = 1;

/// A link under way.
#[derive(Default)]
pub(crate) struct Link {
    /// The caller's error log and its size.
    log: Option<(usize, usize)>,
    image: Vec<u8>,
}

const HEAD: &str = "// ptxsim image";

/// A sum that every byte changes (Fletcher's, modulo 2^32).
fn sum(text: &str) -> u32 {
    let (low, high) = text.bytes().fold((1u32, 0u32), |(low, high), byte| {
        let low = low.wrapping_add(u32::from(byte)) % 65521;
        (low, high.wrapping_add(low) % 65521)
    });
    high << 16 | low
}

fn wrap(source: &str) -> Vec<u8> {
    let mut image = format!("{HEAD} {} {}\n{source}", source.len(), sum(source)).into_bytes();
    image.push(0);
    image
}

/// The text of an image, or text that is none; `None` for a damaged image.
pub(crate) fn unwrap(image: &str) -> Option<&str> {
    let Some(rest) = image.strip_prefix(HEAD) else { return Some(image) };
    let (head, source) = rest.split_once('\n')?;
    let (len, expected) = head.trim().split_once(' ')?;
    let whole = len.parse() == Ok(source.len()) && expected.parse() == Ok(sum(source));
    whole.then_some(source)
}

entry! {
    /// Begins a link; of the options, the error log is used.
    cuLinkCreate_v2(count: c_uint, options: *const c_int, values: *const *mut c_void, state: *mut Handle) {
        ready(|d| {
            d.healthy()?;
            let value = |wanted: c_int| {
                let at = (0..count as usize).find(|i| element(options, *i) == Some(wanted))?;
                element(values, at)
            };
            let log = value(ERROR_LOG).zip(value(ERROR_LOG_SIZE)).map(|(at, len)| (at as usize, len as usize));
            let handle = d.handle();
            d.links.insert(handle, Link { log, image: vec![] });
            done(put(state, handle as Handle))
        })
    }

    /// Adds PTX text, one module per link; what is wrong with it goes to the error log.
    cuLinkAddData_v2(
        state: Handle, kind: c_int, data: *const c_void, size: usize, _name: *const c_char, _count: c_uint,
        _options: *const c_int, _values: *const *mut c_void,
    ) {
        ready(|d| {
            let log = d.links.get(&(state as usize)).ok_or(INVALID_HANDLE)?.log;
            if kind != INPUT_PTX {
                return Err(INVALID_VALUE);
            }
            let bytes = bytes_from(data, size).ok_or(INVALID_VALUE)?;
            let text = String::from_utf8_lossy(&bytes);
            let source = text.trim_end_matches('\0');
            crate::module::compile(d, source).map_err(|(code, message)| {
                if let Some((buffer, len)) = log {
                    text_to(buffer as *mut c_char, len, &message);
                }
                code
            })?;
            let link = d.links.get_mut(&(state as usize)).ok_or(INVALID_HANDLE)?;
            if !link.image.is_empty() {
                return Err(INVALID_VALUE);
            }
            link.image = wrap(source);
            Ok(())
        })
    }

    /// The image; it lives as long as the link.
    cuLinkComplete(state: Handle, image: *mut *const c_void, size: *mut usize) {
        ready(|d| {
            let link = d.links.get(&(state as usize)).ok_or(INVALID_HANDLE)?;
            done(put(image, link.image.as_ptr().cast()))?;
            done(put(size, link.image.len()))
        })
    }

    /// Ends a link.
    cuLinkDestroy(state: Handle) {
        ready(|d| d.links.remove(&(state as usize)).map(|_| ()).ok_or(INVALID_HANDLE))
    }
}
