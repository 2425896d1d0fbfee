//! One column's type, and its values until they are written.
//!
//! Texts are STRING, integers INT64, dates DATE, instants TIMESTAMP in microseconds of UTC, decimals DECIMAL: 4 bytes up to 9 digits, 8 up
//! to 18, then 16. A list of texts is a LIST of three levels, and steps of a case are one of groups whose fields may be missing. Every
//! granted column may be null.

use bytes::Bytes;
use guitong_govern::ColumnKind;
use guitong_schemas::standard::{StandardValue, Step};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::{Type, TypePtr};

/// Digits that 4 and 8 bytes hold.
const DIGITS_OF_INT: u32 = 9;
const DIGITS_OF_LONG: u32 = 18;
/// Bytes of longer decimals.
const WIDE: usize = 16;

/// Of what is not in a list: nothing, a value.
const NULL: i16 = 0;
const VALUE: i16 = 1;
/// Of what is in a list: no list, an empty one, an item (of a group: without this field), a field of a group.
const EMPTY: i16 = 1;
const ITEM: i16 = 2;
const FIELD: i16 = 3;

pub(super) fn schema(name: &str, kind: ColumnKind) -> Result<TypePtr, ParquetError> {
    match kind {
        ColumnKind::TextList => {
            let element = primitive("element", ColumnKind::Text, Repetition::REQUIRED)?;
            list(name, element)
        }
        ColumnKind::Steps => {
            let (text, time) = (ColumnKind::Text, ColumnKind::Time);
            let of = [("name", text), ("handler", text), ("started", time), ("ended", time), ("action", text), ("opinion", text)];
            let fields = of.into_iter().map(|(name, kind)| primitive(name, kind, Repetition::OPTIONAL));
            let element = Type::group_type_builder("element").with_repetition(Repetition::REQUIRED);
            list(name, TypePtr::new(element.with_fields(fields.collect::<Result<_, _>>()?).build()?))
        }
        kind => primitive(name, kind, Repetition::OPTIONAL),
    }
}

fn list(name: &str, element: TypePtr) -> Result<TypePtr, ParquetError> {
    let repeated = Type::group_type_builder("list").with_repetition(Repetition::REPEATED).with_fields(vec![element]).build()?;
    let builder = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
    builder.with_logical_type(Some(LogicalType::List)).with_fields(vec![TypePtr::new(repeated)]).build().map(TypePtr::new)
}

fn primitive(name: &str, kind: ColumnKind, repetition: Repetition) -> Result<TypePtr, ParquetError> {
    let (physical, logical) = match kind {
        ColumnKind::Int => (Physical::INT64, None),
        ColumnKind::Date => (Physical::INT32, Some(LogicalType::Date)),
        ColumnKind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        ColumnKind::Decimal { precision, scale } => {
            let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
            let logical = LogicalType::decimal(number(scale), number(precision));
            let builder = match precision {
                few if few <= DIGITS_OF_INT => Type::primitive_type_builder(name, Physical::INT32),
                some if some <= DIGITS_OF_LONG => Type::primitive_type_builder(name, Physical::INT64),
                _ => Type::primitive_type_builder(name, Physical::FIXED_LEN_BYTE_ARRAY).with_length(WIDE as i32),
            };
            let builder = builder.with_precision(number(precision)).with_scale(number(scale));
            return builder.with_repetition(repetition).with_logical_type(Some(logical)).build().map(TypePtr::new);
        }
        ColumnKind::Text | ColumnKind::TextList | ColumnKind::Steps => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let builder = Type::primitive_type_builder(name, physical).with_repetition(repetition);
    builder.with_logical_type(logical).build().map(TypePtr::new)
}

/// A granted column.
#[derive(Debug)]
pub(super) enum Gathered {
    Plain(Leaf),
    List(Leaf),
    /// In the order of [`Step`]'s fields.
    Steps(Box<[Leaf; 6]>),
}

impl Gathered {
    pub(super) fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Text => Self::Plain(Leaf::text()),
            ColumnKind::Int | ColumnKind::Time => Self::Plain(Leaf::long()),
            ColumnKind::Date => Self::Plain(Leaf::of(Values::Int(Vec::new()))),
            ColumnKind::Decimal { precision: ..=DIGITS_OF_INT, .. } => Self::Plain(Leaf::of(Values::Int(Vec::new()))),
            ColumnKind::Decimal { precision: ..=DIGITS_OF_LONG, .. } => Self::Plain(Leaf::long()),
            ColumnKind::Decimal { .. } => Self::Plain(Leaf::of(Values::Wide(Vec::new()))),
            ColumnKind::TextList => Self::List(Leaf::text()),
            ColumnKind::Steps => {
                let (text, long) = (Leaf::text, Leaf::long);
                Self::Steps(Box::new([text(), text(), long(), long(), text(), text()]))
            }
        }
    }

    /// Says how many bytes were taken; `None` where the value is of another kind.
    pub(super) fn push(&mut self, value: &StandardValue<'_>) -> Option<usize> {
        match (self, value) {
            (Self::Plain(leaf), StandardValue::Null) => Some(leaf.level(NULL)),
            (Self::Plain(leaf), value) => Some(leaf.level(VALUE) + leaf.push(value)?),
            (Self::List(leaf), StandardValue::Null) => Some(leaf.levels(NULL, 0)),
            (Self::List(leaf), StandardValue::TextList(items)) => {
                if items.is_empty() {
                    return Some(leaf.levels(EMPTY, 0));
                }
                let items = items.iter().enumerate();
                Some(items.map(|(at, item)| leaf.levels(ITEM, i16::from(at > 0)) + leaf.push_text(item)).sum())
            }
            (Self::Steps(leaves), StandardValue::Null) => Some(leaves.iter_mut().map(|leaf| leaf.levels(NULL, 0)).sum()),
            (Self::Steps(leaves), StandardValue::Steps(steps)) => {
                if steps.is_empty() {
                    return Some(leaves.iter_mut().map(|leaf| leaf.levels(EMPTY, 0)).sum());
                }
                Some(steps.iter().enumerate().map(|(at, step)| push_step(leaves, step, i16::from(at > 0))).sum())
            }
            _ => None,
        }
    }

    pub(super) fn leaves(&mut self) -> &mut [Leaf] {
        match self {
            Self::Plain(leaf) | Self::List(leaf) => std::slice::from_mut(leaf),
            Self::Steps(leaves) => leaves.as_mut_slice(),
        }
    }
}

fn push_step([name, handler, started, ended, action, opinion]: &mut [Leaf; 6], step: &Step, repetition: i16) -> usize {
    let text = |leaf: &mut Leaf, value: &Option<String>| match value {
        Some(value) => leaf.levels(FIELD, repetition) + leaf.push_text(value),
        None => leaf.levels(ITEM, repetition),
    };
    let time = |leaf: &mut Leaf, value: Option<i64>| match value {
        Some(value) => leaf.levels(FIELD, repetition) + leaf.push_long(value),
        None => leaf.levels(ITEM, repetition),
    };
    let texts = text(name, &step.name) + text(handler, &step.handler) + text(action, &step.action) + text(opinion, &step.opinion);
    texts + time(started, step.started) + time(ended, step.ended)
}

/// Values of one physical column with their levels.
#[derive(Debug)]
pub(super) struct Leaf {
    values: Values,
    /// None at all where a value is always there.
    definition: Vec<i16>,
    /// None at all outside lists.
    repetition: Vec<i16>,
}

#[derive(Debug)]
enum Values {
    Int(Vec<i32>),
    Long(Vec<i64>),
    Wide(Vec<i128>),
    /// One behind the other, and where each ends.
    Text(Vec<u8>, Vec<usize>),
}

impl Leaf {
    fn of(values: Values) -> Self {
        Self { values, definition: Vec::new(), repetition: Vec::new() }
    }

    pub(super) fn text() -> Self {
        Self::of(Values::Text(Vec::new(), Vec::new()))
    }

    pub(super) fn long() -> Self {
        Self::of(Values::Long(Vec::new()))
    }

    fn level(&mut self, definition: i16) -> usize {
        self.definition.push(definition);
        size_of::<i16>()
    }

    fn levels(&mut self, definition: i16, repetition: i16) -> usize {
        self.repetition.push(repetition);
        self.level(definition) + size_of::<i16>()
    }

    #[inline]
    pub(super) fn push_text(&mut self, text: &str) -> usize {
        let Values::Text(bytes, ends) = &mut self.values else { return 0 };
        bytes.extend_from_slice(text.as_bytes());
        ends.push(bytes.len());
        text.len() + size_of::<usize>()
    }

    #[inline]
    pub(super) fn push_long(&mut self, number: i64) -> usize {
        let Values::Long(numbers) = &mut self.values else { return 0 };
        numbers.push(number);
        size_of::<i64>()
    }

    fn push(&mut self, value: &StandardValue<'_>) -> Option<usize> {
        match (&mut self.values, value) {
            (Values::Text(..), StandardValue::Text(text)) => return Some(self.push_text(text)),
            (Values::Long(_), StandardValue::Int(number) | StandardValue::Time(number)) => return Some(self.push_long(*number)),
            (Values::Long(numbers), StandardValue::Decimal { unscaled, .. }) => numbers.push(i64::try_from(*unscaled).ok()?),
            (Values::Int(numbers), StandardValue::Date(days)) => numbers.push(*days),
            (Values::Int(numbers), StandardValue::Decimal { unscaled, .. }) => numbers.push(i32::try_from(*unscaled).ok()?),
            (Values::Wide(numbers), StandardValue::Decimal { unscaled, .. }) => numbers.push(*unscaled),
            _ => return None,
        }
        Some(size_of::<i64>())
    }

    /// Writes everything, and is empty then.
    pub(super) fn write(&mut self, column: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let Self { values, definition, repetition } = self;
        let levels = (if_any(definition), if_any(repetition));
        match values {
            Values::Int(numbers) => {
                column.typed::<Int32Type>().write_batch(numbers, levels.0, levels.1)?;
                numbers.clear();
            }
            Values::Long(numbers) => {
                column.typed::<Int64Type>().write_batch(numbers, levels.0, levels.1)?;
                numbers.clear();
            }
            Values::Wide(numbers) => {
                let wide = numbers.drain(..).map(|number| FixedLenByteArray::from(number.to_be_bytes().to_vec()));
                column.typed::<FixedLenByteArrayType>().write_batch(&wide.collect::<Vec<_>>(), levels.0, levels.1)?;
            }
            Values::Text(bytes, ends) => {
                let (all, mut from) = (Bytes::from(std::mem::take(bytes)), 0);
                let text = |to: usize| ByteArray::from(all.slice(std::mem::replace(&mut from, to)..to));
                let texts: Vec<ByteArray> = ends.drain(..).map(text).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, levels.0, levels.1)?;
            }
        }
        definition.clear();
        repetition.clear();
        Ok(())
    }
}

fn if_any(levels: &[i16]) -> Option<&[i16]> {
    (!levels.is_empty()).then_some(levels)
}
