//! Which images a sample names, and by which extensions files are known.

use cm3flow_schemas::sample::Annotations;

/// The names by which annotations name images beside the main one, with what is to stand in front of the number of a role.
pub(in crate::ingest) fn image_names(annotations: &mut Annotations) -> impl Iterator<Item = (&'static str, &mut String)> {
    let edits = annotations.edits.iter_mut().map(|edit| ("edit", &mut edit.image));
    let masks = annotations.masks.iter_mut().map(|mask| ("mask", &mut mask.image));
    let references = annotations.references.iter_mut().map(|reference| ("reference", reference));
    let items = annotations.items.iter_mut().filter_map(|item| item.image.as_mut()).map(|image| ("item", image));
    edits.chain(masks).chain(references).chain(items)
}

/// Whether a file extension (lower case, without dot) is that of an image that can be decoded.
pub(in crate::ingest) fn is_image_extension(extension: &str) -> bool {
    matches!(extension, "jpg" | "jpeg" | "png" | "gif" | "webp" | "bmp" | "tif" | "tiff")
}

/// Whether a file extension is that of given codes.
pub(in crate::ingest) fn is_codes_extension(extension: &str) -> bool {
    extension == "npy"
}
