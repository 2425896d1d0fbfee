//! Reading Avro bytes by a plan.

use std::ops::Range;

use super::super::varint::read_long;
use super::Value;
use super::plan::{Field, Node, Record};

/// Why reading stopped. Boxed, since it is carried through every reading and made at most once.
#[derive(Debug)]
pub(super) struct Stop(Box<Stopped>);

#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) problem: &'static str,
    pub(super) at: usize,
    /// Names of fields, from the inside out.
    pub(super) path: Vec<String>,
}

impl Stop {
    #[cold]
    pub(super) fn within(mut self, field: &str) -> Self {
        self.0.path.push(field.to_owned());
        self
    }

    pub(super) fn why(&self) -> &Stopped {
        &self.0
    }
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Of the whole input.
    length: usize,
    /// Elements that may still be made: elements without bytes (nulls) must not make a small input large.
    elements: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, length: input.len(), elements: input.len().saturating_add(1024) }
    }

    pub(super) fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    #[cold]
    fn stop(&self, problem: &'static str) -> Stop {
        Stop(Box::new(Stopped { problem, at: self.at(), path: vec![] }))
    }

    pub(super) fn end(&self) -> Result<(), Stop> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.stop("bytes after the record")) }
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        match self.rest.split_at_checked(count) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.stop("the bytes end in a value")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    #[inline]
    fn long(&mut self) -> Result<i64, Stop> {
        match read_long(self.rest) {
            Some((value, rest)) => {
                self.rest = rest;
                Ok(value)
            }
            None => Err(self.stop("no number")),
        }
    }

    fn int(&mut self) -> Result<i64, Stop> {
        let value = self.long()?;
        if i32::try_from(value).is_err() {
            return Err(self.stop("an int beyond 32 bits"));
        }
        Ok(value)
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.stop("a negative length"))?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Stop> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.stop("text that is not UTF-8"))
    }

    fn bool(&mut self) -> Result<bool, Stop> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.stop("no boolean")),
        }
    }

    #[inline]
    fn branch<'p>(&mut self, branches: &'p [Node]) -> Result<&'p Node, Stop> {
        let index = self.long()?;
        usize::try_from(index).ok().and_then(|index| branches.get(index)).ok_or_else(|| self.stop("no such branch of the union"))
    }

    /// Elements of the next block of an array or map, 0 at its end.
    fn block(&mut self) -> Result<usize, Stop> {
        let mut count = self.long()?;
        if count < 0 {
            // A negative count is followed by the block's size in bytes.
            count = count.checked_neg().ok_or_else(|| self.stop("a block of too many elements"))?;
            self.long()?;
        }
        let count = usize::try_from(count).map_err(|_| self.stop("a block of too many elements"))?;
        self.elements = self.elements.checked_sub(count).ok_or_else(|| self.stop("a block of too many elements"))?;
        Ok(count)
    }

    /// Reads a value; what nearly every column is stands here, so that it is read without a call.
    #[inline]
    pub(super) fn value(&mut self, node: &'a Node) -> Result<Value<'a>, Stop> {
        let node = match node {
            Node::Union(branches) => self.branch(branches)?,
            node => node,
        };
        match node {
            Node::Null => Ok(Value::Null),
            Node::Text => self.text().map(Value::Text),
            Node::Int => self.int().map(Value::Int),
            Node::Long => self.long().map(Value::Int),
            node => self.other(node),
        }
    }

    fn other(&mut self, node: &'a Node) -> Result<Value<'a>, Stop> {
        Ok(match node {
            Node::Bool => Value::Bool(self.bool()?),
            Node::Float => Value::Float(f32::from_le_bytes(self.array()?)),
            Node::Double => Value::Double(f64::from_le_bytes(self.array()?)),
            Node::Bytes => Value::Bytes(self.bytes()?),
            Node::Fixed(size) => Value::Bytes(self.take(*size)?),
            Node::Enum(symbols) => {
                let index = self.long()?;
                let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
                Value::Text(symbol.ok_or_else(|| self.stop("no such symbol"))?)
            }
            Node::Decimal { scale } => Value::Decimal { unscaled: self.bytes()?, scale: *scale },
            Node::FixedDecimal { scale, size } => Value::Decimal { unscaled: self.take(*size)?, scale: *scale },
            Node::VariableDecimal => {
                let scale = self.int()? as i32;
                Value::Decimal { unscaled: self.bytes()?, scale }
            }
            Node::Array(items) => {
                let mut list = vec![];
                loop {
                    match self.block()? {
                        0 => break Value::List(list),
                        count => {
                            for _ in 0..count {
                                list.push(self.value(items)?);
                            }
                        }
                    }
                }
            }
            Node::Map(values) => {
                let mut map = vec![];
                loop {
                    match self.block()? {
                        0 => break Value::Map(map),
                        count => {
                            for _ in 0..count {
                                map.push((self.text()?, self.value(values)?));
                            }
                        }
                    }
                }
            }
            Node::Null | Node::Int | Node::Long | Node::Text | Node::Union(_) => return self.value(node),
            Node::Record(record) => Value::Record(self.fields(&record.fields)?),
        })
    }

    /// Reads those fields that are wanted, by their place, and passes over the others.
    #[inline]
    pub(super) fn some(
        &mut self,
        fields: &'a [Field],
        wants: impl Fn(usize) -> bool,
        mut take: impl FnMut(usize, Value<'a>),
    ) -> Result<(), Stop> {
        for (at, field) in fields.iter().enumerate() {
            let read = if wants(at) { self.value(&field.node).map(|value| take(at, value)) } else { self.skip(&field.node) };
            read.map_err(|stop| stop.within(&field.name))?;
        }
        Ok(())
    }

    pub(super) fn fields(&mut self, fields: &'a [Field]) -> Result<Vec<Value<'a>>, Stop> {
        let mut values = Vec::with_capacity(fields.len());
        for field in fields {
            values.push(self.value(&field.node).map_err(|stop| stop.within(&field.name))?);
        }
        Ok(values)
    }

    /// Whether a nullable row of an envelope is there; its fields follow then.
    pub(super) fn has_row(&mut self, field: &Field) -> Result<bool, Stop> {
        let Node::Union(branches) = &field.node else { return Err(self.stop("a row that is no union")) };
        Ok(!matches!(self.branch(branches)?, Node::Null))
    }

    pub(super) fn row(&mut self, field: &'a Field, row: &'a Record) -> Result<Option<Vec<Value<'a>>>, Stop> {
        if self.has_row(field)? { self.fields(&row.fields).map(Some) } else { Ok(None) }
    }

    /// Where each of the fields that follow stands.
    pub(super) fn spans(&mut self, fields: &[Field], spans: &mut Vec<Range<usize>>) -> Result<(), Stop> {
        spans.reserve(fields.len());
        for field in fields {
            let start = self.at();
            self.skip(&field.node).map_err(|stop| stop.within(&field.name))?;
            spans.push(start..self.at());
        }
        Ok(())
    }

    /// Passes over a value; what nearly every column is stands here, so that it is read without a call.
    #[inline]
    pub(super) fn skip(&mut self, node: &Node) -> Result<(), Stop> {
        let node = match node {
            Node::Union(branches) => self.branch(branches)?,
            node => node,
        };
        match node {
            Node::Null => Ok(()),
            Node::Bytes | Node::Text | Node::Decimal { .. } => self.bytes().map(drop),
            Node::Int | Node::Long | Node::Enum(_) => self.long().map(drop),
            node => self.skip_other(node),
        }
    }

    fn skip_other(&mut self, node: &Node) -> Result<(), Stop> {
        match node {
            Node::Bool => drop(self.bool()?),
            Node::Float => drop(self.take(4)?),
            Node::Double => drop(self.take(8)?),
            Node::Fixed(size) | Node::FixedDecimal { size, .. } => drop(self.take(*size)?),
            Node::VariableDecimal => {
                self.int()?;
                self.bytes()?;
            }
            Node::Array(items) => loop {
                match self.block()? {
                    0 => break,
                    count => (0..count).try_for_each(|_| self.skip(items))?,
                }
            },
            Node::Map(values) => loop {
                match self.block()? {
                    0 => break,
                    count => {
                        for _ in 0..count {
                            self.bytes()?;
                            self.skip(values)?;
                        }
                    }
                }
            },
            Node::Null
            | Node::Bytes
            | Node::Text
            | Node::Decimal { .. }
            | Node::Int
            | Node::Long
            | Node::Enum(_)
            | Node::Union(_) => {
                self.skip(node)?;
            }
            Node::Record(record) => record.fields.iter().try_for_each(|field| self.skip(&field.node))?,
        }
        Ok(())
    }
}
