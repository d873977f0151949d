//! Images that annotations name, and the extensions of image files.

use cm3flow_schemas::sample::Annotations;

use crate::ingest::format::Extension;

/// Iterates over the names of images in annotations, each with the prefix of its role; a number follows that prefix.
pub(in crate::ingest) fn image_names(annotations: &mut Annotations) -> impl Iterator<Item = (&'static str, &mut String)> {
    let edits = annotations.edits.iter_mut().map(|edit| ("edit", &mut edit.image));
    let masks = annotations.masks.iter_mut().map(|mask| ("mask", &mut mask.image));
    let references = annotations.references.iter_mut().map(|reference| ("reference", reference));
    let items = annotations.items.iter_mut().filter_map(|item| item.image.as_mut()).map(|image| ("item", image));
    edits.chain(masks).chain(references).chain(items)
}

/// Checks whether a file extension (lower case, without dot) is that of a picture.
pub(in crate::ingest) fn is_image_extension(extension: &str) -> bool {
    Extension::of(extension) == Extension::Picture
}

/// Checks whether a file extension is that of given codes.
pub(in crate::ingest) fn is_codes_extension(extension: &str) -> bool {
    Extension::of(extension) == Extension::Codes
}
