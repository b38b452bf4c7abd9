//! Checks a client's JSON against the shape that the API documents, as strictly as the API does: one unknown key,
//! one missing or misplaced value, and the event as a whole is refused with the path of the offender.
//!
//! The tables of shapes are in `shapes.rs`; this is the walker.

use serde_json::Value;

/// A refusal, as it will stand in an `error` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl Rejection {
    /// A value that has no business being where it is.
    pub(super) fn invalid_value(param: &str, message: impl Into<String>) -> Self {
        Self { code: "invalid_value", message: message.into(), param: Some(param.into()) }
    }

    /// A refusal that names no parameter.
    pub(super) fn plain(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None }
    }

    fn unknown(param: &str) -> Self {
        Self { code: "unknown_parameter", message: format!("Unknown parameter: '{param}'."), param: Some(param.into()) }
    }

    fn missing(param: &str) -> Self {
        Self {
            code: "missing_required_parameter",
            message: format!("Missing required parameter: '{param}'."),
            param: Some(param.into()),
        }
    }

    fn kind(param: &str, expected: &str, value: &Value) -> Self {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(number) if number.is_f64() => "a decimal",
            Value::Number(_) => "an integer",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Self::invalid_value(param, format!("Invalid type for '{param}': expected {expected}, but got {got} instead."))
    }
}

/// What a value must look like.
#[derive(Debug)]
pub(super) enum Rule {
    /// Any JSON.
    Any,
    /// `true` or `false`.
    Bool,
    /// A string of at most this many bytes.
    Text(usize),
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An integer in this range.
    Whole(i64, i64),
    /// A number in this range.
    Number(f64, f64),
    /// An array of at most so many of these.
    List(usize, &'static Self),
    /// String keys to string values: most pairs, longest key, longest value.
    Pairs(usize, usize, usize),
    /// An object with these keys and no others.
    Object(&'static [Field]),
    /// An object whose key names which of the field lists applies; the key itself need not be listed.
    Tagged(&'static str, &'static [(&'static str, &'static [Field])]),
    /// The first of these whose JSON kind fits.
    Either(&'static [Self]),
}

/// A key of an object.
#[derive(Debug)]
pub(super) struct Field {
    name: &'static str,
    rule: &'static Rule,
    required: bool,
}

/// A key that may be absent or `null`.
pub(super) const fn opt(name: &'static str, rule: &'static Rule) -> Field {
    Field { name, rule, required: false }
}

/// A key that must be there.
pub(super) const fn req(name: &'static str, rule: &'static Rule) -> Field {
    Field { name, rule, required: true }
}

impl Rule {
    fn fits_kind(&self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Bool => value.is_boolean(),
            Self::Text(_) | Self::Choice(_) => value.is_string(),
            Self::Whole(..) | Self::Number(..) => value.is_number(),
            Self::List(..) => value.is_array(),
            Self::Pairs(..) | Self::Object(_) | Self::Tagged(..) => value.is_object(),
            Self::Either(rules) => rules.iter().any(|rule| rule.fits_kind(value)),
        }
    }

    fn expects(&self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::Bool => "a boolean",
            Self::Text(_) | Self::Choice(_) => "a string",
            Self::Whole(..) => "an integer",
            Self::Number(..) => "a number",
            Self::List(..) => "an array",
            Self::Pairs(..) | Self::Object(_) | Self::Tagged(..) => "an object",
            Self::Either(_) => "one of several types",
        }
    }

    /// Checks `value`, which stands at `path`.
    ///
    /// # Errors
    /// The first thing that the API would refuse.
    pub(super) fn check(&self, value: &Value, path: &str) -> Result<(), Rejection> {
        if !self.fits_kind(value) {
            return Err(Rejection::kind(path, self.expects(), value));
        }
        match self {
            Self::Any | Self::Bool => Ok(()),
            Self::Text(longest) => check_text(value, *longest, path),
            Self::Choice(words) => check_choice(value, words, path),
            Self::Whole(low, high) => match value.as_i64() {
                Some(number) if (*low..=*high).contains(&number) => Ok(()),
                Some(number) => Err(out_of_range(path, number, low, high)),
                None => Err(Rejection::kind(path, "an integer", value)),
            },
            Self::Number(low, high) => match value.as_f64() {
                Some(number) if (*low..=*high).contains(&number) => Ok(()),
                Some(number) => Err(out_of_range(path, number, low, high)),
                None => Err(Rejection::kind(path, "a number", value)),
            },
            Self::List(most, rule) => check_list(value, *most, rule, path),
            Self::Pairs(most, key, text) => check_pairs(value, (*most, *key, *text), path),
            Self::Object(fields) => check_fields(value, fields, None, path),
            Self::Tagged(tag, variants) => check_tagged(value, tag, variants, path),
            Self::Either(rules) => match rules.iter().find(|rule| rule.fits_kind(value)) {
                Some(rule) => rule.check(value, path),
                None => Err(Rejection::kind(path, self.expects(), value)),
            },
        }
    }
}

fn out_of_range<T: std::fmt::Display>(path: &str, number: T, low: &T, high: &T) -> Rejection {
    Rejection::invalid_value(
        path,
        format!("Invalid '{path}': {number} is out of range. Expected a value between {low} and {high}."),
    )
}

fn check_text(value: &Value, longest: usize, path: &str) -> Result<(), Rejection> {
    match value.as_str() {
        Some(text) if text.len() > longest => Err(Rejection::invalid_value(
            path,
            format!("Invalid '{path}': string too long. Expected at most {longest} bytes, but got {}.", text.len()),
        )),
        _ => Ok(()),
    }
}

fn check_choice(value: &Value, words: &[&str], path: &str) -> Result<(), Rejection> {
    let text = value.as_str().unwrap_or_default();
    if words.contains(&text) {
        return Ok(());
    }
    let supported = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
    // An unknown word is shown in part only: it may be anything.
    let shown: String = text.chars().take(40).collect();
    Err(Rejection::invalid_value(path, format!("Invalid value: '{shown}'. Supported values are: {supported}.")))
}

fn check_list(value: &Value, most: usize, rule: &Rule, path: &str) -> Result<(), Rejection> {
    let entries = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.len() > most {
        return Err(Rejection::invalid_value(
            path,
            format!("Invalid '{path}': array too long. Expected at most {most}, but got {}.", entries.len()),
        ));
    }
    entries.iter().enumerate().try_for_each(|(index, entry)| rule.check(entry, &format!("{path}[{index}]")))
}

fn check_pairs(value: &Value, limits: (usize, usize, usize), path: &str) -> Result<(), Rejection> {
    let (most, longest_key, longest_text) = limits;
    let Some(pairs) = value.as_object() else { return Ok(()) };
    if pairs.len() > most {
        return Err(Rejection::invalid_value(
            path,
            format!("Invalid '{path}': too many properties. Expected at most {most}, but got {}.", pairs.len()),
        ));
    }
    for (key, entry) in pairs {
        let inner = join(path, key);
        let Some(text) = entry.as_str() else { return Err(Rejection::kind(&inner, "a string", entry)) };
        if key.chars().count() > longest_key || text.chars().count() > longest_text {
            return Err(Rejection::invalid_value(
                &inner,
                format!("Invalid '{inner}': at most {longest_key} characters of key and {longest_text} of value."),
            ));
        }
    }
    Ok(())
}

fn check_fields(value: &Value, fields: &[Field], tag: Option<&str>, path: &str) -> Result<(), Rejection> {
    let Some(object) = value.as_object() else { return Ok(()) };
    // Unknown keys come first: they are what the API is known to refuse a whole update for.
    for key in object.keys() {
        if tag != Some(key.as_str()) && !fields.iter().any(|field| field.name == key) {
            return Err(Rejection::unknown(&join(path, key)));
        }
    }
    for field in fields {
        let inner = join(path, field.name);
        match object.get(field.name) {
            None | Some(Value::Null) if field.required => return Err(Rejection::missing(&inner)),
            None | Some(Value::Null) => {}
            Some(entry) => field.rule.check(entry, &inner)?,
        }
    }
    Ok(())
}

fn check_tagged(
    value: &Value,
    tag: &'static str,
    variants: &[(&'static str, &'static [Field])],
    path: &str,
) -> Result<(), Rejection> {
    let place = join(path, tag);
    let Some(found) = value.get(tag).filter(|found| !found.is_null()) else { return Err(Rejection::missing(&place)) };
    let Some(word) = found.as_str() else { return Err(Rejection::kind(&place, "a string", found)) };
    match variants.iter().find(|(name, _)| *name == word) {
        Some((_, fields)) => check_fields(value, fields, Some(tag), path),
        None => {
            let names: Vec<&str> = variants.iter().map(|(name, _)| *name).collect();
            check_choice(found, &names, &place)
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INNER: &[Field] = &[req("type", &Rule::Choice(&["a"])), opt("n", &Rule::Whole(1, 4096))];
    const SHAPE: Rule = Rule::Object(&[
        opt("list", &Rule::List(2, &Rule::Object(INNER))),
        opt("limit", &Rule::Either(&[Rule::Whole(1, 9), Rule::Choice(&["inf"])])),
        opt("mode", &Rule::Tagged("type", &[("on", &[opt("level", &Rule::Number(0.0, 1.0))])])),
        opt("tags", &Rule::Pairs(1, 3, 4)),
    ]);

    fn refused(value: Value) -> (&'static str, String) {
        let rejection = SHAPE.check(&value, "s").expect_err("must be refused");
        (rejection.code, rejection.param.unwrap_or_default())
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_whole_path() {
        assert_eq!(refused(json!({"list": [{"type": "a", "x": 1}]})), ("unknown_parameter", "s.list[0].x".into()));
        assert_eq!(refused(json!({"mode": {"type": "on", "lever": 1}})), ("unknown_parameter", "s.mode.lever".into()));
    }

    #[test]
    fn missing_and_misplaced_values_are_refused() {
        assert_eq!(refused(json!({"list": [{}]})), ("missing_required_parameter", "s.list[0].type".into()));
        assert_eq!(refused(json!({"mode": {}})), ("missing_required_parameter", "s.mode.type".into()));
        assert_eq!(refused(json!({"mode": {"type": "off"}})), ("invalid_value", "s.mode.type".into()));
        assert_eq!(refused(json!({"mode": {"type": "on", "level": 1.5}})), ("invalid_value", "s.mode.level".into()));
        assert_eq!(refused(json!({"limit": 10})), ("invalid_value", "s.limit".into()));
        assert_eq!(refused(json!({"limit": "all"})), ("invalid_value", "s.limit".into()));
        assert_eq!(refused(json!({"limit": true})), ("invalid_value", "s.limit".into()));
        assert_eq!(refused(json!({"tags": {"long": "x"}})), ("invalid_value", "s.tags.long".into()));
        assert_eq!(refused(json!({"tags": {"a": "x", "b": "y"}})), ("invalid_value", "s.tags".into()));
    }

    #[test]
    fn a_fitting_value_with_nulls_is_accepted() {
        let value = json!({"list": [{"type": "a", "n": null}], "limit": "inf", "mode": null, "tags": {"k": "v"}});
        assert_eq!(SHAPE.check(&value, "s"), Ok(()));
    }
}
