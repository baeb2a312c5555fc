//! The components of the document: one schema for each type, or two where a type is shown otherwise than it
//! is taken (defaults filled in, say), of which the shown one gets a name of its own.

use std::collections::BTreeSet;

use schemars::{
    SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::operation::SchemaOf;

const PREFIX: &str = "#/components/schemas/";
const SHOWN: &str = "Shown";

/// Collects the types that the operations name.
pub(super) struct Schemas {
    taken: SchemaGenerator,
    shown: SchemaGenerator,
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

impl Schemas {
    pub(super) fn new() -> Self {
        Self { taken: generator(Contract::Deserialize), shown: generator(Contract::Serialize) }
    }

    /// The schema of what requests carry.
    pub(super) fn taken(&mut self, schema: SchemaOf) -> Value {
        neat(schema(&mut self.taken).to_value())
    }

    /// The schema of what answers carry. References are final only after [`Schemas::finish`].
    pub(super) fn shown(&mut self, schema: SchemaOf) -> Value {
        mark(neat(schema(&mut self.shown).to_value()))
    }

    /// All components, and `paths` with its references put right.
    pub(super) fn finish(mut self, mut paths: Value) -> (Map<String, Value>, Value) {
        let mut taken = self.taken.take_definitions(true);
        let mut shown = self.shown.take_definitions(true);
        for schema in taken.values_mut().chain(shown.values_mut()) {
            *schema = neat(schema.take());
        }
        let apart = apart(&taken, &shown);
        let mut components = taken;
        for (name, mut schema) in shown {
            let name = if apart.contains(&name) { name + SHOWN } else { name };
            schema = mark(schema);
            settle(&mut schema, &apart);
            components.insert(name, schema);
        }
        settle(&mut paths, &apart);
        (components, paths)
    }
}

/// Names of types that are taken in one form and shown in another, by their own or through what they hold.
fn apart(taken: &Map<String, Value>, shown: &Map<String, Value>) -> BTreeSet<String> {
    let both = || shown.iter().filter_map(|(name, form)| Some((name, form, taken.get(name)?)));
    let mut apart: BTreeSet<_> =
        both().filter(|(_, shown, taken)| shown != taken).map(|(name, ..)| name.clone()).collect();
    loop {
        let next: Vec<_> = both()
            .filter(|(name, form, _)| !apart.contains(*name) && names_one_of(form, &apart))
            .map(|(name, ..)| name.clone())
            .collect();
        if next.is_empty() {
            return apart;
        }
        apart.extend(next);
    }
}

fn names_one_of(schema: &Value, names: &BTreeSet<String>) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().any(|(key, value)| match value.as_str() {
            Some(text) if key == "$ref" => text.strip_prefix(PREFIX).is_some_and(|name| names.contains(name)),
            _ => names_one_of(value, names),
        }),
        Value::Array(items) => items.iter().any(|item| names_one_of(item, names)),
        _ => false,
    }
}

/// Does something to every object within.
fn walk(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            change(fields);
            fields.values_mut().for_each(|field| walk(field, change));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, change)),
        _ => {}
    }
}

/// Marks references that come from something shown.
fn mark(mut schema: Value) -> Value {
    walk(&mut schema, &mut |fields| {
        if let Some(Value::String(reference)) = fields.get_mut("$ref") {
            reference.push('?');
        }
    });
    schema
}

/// Decides what marked references name.
fn settle(value: &mut Value, apart: &BTreeSet<String>) {
    walk(value, &mut |fields| {
        if let Some(Value::String(reference)) = fields.get_mut("$ref")
            && reference.ends_with('?')
        {
            reference.pop();
            if reference.strip_prefix(PREFIX).is_some_and(|name| apart.contains(name)) {
                reference.push_str(SHOWN);
            }
        }
    });
}

/// What the derived schemas leave out or say in Rust: ranges of integers, links of documentation.
fn neat(mut schema: Value) -> Value {
    walk(&mut schema, &mut |fields| {
        let range = match fields.get("format").and_then(Value::as_str) {
            Some("uint32") => Some((json!(0), json!(u32::MAX))),
            Some("uint64") => Some((json!(0), json!(u64::MAX))),
            Some("int32") => Some((json!(i32::MIN), json!(i32::MAX))),
            Some("int64") => Some((json!(i64::MIN), json!(i64::MAX))),
            _ => None,
        };
        if let Some((least, most)) = range {
            fields.entry("minimum").or_insert(least);
            fields.entry("maximum").or_insert(most);
        }
        if let Some(Value::String(text)) = fields.get_mut("description") {
            *text = text.replace("[`", "`").replace("`]", "`");
        }
    });
    schema
}

/// A parameter is there or not, but never null.
pub(super) fn without_null(mut schema: Value) -> Value {
    let Some(fields) = schema.as_object_mut() else { return schema };
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(mut branches)) = fields.remove("anyOf") {
        branches.retain(|branch| branch["type"] != "null");
        match branches.pop() {
            Some(Value::Object(only)) if branches.is_empty() => fields.extend(only),
            Some(last) => {
                branches.push(last);
                fields.insert("anyOf".into(), Value::Array(branches));
            }
            None => {}
        }
    }
    fields.remove("default");
    schema
}
