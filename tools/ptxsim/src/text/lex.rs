//! Characters to tokens, each with its line.

use super::ast::LineMap;
use crate::error::{ParseResult, SourceLine, parse_error};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Name(String),
    /// `.word`, without the dot; `::` joins words.
    Dot(String),
    Int(i128),
    F32(u32),
    F64(u64),
    Text(String),
    Punct(char),
}

/// Tokens with their lines, and the map that `#line` directives draw.
pub(super) fn lex(text: &str) -> ParseResult<(Vec<(Token, u32)>, LineMap)> {
    let mut lexer =
        Lexer { bytes: text.as_bytes(), text, at: 0, line: 1, out: Vec::new(), map: LineMap::default() };
    lexer.run()?;
    Ok((lexer.out, lexer.map))
}

struct Lexer<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    line: u32,
    out: Vec<(Token, u32)>,
    map: LineMap,
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$'
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn slice(&self, from: usize) -> &str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn push(&mut self, token: Token) {
        self.out.push((token, self.line));
    }

    fn run(&mut self) -> ParseResult<()> {
        while self.at < self.bytes.len() {
            let b = self.peek(0);
            match b {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                _ if b.is_ascii_whitespace() => self.at += 1,
                b'/' if self.peek(1) == b'/' => self.skip_line(),
                b'/' if self.peek(1) == b'*' => self.block_comment()?,
                b'#' => self.directive()?,
                b'"' => self.string()?,
                b'.' => {
                    let start = self.at + 1;
                    self.at += 1;
                    while is_word(self.peek(0)) || self.text.get(self.at..self.at + 2) == Some("::") {
                        self.at += if self.peek(0) == b':' { 2 } else { 1 };
                    }
                    let word = self.slice(start).to_owned();
                    if word.is_empty() {
                        return parse_error(self.line, "expected a word after '.'");
                    }
                    self.push(Token::Dot(word));
                }
                b'0'..=b'9' => self.number()?,
                _ if is_word(b) || b == b'%' => {
                    let start = self.at;
                    self.at += 1;
                    while is_word(self.peek(0)) {
                        self.at += 1;
                    }
                    let word = self.slice(start).to_owned();
                    self.push(Token::Name(word));
                }
                _ if b.is_ascii() => {
                    self.push(Token::Punct(char::from(b)));
                    self.at += 1;
                }
                _ => return parse_error(self.line, "a character outside ASCII"),
            }
        }
        Ok(())
    }

    fn skip_line(&mut self) {
        while self.at < self.bytes.len() && self.peek(0) != b'\n' {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) -> ParseResult<()> {
        let start = self.line;
        self.at += 2;
        while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
            if self.at >= self.bytes.len() {
                return parse_error(start, "a comment without its end");
            }
            if self.peek(0) == b'\n' {
                self.line += 1;
            }
            self.at += 1;
        }
        self.at += 2;
        Ok(())
    }

    /// `#line 12 "file"` or `# 12 "file"`: the next line is line 12 of that file.
    fn directive(&mut self) -> ParseResult<()> {
        let start = self.at;
        self.skip_line();
        let text = self.slice(start).trim_start_matches('#').trim();
        let rest = text.strip_prefix("line").unwrap_or(text).trim();
        let (number, name) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let Ok(line) = number.parse::<u32>() else {
            return parse_error(self.line, format!("expected '#line NUMBER \"file\"', found '#{text}'"));
        };
        let name = name.trim().trim_matches('"');
        let file = match (name.is_empty(), self.map.marks.last()) {
            (true, Some((_, last))) => last.file.clone(),
            _ => name.into(),
        };
        self.map.marks.push((self.line + 1, SourceLine { file, line }));
        Ok(())
    }

    fn string(&mut self) -> ParseResult<()> {
        self.at += 1;
        let start = self.at;
        while self.peek(0) != b'"' {
            if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                return parse_error(self.line, "a string without its end");
            }
            self.at += 1;
        }
        let text = self.slice(start).to_owned();
        self.push(Token::Text(text));
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> ParseResult<()> {
        let start = self.at;
        while is_word(self.peek(0))
            || (self.peek(0) == b'.' && self.peek(1).is_ascii_digit())
            || (matches!(self.peek(0), b'+' | b'-') && self.is_decimal_exponent(start))
        {
            self.at += 1;
        }
        let word = self.slice(start).to_ascii_lowercase();
        let token = if let Some(hex) = word.strip_prefix("0f") {
            u32::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 8).map(Token::F32)
        } else if let Some(hex) = word.strip_prefix("0d") {
            u64::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 16).map(Token::F64)
        } else {
            let digits = word.trim_end_matches('u');
            let int = if let Some(hex) = digits.strip_prefix("0x") {
                i128::from_str_radix(hex, 16).ok()
            } else if let Some(bits) = digits.strip_prefix("0b") {
                i128::from_str_radix(bits, 2).ok()
            } else if digits.len() > 1
                && digits.starts_with('0')
                && digits.bytes().all(|b| b.is_ascii_digit())
            {
                i128::from_str_radix(digits, 8).ok()
            } else {
                digits.parse().ok()
            };
            let int = int.filter(|v| *v <= i128::from(u64::MAX)).map(Token::Int);
            int.or_else(|| {
                word.parse::<f64>()
                    .ok()
                    .filter(|_| word.contains(['.', 'e']))
                    .map(|v| Token::F64(v.to_bits()))
            })
        };
        match token {
            Some(token) => {
                self.push(token);
                Ok(())
            }
            None => parse_error(self.line, format!("'{word}' is not a number")),
        }
    }

    /// Whether the sign at the cursor belongs to the exponent of the number that starts at `start`.
    fn is_decimal_exponent(&self, start: usize) -> bool {
        let word = self.slice(start);
        word.contains('.') && word.ends_with(['e', 'E']) && self.peek(1).is_ascii_digit()
    }
}
