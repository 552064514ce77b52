//! Declared names: registers, and variables with their addresses.

use crate::error::{ParseResult, parse_error};
use crate::ir::{CONST_WINDOW, Reg, Ty};
use crate::text::ast::{Declaration, Operand, Source, Statement};
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum File {
    /// Bits: 8, 16 or 32.
    Narrow(u8),
    Wide,
    Pred,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Symbol {
    /// A declared register gets its index when it is first used.
    Reg(File, Option<Reg>),
    Shared(u64),
    Local(u64),
    Param(u64),
    Const(u64),
}

/// Scopes of names, and the sizes of the spaces laid out so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Symbols {
    scopes: Vec<HashMap<String, Symbol>>,
    names: [Vec<String>; 3],
    pub(super) shared: usize,
    pub(super) local: usize,
    /// Where dynamic shared memory starts.
    dynamic: u64,
}

/// Module variables: `.shared` ones are laid out, `.const` and `.global` ones collected as constant bytes.
pub(super) fn module_scope(source: &Source) -> ParseResult<(Symbols, Vec<u8>)> {
    let mut symbols = Symbols { scopes: vec![HashMap::new()], ..Symbols::default() };
    let mut constants = Vec::new();
    for d in source.variables.iter().filter(|d| d.space == "shared" && d.elements != Some(0)) {
        symbols.declare(d)?;
    }
    for d in source.variables.iter().filter(|d| d.space != "shared") {
        let bytes = constant_bytes(d)?;
        constants.resize(constants.len().next_multiple_of(d.align.max(16)), 0);
        symbols.insert(&d.name, Symbol::Const(CONST_WINDOW + constants.len() as u64));
        constants.extend(bytes);
    }
    for d in source.variables.iter().filter(|d| d.space == "shared" && d.elements == Some(0)) {
        symbols.insert(&d.name, Symbol::Shared(DYNAMIC));
    }
    Ok((symbols, constants))
}

/// Placeholder for the start of dynamic shared memory, which follows everything static.
const DYNAMIC: u64 = 0x8000_0000;

/// The initial bytes of a module variable. It must have some: what is written at run time is not simulated.
fn constant_bytes(d: &Declaration) -> ParseResult<Vec<u8>> {
    let Some(ty) = Ty::parse(&d.ty).filter(|t| t.size() > 0) else {
        return parse_error(d.line, format!("'{}' has no known type", d.name));
    };
    if d.init.is_empty() {
        return parse_error(
            d.line,
            format!("'{}': a module variable without initial values is not simulated", d.name),
        );
    }
    let count = d.elements.unwrap_or(1).max(d.init.len()) * d.vector;
    if count > 1 << 20 || d.init.len() > count {
        return parse_error(d.line, format!("'{}' is too large, or has too many initial values", d.name));
    }
    let mut bytes = Vec::with_capacity(count * ty.size());
    for v in &d.init {
        let bits = match (v, ty) {
            (Operand::Int(v), Ty::F32) => u64::from((*v as f32).to_bits()),
            (Operand::Int(v), Ty::F64) => (*v as f64).to_bits(),
            (Operand::Int(v), _) => *v as u64,
            (Operand::F32(v), _) if ty.size() == 4 => u64::from(*v),
            (Operand::F64(v), Ty::F32) => u64::from((f64::from_bits(*v) as f32).to_bits()),
            (Operand::F64(v), _) if ty.wide() => *v,
            (other, _) => return parse_error(d.line, format!("initial value {other:?} is not simulated")),
        };
        bytes.extend_from_slice(bits.to_le_bytes().get(..ty.size()).unwrap_or_default());
    }
    bytes.resize(count * ty.size(), 0);
    Ok(bytes)
}

fn split_number(name: &str) -> Option<(&str, u32)> {
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (prefix, number) = name.split_at_checked(digits)?;
    let canonical = number.len() == 1 || !number.starts_with('0');
    number.parse().ok().filter(|_| canonical).map(|n| (prefix, n))
}

impl Symbols {
    pub(super) fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    fn insert(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), symbol);
        }
    }

    pub(super) fn register_names(self) -> [Vec<String>; 3] {
        self.names
    }

    /// Finds where dynamic shared memory starts: behind the static variables of module and kernel, laid out here
    /// as [`Symbols::declare`] will do it. Returns that place, the bytes that a launch's own come on top of.
    pub(super) fn place_dynamic(&mut self, module: &[Declaration], body: &[Statement]) -> ParseResult<usize> {
        let inner = body.iter().filter_map(|s| match s {
            Statement::Declaration(d) if d.space == "shared" => Some(d),
            _ => None,
        });
        let (mut end, mut align) = (self.shared, 16);
        let mut used = false;
        for (d, counted) in
            module.iter().filter(|d| d.space == "shared").map(|d| (d, true)).chain(inner.map(|d| (d, false)))
        {
            let (size, own) = layout(d)?;
            if d.elements == Some(0) {
                used = true;
                align = align.max(own);
            } else if !counted {
                end = end.next_multiple_of(own) + size;
            }
        }
        if used {
            end = end.next_multiple_of(align);
        }
        self.dynamic = end as u64;
        Ok(end)
    }

    /// Declares a parameter after `end` bytes of others; offset, size and alignment.
    pub(super) fn param(&mut self, d: &Declaration, end: usize) -> ParseResult<(usize, usize, usize)> {
        let (size, align) = layout(d)?;
        let offset = end.next_multiple_of(align);
        self.scopes.resize(self.scopes.len().max(2), HashMap::new());
        self.insert(&d.name, Symbol::Param(offset as u64));
        Ok((offset, size, align))
    }

    pub(super) fn declare(&mut self, d: &Declaration) -> ParseResult<()> {
        if d.space == "reg" {
            return self.declare_register(d);
        }
        if !d.init.is_empty() {
            return parse_error(d.line, "an initial value is only simulated on a module variable");
        }
        let (size, align) = layout(d)?;
        let symbol = match d.space.as_str() {
            "shared" if d.elements == Some(0) => Symbol::Shared(DYNAMIC),
            "shared" => {
                let at = self.shared.next_multiple_of(align);
                self.shared = at + size;
                Symbol::Shared(at as u64)
            }
            "local" => {
                let at = self.local.next_multiple_of(align);
                self.local = at + size;
                Symbol::Local(at as u64)
            }
            other => {
                return parse_error(d.line, format!("a .{other} variable inside a kernel is not simulated"));
            }
        };
        if self.shared > 1 << 20 || self.local > 1 << 20 {
            return parse_error(d.line, "more than 1 MiB of shared or local memory");
        }
        self.insert(&d.name, symbol);
        Ok(())
    }

    fn declare_register(&mut self, d: &Declaration) -> ParseResult<()> {
        let file = match Ty::parse(&d.ty) {
            Some(Ty::Pred) => File::Pred,
            Some(ty) if ty.wide() => File::Wide,
            Some(ty) => File::Narrow(ty.size() as u8 * 8),
            None => return parse_error(d.line, format!("unknown register type .{}", d.ty)),
        };
        match d.range {
            None => self.insert(&d.name, Symbol::Reg(file, None)),
            // members of a range are entered when they are first named
            Some(n) => self.insert(&format!("{}<{n}>", d.name), Symbol::Reg(file, None)),
        }
        Ok(())
    }

    /// Finds a name; a register gets its index now.
    pub(super) fn find(&mut self, name: &str) -> Option<Symbol> {
        for scope in self.scopes.iter_mut().rev() {
            if !scope.contains_key(name) {
                let Some((prefix, number)) = split_number(name) else { continue };
                let range = scope.iter().find(|(key, _)| {
                    let count = key.strip_prefix(prefix).and_then(|k| k.strip_prefix('<')?.strip_suffix('>'));
                    count.and_then(|c| c.parse().ok()).is_some_and(|count: u32| number < count)
                });
                let Some((_, symbol)) = range else { continue };
                let symbol = *symbol;
                scope.insert(name.to_owned(), symbol);
            }
            let symbol = scope.get_mut(name)?;
            if let Symbol::Reg(file, index @ None) = symbol {
                let names = match file {
                    File::Narrow(_) => &mut self.names[0],
                    File::Wide => &mut self.names[1],
                    File::Pred => &mut self.names[2],
                };
                *index = Some(Reg::try_from(names.len()).ok()?);
                names.push(name.to_owned());
            }
            return Some(match *symbol {
                Symbol::Shared(DYNAMIC) => Symbol::Shared(self.dynamic),
                other => other,
            });
        }
        None
    }

    pub(super) fn pred(&mut self, name: &str, line: u32) -> ParseResult<Reg> {
        match self.find(name) {
            Some(Symbol::Reg(File::Pred, Some(reg))) => Ok(reg),
            Some(_) => parse_error(line, format!("'{name}' is no predicate")),
            None => parse_error(line, format!("'{name}' is not declared")),
        }
    }
}

fn layout(d: &Declaration) -> ParseResult<(usize, usize)> {
    let Some(ty) = Ty::parse(&d.ty).filter(|t| t.size() > 0) else {
        return parse_error(d.line, format!("'{}' has no known type (.{})", d.name, d.ty));
    };
    let element = ty.size() * d.vector;
    match element.checked_mul(d.elements.unwrap_or(1)) {
        Some(size) if size <= 1 << 30 => Ok((size, d.align.max(element))),
        _ => parse_error(d.line, format!("'{}' is too large", d.name)),
    }
}
