//! Named parameters of `INF`: two characters, then the value.

/// The name of a field: `[A-Z][A-Z0-9]`.
pub type Tag = [u8; 2];

/// The parameters of a text of them; none of an empty text.
pub fn fields(text: &str) -> impl Iterator<Item = &str> + use<'_> {
    // A text of no parameters would split into one empty one.
    let text = (!text.is_empty()).then_some(text);
    text.into_iter().flat_map(|text| text.split(' '))
}

/// The features of a `SU` value; malformed ones are left out.
pub fn feature_list(value: &str) -> impl Iterator<Item = &str> + use<'_> {
    value.split(',').filter(|feature| {
        feature.len() == 4
            && feature
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    })
}

/// The fields without those that `drop` names, in their order. Parameters that are no fields are left out.
#[must_use]
pub fn without_tags(text: &str, drop: impl Fn(&Tag) -> bool) -> String {
    let mut kept = String::with_capacity(text.len());
    for field in fields(text) {
        let Some(tag) = tag(field) else { continue };
        if !drop(&tag) {
            if !kept.is_empty() {
                kept.push(' ');
            }
            kept.push_str(field);
        }
    }
    kept
}

/// The name of a field; none when the parameter is no field.
pub(crate) fn tag(field: &str) -> Option<Tag> {
    let tag: Tag = field.as_bytes().get(..2)?.try_into().ok()?;
    let valid = tag[0].is_ascii_uppercase() && (tag[1].is_ascii_uppercase() || tag[1].is_ascii_digit());
    valid.then_some(tag)
}
