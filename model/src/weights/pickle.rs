//! Reader of pickles that builds data and executes nothing.
//!
//! A pickle is a program for a stack machine. In Python, some of its instructions import and call whatever they name. Here they give a
//! [`Value::Opaque`]; only the few calls that build tensors give values. Values lie in one list and refer to each other by index, so cycles
//! and depth cost nothing, and nothing is copied. Memory grows with the bytes read, not with their claims.
//!
//! # Source
//! Instructions: `Lib/pickletools.py` of CPython. Calls: `torch/_utils.py` and `torch/serialization.py` of PyTorch.

use std::collections::HashMap;

use crate::error::PickleError;
use crate::weights::values::{Id, Value, Values};

/// Reads the value of a pickle. Out: all values, and the index of the outermost.
pub(super) fn read(bytes: &[u8]) -> Result<(Values, Id), PickleError> {
    let mut machine = Machine { input: Input { bytes, position: 0 }, values: Values::default(), stack: Vec::new(), ..Machine::default() };
    loop {
        let position = machine.input.position;
        match machine.input.byte()? {
            b'.' => {
                let root = machine.pop()?;
                return Ok((machine.values, root));
            }
            code => machine.step(code, position)?,
        }
    }
}

/// Unread part of a pickle.
#[derive(Default)]
struct Input<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], PickleError> {
        let end = usize::try_from(count).ok().and_then(|count| self.position.checked_add(count));
        match end.and_then(|end| self.bytes.get(self.position..end)) {
            Some(taken) => {
                self.position += taken.len();
                Ok(taken)
            }
            None => Err(PickleError::Truncated { position: self.bytes.len() }),
        }
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    /// Reads an unsigned number of `size` bytes, at most 8, little-endian.
    fn number(&mut self, size: u64) -> Result<u64, PickleError> {
        Ok(self.take(size)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Reads the bytes up to the end of the line, which is skipped.
    fn line(&mut self) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.position..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or(PickleError::Truncated { position: self.bytes.len() })?;
        self.position += length + 1;
        Ok(&rest[..length])
    }

    fn text_line(&mut self, what: &'static str) -> Result<&'a str, PickleError> {
        let position = self.position;
        std::str::from_utf8(self.line()?).map_err(|_| PickleError::Malformed { what, position })
    }
}

#[derive(Default)]
struct Machine<'a> {
    input: Input<'a>,
    values: Values,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl Machine<'_> {
    fn step(&mut self, code: u8, position: usize) -> Result<(), PickleError> {
        match code {
            // PROTO and FRAME do not matter here.
            0x80 => self.input.take(1).map(drop),
            0x95 => self.input.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.discard(),
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.remember(code),
            b'N' | b'I' | b'J' | b'K' | b'M' | b'L' | b'F' | b'G' | 0x88..=0x8b => self.scalar(code),
            b'S' | b'T' | b'U' | b'V' | b'X' | b'B' | b'C' | 0x8c..=0x8e | 0x96 => self.text(code),
            b']' | b'}' | b')' | b'l' | b'd' | b't' | 0x85..=0x87 | 0x8f | 0x91 => self.container(code),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(code),
            b'P' | b'Q' | b'R' | b'b' | b'c' | b'i' | b'o' | 0x81 | 0x82..=0x84 | 0x92 | 0x93 => self.object(code),
            code => Err(PickleError::Instruction { code, position }),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        let id = self.values.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn missing(&self, what: &'static str) -> PickleError {
        PickleError::Missing { what, position: self.input.position }
    }

    /// Returns the top value above the last mark.
    fn top(&self) -> Result<Id, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.get(floor..).and_then(<[Id]>::last).copied().ok_or_else(|| self.missing("a value"))
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Removes the top value, or the mark if that is higher.
    fn discard(&mut self) -> Result<(), PickleError> {
        if self.marks.last().is_some_and(|height| *height == self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Removes and returns the values above the last mark, and removes the mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let height = self.marks.pop().ok_or_else(|| self.missing("a mark"))?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    /// Stores values in the memo, or loads them.
    fn remember(&mut self, code: u8) -> Result<(), PickleError> {
        let number = match code {
            b'q' | b'h' => self.input.number(1)?,
            b'r' | b'j' => self.input.number(4)?,
            0x94 => self.memo.len() as u64,
            _ => {
                let position = self.input.position;
                let line = self.input.text_line("number of the memo")?;
                line.trim().parse().map_err(|_| PickleError::Malformed { what: "number of the memo", position })?
            }
        };
        if matches!(code, b'g' | b'h' | b'j') {
            let id = self.memo.get(&number).copied().ok_or_else(|| self.missing("what it remembered"))?;
            self.stack.push(id);
        } else {
            let top = self.top()?;
            self.memo.insert(number, top);
        }
        Ok(())
    }

    fn scalar(&mut self, code: u8) -> Result<(), PickleError> {
        let value = match code {
            // None, true and false.
            b'N' | 0x88 | 0x89 => Value::Opaque,
            b'J' => Value::Int(i64::from(self.input.number(4)? as u32 as i32)),
            b'K' => Value::Int(self.input.number(1)? as i64),
            b'M' => Value::Int(self.input.number(2)? as i64),
            b'I' | b'L' => {
                let line = self.input.text_line("number")?.trim().trim_end_matches('L');
                // `I01` is true; a number beyond 64 bits does not occur in a tensor.
                line.parse().map_or(Value::Opaque, Value::Int)
            }
            0x8a | 0x8b => {
                let size = self.input.number(if code == 0x8a { 1 } else { 4 })?;
                long(self.input.take(size)?)
            }
            b'F' => {
                self.input.line()?;
                Value::Opaque
            }
            // G: eight bytes of a float.
            _ => {
                self.input.take(8)?;
                Value::Opaque
            }
        };
        self.push(value)
    }

    fn text(&mut self, code: u8) -> Result<(), PickleError> {
        let bytes = match code {
            b'S' | b'V' => {
                let line = self.input.line()?;
                let quoted = code == b'S' && line.len() >= 2 && matches!(line[0], b'\'' | b'"');
                if quoted { &line[1..line.len() - 1] } else { line }
            }
            _ => {
                let size = self.input.number(match code {
                    b'U' | b'C' | 0x8c => 1,
                    b'T' | b'X' | b'B' => 4,
                    _ => 8,
                })?;
                self.input.take(size)?
            }
        };
        // Bytes that are no text do not name a tensor.
        let value = std::str::from_utf8(bytes).map_or(Value::Opaque, |text| Value::Text(text.to_owned()));
        self.push(value)
    }

    fn container(&mut self, code: u8) -> Result<(), PickleError> {
        let value = match code {
            b'}' => Value::Dict(Vec::new()),
            b')' => Value::Tuple(Vec::new()),
            // Lists and sets have no named tensors, so their content is dropped.
            b']' | 0x8f => Value::Opaque,
            b'l' | 0x91 => {
                self.pop_mark()?;
                Value::Opaque
            }
            b'd' => Value::Dict(pairs(&self.pop_mark()?)),
            b't' => Value::Tuple(self.pop_mark()?),
            _ => {
                let count = usize::from(code - 0x84);
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.pop()?);
                }
                items.reverse();
                Value::Tuple(items)
            }
        };
        self.push(value)
    }

    /// Adds values to the container below them. Only a dict keeps them.
    fn fill(&mut self, code: u8) -> Result<(), PickleError> {
        let items = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let container = self.top()?;
        if matches!(code, b's' | b'u') {
            self.values.extend(container, &pairs(&items));
        }
        Ok(())
    }

    /// Reads names of classes and functions, calls of them, and references to storages outside the pickle.
    fn object(&mut self, code: u8) -> Result<(), PickleError> {
        let value = match code {
            b'c' => {
                let module = self.input.text_line("name of a module")?.to_owned();
                Value::Global { module, name: self.input.text_line("name of a global")?.to_owned() }
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.values.global(module, name)
            }
            b'P' => {
                self.input.line()?;
                Value::Opaque
            }
            b'Q' => {
                let id = self.pop()?;
                self.values.storage(id)
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                match self.values.call(callable, arguments) {
                    Ok(value) => value,
                    Err(same) => {
                        self.stack.push(same);
                        return Ok(());
                    }
                }
            }
            // BUILD sets attributes of the object below, which no tensor needs.
            b'b' => {
                self.pop()?;
                return self.top().map(drop);
            }
            b'i' => {
                self.input.line()?;
                self.input.line()?;
                self.pop_mark()?;
                Value::Opaque
            }
            b'o' => {
                self.pop_mark()?;
                Value::Opaque
            }
            0x81 | 0x92 => {
                for _ in 0..if code == 0x81 { 2 } else { 3 } {
                    self.pop()?;
                }
                Value::Opaque
            }
            // Extensions refer to a registry that does not exist here.
            _ => {
                self.input.take(1 << (code - 0x82))?;
                Value::Opaque
            }
        };
        self.push(value)
    }
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Returns a whole number of any length, in two's complement.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests;
