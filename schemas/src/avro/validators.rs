//! Names that `apache-avro` accepts. Its default takes ASCII only and would refuse every Chinese column.

use std::sync::Once;

use apache_avro::AvroResult;
use apache_avro::error::Details;
use apache_avro::validator::{
    EnumSymbolNameValidator, RecordFieldNameValidator, SchemaNameValidator, SchemaNamespaceValidator,
    set_enum_symbol_name_validator, set_record_field_name_validator, set_schema_name_validator, set_schema_namespace_validator,
};

/// Letters and digits of any script, as Avro's Java implementation has it.
struct AnyScript;

const FORM: &str = "letters and digits of any script or `_`, not starting with a digit";

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

fn is_namespace(text: &str) -> bool {
    text.is_empty() || text.split('.').all(is_name)
}

impl SchemaNameValidator for AnyScript {
    fn validate(&self, schema_name: &str) -> AvroResult<usize> {
        let (namespace, start) = schema_name.rfind('.').map_or(("", 0), |dot| (&schema_name[..dot], dot + 1));
        let name = &schema_name[start..];
        if is_namespace(namespace) && is_name(name) {
            Ok(start)
        } else {
            Err(Details::InvalidSchemaName(schema_name.to_owned(), FORM).into())
        }
    }
}

impl SchemaNamespaceValidator for AnyScript {
    fn validate(&self, namespace: &str) -> AvroResult<()> {
        if is_namespace(namespace) { Ok(()) } else { Err(Details::InvalidNamespace(namespace.to_owned(), FORM).into()) }
    }
}

impl EnumSymbolNameValidator for AnyScript {
    fn validate(&self, symbol: &str) -> AvroResult<()> {
        if is_name(symbol) { Ok(()) } else { Err(Details::EnumSymbolName(symbol.to_owned()).into()) }
    }
}

impl RecordFieldNameValidator for AnyScript {
    fn validate(&self, field_name: &str) -> AvroResult<()> {
        if is_name(field_name) { Ok(()) } else { Err(Details::FieldName(field_name.to_owned()).into()) }
    }
}

/// Makes `apache-avro` accept names of any script, once for the whole process. `main` calls it first: a schema parsed earlier
/// would fix the library's own validators for good. Everything in this crate that parses with `apache-avro` calls it too.
pub fn set_name_validators() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Each refuses only when it was set before, and then by nobody but the library's own default, which is what the
        // documentation above warns of.
        let _ = set_schema_name_validator(Box::new(AnyScript));
        let _ = set_schema_namespace_validator(Box::new(AnyScript));
        let _ = set_enum_symbol_name_validator(Box::new(AnyScript));
        let _ = set_record_field_name_validator(Box::new(AnyScript));
    });
}
