//! A resource's transform alone, without log and keyed state: what a mapping makes of raw events.

use guitong_schemas::avro::decode::DecodeError;
use guitong_schemas::avro::frame::{self, FrameError};
use guitong_schemas::contract::Resource;
use guitong_schemas::standard::{Standard, Zone};
use thiserror::Error;

use crate::claims::EntityRecord;
use crate::mapping::{BindError, Bound, Mapping, MappingError};
use crate::quarantine::Rejection;
use crate::transform::{Change, Raw, Runner};

/// Why a mapping cannot be tried, or an event not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrialError {
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The writer's schema is no change event, or lacks columns of the mapping.
    #[error("{0}")]
    Schema(String),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Whether a resource's mapping compiles, whatever the source sends.
///
/// # Errors
/// [`MappingError`] where it does not.
pub fn verify(resource: &Resource, standard: &Standard, zone: &Zone) -> Result<(), MappingError> {
    Mapping::compile(resource, standard, zone).map(drop)
}

/// What one event comes to.
#[derive(Debug)]
pub enum Outcome {
    Records(Vec<EntityRecord>),
    Rejected(Vec<Rejection>),
    /// The row is gone, or the table was emptied.
    Gone,
}

/// A mapping over one writer's schema.
#[derive(Debug)]
pub struct Trial {
    mapping: Mapping,
    bound: Bound,
}

impl Trial {
    /// # Errors
    /// [`TrialError`] where the mapping does not fit the entity or the writer's schema.
    pub fn compile(resource: &Resource, standard: &Standard, zone: &Zone, writer_schema: &str) -> Result<Self, TrialError> {
        let mapping = Mapping::compile(resource, standard, zone)?;
        let bound = mapping.bind(0, writer_schema).map_err(|error: BindError| TrialError::Schema(error.to_string()))?;
        let missing = mapping.columns.iter().enumerate().filter(|(at, _)| bound.field(*at).is_none());
        let missing: Vec<String> = missing.map(|(_, column)| format!("`{column}`")).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            return Err(TrialError::Schema(format!("the mapping reads {missing}, which {} does not have", resource.table)));
        }
        Ok(Self { mapping, bound })
    }

    /// Runs framed raw values, of which every column was sent, and hands over what each comes to. Records are framed with
    /// `schema_id`.
    ///
    /// # Errors
    /// [`TrialError`] at the first value that cannot be read.
    pub fn run<'v>(
        &self,
        values: impl IntoIterator<Item = &'v [u8]>,
        schema_id: u32,
        mut each: impl FnMut(Outcome),
    ) -> Result<(), TrialError> {
        let mut runner = Runner::new(&self.mapping, schema_id);
        for value in values {
            let (_, avro) = frame::read(value)?;
            let event = runner.run(&self.bound, &Raw::whole(avro), None, 0)?;
            each(match event.change {
                Change::Good(records) => Outcome::Records(records),
                Change::Bad { rejections } => Outcome::Rejected(rejections),
                Change::Delete | Change::Truncate | Change::Unloaded => Outcome::Gone,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::change::Operation;

    use super::*;
    use crate::fixtures::{Source, resource, uscc};

    /// Outcome of one event by a trial, or the error.
    fn outcome(framed: &[u8], trial: &Trial) -> Result<Option<Outcome>, TrialError> {
        let mut last = None;
        trial.run([framed], 9, |outcome| last = Some(outcome)).map(|()| last)
    }

    #[test]
    fn an_event_comes_to_records_rejections_or_nothing() {
        let resource = resource("enterprise");
        let columns: Vec<&str> = vec![
            "tyshxydm", "qymc", "jjlx", "hydm", "fddbr", "frzjlx", "frzjhm", "zczb", "bz", "clrq", "hzrq", "yyqxz", "djzt",
            "djjg", "djjgdm", "zs", "xzqh", "jyfw", "ryrs", "lxr", "lxdh",
        ];
        let source = Source::of_texts(&resource, &columns);
        let compile = |schema: &str| Trial::compile(&resource, Standard::builtin(), Zone::shanghai(), schema);
        let trial = compile(source.plan.value_schema().expect("Avro")).expect("compiles");
        let event = |operation, code: Option<&str>| {
            let mut cells = vec![Some("1")];
            cells.extend(columns.iter().map(|column| match *column {
                "tyshxydm" => code,
                "qymc" => Some("南宁甲有限公司"),
                "fddbr" => Some("韦小明"),
                "clrq" => Some("20170922"),
                "djzt" => Some("在营"),
                "djjg" => Some("自治区市场监督管理局"),
                "djjgdm" => Some("11450000PDY00001X0"),
                "zs" => Some("南宁市民族大道1号"),
                "xzqh" => Some("450103"),
                _ => None,
            }));
            let mut framed = Vec::new();
            frame::write(3, &mut framed);
            framed.extend(source.event(operation, &cells).0);
            framed
        };
        let code = uscc(1);
        match outcome(&event(Operation::Create, Some(&code)), &trial) {
            Ok(Some(Outcome::Records(records))) => assert!(matches!(frame::read(&records[0].record), Ok((9, _)))),
            other => panic!("{other:?}"),
        }
        match outcome(&event(Operation::Create, None), &trial) {
            Ok(Some(Outcome::Rejected(rejections))) => assert_eq!(rejections[0].field, "uscc"),
            other => panic!("{other:?}"),
        }
        let gone = outcome(&event(Operation::Delete, Some(&code)), &trial);
        assert!(matches!(gone, Ok(Some(Outcome::Gone))), "{gone:?}");

        assert!(matches!(outcome(b"{}", &trial), Err(TrialError::Frame(_))));
        assert!(matches!(outcome(&[0, 0, 0, 0, 3, 2], &trial), Err(TrialError::Decode(_))));
        let other = Source::of_texts(&resource, &columns[1..]);
        let error = compile(other.plan.value_schema().expect("Avro")).expect_err("lacks a column").to_string();
        assert!(error.contains("tyshxydm"), "{error}");
    }
}
