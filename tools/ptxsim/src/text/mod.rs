//! PTX text to statements. No opcode is known here: the lowering decides what is supported.

pub(crate) mod ast;
mod lex;
mod parse;

pub(crate) use parse::parse;
