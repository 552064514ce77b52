//! Tokens to statements: the grammar of a module, with nothing known about instructions.

use super::ast::{Declaration, Entry, Instruction, Operand, Source, Statement};
use super::lex::{Token, lex};
use crate::error::{ParseError, ParseResult, parse_error};

/// Parses one module.
pub(crate) fn parse(text: &str) -> ParseResult<Source> {
    let (tokens, lines) = lex(text)?;
    let mut source = Source { lines, ..Source::default() };
    let mut parser = Parser { tokens, at: 0 };
    while parser.peek().is_some() {
        parser.module_item(&mut source).map_err(|e| ParseError { source: source.lines.find(e.line), ..e })?;
    }
    if source.target.is_empty() {
        return parse_error(1, "a module starts with .version, .target and .address_size: no .target found");
    }
    Ok(source)
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.1)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    fn next(&mut self) -> ParseResult<Token> {
        let line = self.line();
        let token = self.tokens.get(self.at).map(|t| t.0.clone());
        self.at += 1;
        match token {
            Some(token) => Ok(token),
            None => parse_error(line, "the text ends too early"),
        }
    }

    fn is(&self, c: char) -> bool {
        self.peek() == Some(&Token::Punct(c))
    }

    fn eat(&mut self, c: char) -> bool {
        let yes = self.is(c);
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, c: char) -> ParseResult<()> {
        let line = self.line();
        match self.next()? {
            Token::Punct(p) if p == c => Ok(()),
            other => parse_error(line, format!("expected '{c}', found {other:?}")),
        }
    }

    fn eat_dot(&mut self) -> Option<String> {
        let Some(Token::Dot(word)) = self.peek() else { return None };
        let word = word.clone();
        self.at += 1;
        Some(word)
    }

    fn name(&mut self) -> ParseResult<String> {
        let line = self.line();
        match self.next()? {
            Token::Name(name) => Ok(name),
            other => parse_error(line, format!("expected a name, found {other:?}")),
        }
    }

    fn int(&mut self) -> ParseResult<i128> {
        let line = self.line();
        let negative = self.eat('-');
        match self.next()? {
            Token::Int(v) => Ok(if negative { -v } else { v }),
            other => parse_error(line, format!("expected an integer, found {other:?}")),
        }
    }

    fn small(&mut self, limit: u32) -> ParseResult<u32> {
        let line = self.line();
        let v = self.int()?;
        match u32::try_from(v) {
            Ok(v) if v <= limit => Ok(v),
            _ => parse_error(line, format!("{v} is outside 0..={limit}")),
        }
    }

    fn skip_to(&mut self, c: char) -> ParseResult<()> {
        while !self.eat(c) {
            self.next()?;
        }
        Ok(())
    }

    fn module_item(&mut self, source: &mut Source) -> ParseResult<()> {
        let line = self.line();
        let word = match self.next()? {
            Token::Dot(word) => word,
            Token::Punct(';') => return Ok(()),
            other => return parse_error(line, format!("expected a directive, found {other:?}")),
        };
        match word.as_str() {
            "version" => {
                source.version = match self.next()? {
                    Token::F64(v) => {
                        let v = (f64::from_bits(v) * 10.0).round() as u32;
                        (v / 10, v % 10)
                    }
                    other => {
                        return parse_error(line, format!("expected a version such as 8.0, found {other:?}"));
                    }
                };
            }
            "target" => {
                source.target = self.name()?;
                while self.eat(',') {
                    self.name()?;
                }
            }
            "address_size" => {
                if self.int()? != 64 {
                    return parse_error(line, "only .address_size 64 is simulated");
                }
            }
            "visible" | "weak" | "extern" => {}
            "global" | "const" | "shared" => {
                source.variables.extend(self.declaration(word)?);
                self.expect(';')?;
            }
            "file" => {
                let number = self.small(u32::MAX)?;
                if let Token::Text(name) = self.next()? {
                    source.files.push((number, name.into()));
                }
                while self.eat(',') {
                    self.int()?;
                }
            }
            "section" => self.skip_to('}')?,
            "entry" => {
                let entry = self.entry(line)?;
                source.entries.push(entry);
            }
            "func" => return parse_error(line, "functions are not simulated: write a kernel without calls"),
            other => {
                return parse_error(line, format!("directive .{other} is not simulated at module level"));
            }
        }
        Ok(())
    }

    fn entry(&mut self, line: u32) -> ParseResult<Entry> {
        let mut entry = Entry { line, name: self.name()?, params: vec![], body: vec![], directives: vec![] };
        if self.eat('(') {
            while !self.eat(')') {
                let line = self.line();
                match self.eat_dot().as_deref() {
                    Some("param") => entry.params.extend(self.declaration("param".into())?),
                    _ => return parse_error(line, "expected .param in a kernel's parameter list"),
                }
                if !self.is(')') {
                    self.expect(',')?;
                }
            }
        }
        loop {
            let line = self.line();
            let Some(word) = self.eat_dot() else { break };
            let mut values = vec![];
            while matches!(self.peek(), Some(Token::Int(_))) {
                values.push(self.int()?);
                self.eat(',');
            }
            entry.directives.push((line, word, values));
        }
        self.expect('{')?;
        let mut depth = 1;
        loop {
            if self.eat('{') {
                depth += 1;
                entry.body.push(Statement::Open);
            } else if self.eat('}') {
                depth -= 1;
                if depth == 0 {
                    return Ok(entry);
                }
                entry.body.push(Statement::Close);
            } else if !self.eat(';') {
                self.statement(&mut entry.body)?;
            }
        }
    }

    fn statement(&mut self, body: &mut Vec<Statement>) -> ParseResult<()> {
        let line = self.line();
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.name()?, negated));
        }
        match self.next()? {
            Token::Dot(word) if guard.is_none() => match word.as_str() {
                "reg" | "shared" | "local" | "param" | "const" => {
                    body.extend(self.declaration(word)?.into_iter().map(Statement::Declaration));
                    self.expect(';')?;
                }
                "loc" => {
                    let (file, at) = (self.small(u32::MAX)?, self.small(u32::MAX)?);
                    body.push(Statement::Location(file, at));
                    // column, function_name, inlined_at: all on the directive's own line
                    while self.peek().is_some() && self.line() == line {
                        self.at += 1;
                    }
                }
                "pragma" => self.skip_to(';')?,
                other => return parse_error(line, format!("directive .{other} is not simulated")),
            },
            Token::Name(op) => {
                if guard.is_none() && self.eat(':') {
                    body.push(Statement::Label(line, op));
                    return Ok(());
                }
                let mut modifiers = vec![];
                while let Some(word) = self.eat_dot() {
                    modifiers.push(word);
                }
                let mut args = vec![];
                while !self.eat(';') {
                    args.push(self.operand()?);
                    if !self.is(';') {
                        self.expect(',')?;
                    }
                }
                body.push(Statement::Instruction(Instruction { line, guard, op, modifiers, args }));
            }
            other => return parse_error(line, format!("expected an instruction, found {other:?}")),
        }
        Ok(())
    }

    fn declaration(&mut self, space: String) -> ParseResult<Vec<Declaration>> {
        let line = self.line();
        let (mut align, mut ty, mut vector) = (1usize, String::new(), 1usize);
        while let Some(word) = self.eat_dot() {
            match word.as_str() {
                "align" => {
                    align = self.small(4096)? as usize;
                    if !align.is_power_of_two() {
                        return parse_error(line, format!(".align {align} is not a power of two"));
                    }
                }
                "v2" => vector = 2,
                "v4" => vector = 4,
                // what a pointer parameter points to: no effect on the code
                "ptr" | "global" | "shared" | "const" | "local" => {}
                _ => ty = word,
            }
        }
        let mut out = Vec::new();
        loop {
            let name = self.name()?;
            let mut d = Declaration {
                line,
                space: space.clone(),
                align,
                ty: ty.clone(),
                vector,
                name,
                range: None,
                elements: None,
                init: vec![],
            };
            if self.eat('<') {
                d.range = Some(self.small(1 << 20)?);
                self.expect('>')?;
            }
            while self.eat('[') {
                let n = if self.is(']') { 0 } else { self.small(1 << 30)? as usize };
                self.expect(']')?;
                d.elements = d.elements.unwrap_or(1).checked_mul(n);
                if d.elements.is_none() {
                    return parse_error(line, "the array is too large");
                }
            }
            if self.eat('=') {
                d.init = match self.operand()? {
                    Operand::Vector(v) => v,
                    one => vec![one],
                };
            }
            out.push(d);
            // in a parameter list the comma is followed by the next .param
            let more = self.is(',') && !matches!(self.tokens.get(self.at + 1), Some((Token::Dot(_), _)));
            if !more {
                return Ok(out);
            }
            self.at += 1;
        }
    }

    fn operand(&mut self) -> ParseResult<Operand> {
        self.nested_operand(0)
    }

    fn nested_operand(&mut self, depth: u32) -> ParseResult<Operand> {
        let line = self.line();
        if depth > 1 {
            return parse_error(line, "brackets within brackets");
        }
        if self.eat('{') {
            let mut parts = vec![];
            while !self.eat('}') {
                parts.push(self.nested_operand(depth + 1)?);
                if !self.is('}') {
                    self.expect(',')?;
                }
            }
            return Ok(Operand::Vector(parts));
        }
        if self.eat('[') {
            let (base, mut offset) = match self.nested_operand(depth + 1)? {
                Operand::Offset(name, offset) => (Operand::Name(name), offset),
                other => (other, 0),
            };
            if self.eat('+') {
                offset = offset.wrapping_add(self.offset()?);
            }
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        if self.eat('!') {
            return Ok(Operand::Not(self.name()?));
        }
        let negative = self.eat('-');
        match self.next()? {
            Token::Int(v) => Ok(Operand::Int(if negative { -v } else { v })),
            Token::F64(v) => Ok(Operand::F64(if negative { v ^ (1 << 63) } else { v })),
            Token::F32(v) if !negative => Ok(Operand::F32(v)),
            Token::Name(mut name) if !negative => {
                if name == "_" && !self.is('|') {
                    return Ok(Operand::Sink);
                }
                while let Some(word) = self.eat_dot() {
                    name.push('.');
                    name.push_str(&word);
                }
                if self.eat('|') {
                    return Ok(Operand::Pair(name, self.name()?));
                }
                if self.eat('+') {
                    return Ok(Operand::Offset(name, self.offset()?));
                }
                if self.is('-') {
                    self.at += 1;
                    return Ok(Operand::Offset(name, -self.offset()?));
                }
                Ok(Operand::Name(name))
            }
            other => parse_error(line, format!("expected an operand, found {other:?}")),
        }
    }

    fn offset(&mut self) -> ParseResult<i64> {
        let line = self.line();
        let v = self.int()?;
        i64::try_from(v).or_else(|_| parse_error(line, format!("{v} is no offset")))
    }
}
