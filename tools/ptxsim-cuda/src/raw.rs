//! The places where pointers of the caller are followed.

use crate::code::{Code, INVALID_VALUE, OK};
use std::ffi::{CStr, c_char, c_void};

/// A handle as the API passes it.
pub(crate) type Handle = *mut c_void;

/// Defines exported entry points: C functions that return an error code.
macro_rules! entry {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        // SAFETY: the name is the driver API's, and nothing else in this library defines it.
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name($($arg: $ty),*) -> $crate::code::Code $body
    )*};
}
pub(crate) use entry;

/// Writes an out-parameter; null is an invalid value.
pub(crate) fn put<T>(out: *mut T, value: T) -> Code {
    if out.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the API asks for a pointer to writable memory for a `T`, and it is not null.
    unsafe { out.write(value) };
    OK
}

/// Writes an out-parameter that may be left out.
pub(crate) fn put_if<T>(out: *mut T, value: T) {
    if !out.is_null() {
        put(out, value);
    }
}

/// Element `at` of an array of the caller.
pub(crate) fn element<T: Copy>(array: *const T, at: usize) -> Option<T> {
    if array.is_null() {
        return None;
    }
    // SAFETY: the API asks for an array that is longer than `at`, and it is not null.
    Some(unsafe { array.add(at).read_unaligned() })
}

/// Copies `len` bytes from the caller.
pub(crate) fn bytes_from(source: *const c_void, len: usize) -> Option<Vec<u8>> {
    if len == 0 {
        return Some(vec![]);
    }
    if source.is_null() {
        return None;
    }
    // SAFETY: the API asks for `len` readable bytes, and the pointer is not null.
    Some(unsafe { std::slice::from_raw_parts(source.cast::<u8>(), len) }.to_vec())
}

/// Copies bytes to the caller.
pub(crate) fn bytes_to(target: *mut c_void, bytes: &[u8]) -> Code {
    if bytes.is_empty() {
        return OK;
    }
    if target.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the API asks for as many writable bytes as are copied, and `bytes` is memory of this library.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.cast::<u8>(), bytes.len()) };
    OK
}

/// A string of the caller.
pub(crate) fn text(source: *const c_char) -> Option<String> {
    if source.is_null() {
        return None;
    }
    // SAFETY: the API asks for a string that ends with a zero byte, and the pointer is not null.
    Some(unsafe { CStr::from_ptr(source) }.to_string_lossy().into_owned())
}

/// Writes a string with its zero byte into a buffer of `len` bytes, cut where it does not fit.
pub(crate) fn text_to(target: *mut c_char, len: usize, value: &str) -> Code {
    let Some(room) = len.checked_sub(1) else { return INVALID_VALUE };
    let mut bytes: Vec<u8> = value.bytes().filter(|b| *b != 0).take(room).collect();
    bytes.push(0);
    bytes_to(target.cast(), &bytes)
}
