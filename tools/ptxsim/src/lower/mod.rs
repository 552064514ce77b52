//! Statements to executable instructions: names resolved, types checked, every modifier accounted for.

mod control;
mod convert;
mod float;
mod integer;
mod memory;
mod modifiers;
mod operand;
mod symbols;
mod warp;

use crate::error::{ParseError, ParseResult, SourceLine, parse_error};
use crate::ir::{Inst, Kernel, Op, Pred, Ty};
use crate::text::ast::{Entry, Instruction, Source, Statement};
use modifiers::Modifiers;
use std::collections::HashMap;
use std::sync::Arc;
use symbols::Symbols;

/// Lowers every kernel of a module.
pub(crate) fn lower(source: &Source) -> ParseResult<Vec<Kernel>> {
    let (globals, constants) = symbols::module_scope(source)?;
    let constants: Arc<[u8]> = constants.into();
    source
        .entries
        .iter()
        .map(|entry| {
            let kernel = Lowering::new(source, entry, globals.clone(), constants.clone()).entry(entry);
            kernel.map_err(|e| ParseError { source: source.lines.find(e.line), ..e })
        })
        .collect()
}

/// The state while one kernel is lowered.
struct Lowering<'a> {
    source: &'a Source,
    symbols: Symbols,
    kernel: Kernel,
    line: u32,
    /// Instructions by the braces that their label stands in, and its name.
    labels: HashMap<(u32, String), u32>,
    branches: Vec<Branch>,
    /// Numbers of the open braces, the innermost last, and of those opened so far.
    braces: Vec<u32>,
    opened: u32,
    contractible: bool,
}

/// A branch whose label may stand further on.
struct Branch {
    at: usize,
    label: String,
    /// The braces around it: a label is looked for in the innermost first.
    braces: Vec<u32>,
}

impl<'a> Lowering<'a> {
    fn new(source: &'a Source, entry: &Entry, symbols: Symbols, constants: Arc<[u8]>) -> Self {
        let kernel = Kernel {
            name: entry.name.clone(),
            code: vec![],
            narrow_names: vec![],
            wide_names: vec![],
            pred_names: vec![],
            params: vec![],
            param_size: 0,
            shared: 0,
            local: 0,
            max_threads: None,
            required_block: None,
            constants,
            sources: vec![],
        };
        Lowering {
            source,
            symbols,
            kernel,
            line: entry.line,
            labels: HashMap::new(),
            branches: vec![],
            braces: vec![0],
            opened: 0,
            contractible: false,
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> ParseResult<T> {
        parse_error(self.line, message)
    }

    fn entry(mut self, entry: &Entry) -> ParseResult<Kernel> {
        for (line, word, values) in &entry.directives {
            self.directive(*line, word, values)?;
        }
        for d in &entry.params {
            let (offset, size, align) = self.symbols.param(d, self.kernel.param_size)?;
            self.kernel.params.push(crate::ir::Param { name: d.name.clone(), offset, size, align });
            self.kernel.param_size = offset + size;
        }
        self.kernel.shared = self.symbols.place_dynamic(&self.source.variables, &entry.body)?;
        let mut location = None;
        for statement in &entry.body {
            match statement {
                Statement::Open => {
                    self.symbols.open();
                    self.opened += 1;
                    self.braces.push(self.opened);
                }
                Statement::Close => {
                    self.symbols.close();
                    self.braces.pop();
                }
                Statement::Declaration(d) => self.symbols.declare(d)?,
                Statement::Location(file, line) => location = self.location(*file, *line),
                Statement::Label(line, name) => {
                    let place = (self.braces.last().copied().unwrap_or(0), name.clone());
                    if self.labels.insert(place, self.kernel.code.len() as u32).is_some() {
                        return parse_error(*line, format!("label '{name}' stands twice"));
                    }
                }
                Statement::Instruction(i) => {
                    let mapped = self.source.lines.find(i.line).or_else(|| location.clone());
                    if let Some(source) = mapped
                        && self.kernel.sources.last().is_none_or(|s| s.0 < i.line)
                    {
                        self.kernel.sources.push((i.line, source));
                    }
                    self.instruction(i)?;
                }
            }
        }
        let end = Inst { op: Op::Return, guard: None, line: self.line, contractible: false };
        self.kernel.code.push(end);
        for Branch { at, label, braces } in std::mem::take(&mut self.branches) {
            let line = self.kernel.code.get(at).map_or(0, |i| i.line);
            let found = |brace: &u32| self.labels.get(&(*brace, label.clone()));
            let Some(to) = braces.iter().rev().find_map(found) else {
                return parse_error(
                    line,
                    format!("there is no label '{label}' in these braces or around them"),
                );
            };
            if let Some(i) = self.kernel.code.get_mut(at) {
                i.op = Op::Branch { to: *to };
            }
        }
        self.kernel.local = self.symbols.local.next_multiple_of(16);
        let names = self.symbols.register_names();
        [self.kernel.narrow_names, self.kernel.wide_names, self.kernel.pred_names] = names;
        Ok(self.kernel)
    }

    fn location(&self, file: u32, line: u32) -> Option<SourceLine> {
        let name = self.source.files.iter().find(|f| f.0 == file)?;
        Some(SourceLine { file: name.1.clone(), line })
    }

    fn directive(&mut self, line: u32, word: &str, values: &[i128]) -> ParseResult<()> {
        let size = |i: usize| values.get(i).map_or(Some(1), |v| u32::try_from(*v).ok()).unwrap_or(u32::MAX);
        let product = size(0).saturating_mul(size(1)).saturating_mul(size(2));
        match word {
            "maxntid" => self.kernel.max_threads = Some(product),
            "reqntid" => {
                self.kernel.max_threads = Some(product);
                self.kernel.required_block = Some([size(0), size(1), size(2)]);
            }
            // hints for the assembler
            "minnctapersm" | "maxnreg" | "noreturn" => {}
            _ => return parse_error(line, format!("directive .{word} is not simulated on a kernel")),
        }
        Ok(())
    }

    fn instruction(&mut self, i: &Instruction) -> ParseResult<()> {
        self.line = i.line;
        self.contractible = false;
        let guard = match &i.guard {
            Some((name, negated)) => Some(Pred { reg: self.symbols.pred(name, i.line)?, negated: *negated }),
            None => None,
        };
        let m = Modifiers::new(&i.modifiers);
        let mut op = self.integer(i, &m)?;
        for family in [Self::float, Self::convert, Self::memory, Self::control, Self::warp] {
            if op.is_none() {
                op = family(self, i, &m)?;
            }
        }
        let Some(op) = op else {
            return self.fail(format!("instruction '{}' is not simulated", full_name(i)));
        };
        if let Some(word) = m.rest() {
            return self.fail(format!("'{}': modifier .{word} is not simulated", full_name(i)));
        }
        self.kernel.code.push(Inst { op, guard, line: i.line, contractible: self.contractible });
        Ok(())
    }

    /// Refuses an instruction with the wrong number of operands.
    fn arity(&self, i: &Instruction, allowed: std::ops::RangeInclusive<usize>) -> ParseResult<()> {
        if allowed.contains(&i.args.len()) {
            return Ok(());
        }
        let (low, high) = (allowed.start(), allowed.end());
        let wanted = if low == high { low.to_string() } else { format!("{low} to {high}") };
        self.fail(format!("'{}' takes {wanted} operands, found {}", full_name(i), i.args.len()))
    }

    /// The only type of an instruction.
    fn one_type(&self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Ty> {
        match m.types()[..] {
            [ty] => Ok(ty),
            ref other => self.fail(format!("'{}' takes one type, found {}", full_name(i), other.len())),
        }
    }

    /// An error that names the instruction's type.
    fn no_type<T>(&self, i: &Instruction) -> ParseResult<T> {
        self.fail(format!("'{}' is not simulated for this type", full_name(i)))
    }
}

fn full_name(i: &Instruction) -> String {
    i.modifiers.iter().fold(i.op.clone(), |name, m| name + "." + m)
}
