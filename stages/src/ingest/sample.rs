//! Samples as `ingest` sends them, built from the content of a tar, a list or a folder.

use cm3flow_schemas::sample::{self, Annotations, DroppedPart, MAIN_IMAGE, Refusal, RoleImage};
use cm3flow_schemas::{ImageId, SampleId};
use serde::Serialize;

use super::annotations::{BAD_ANNOTATIONS, Reading, captions_from_text, from_json, image_names, is_codes_extension, is_image_extension};
use super::config::ReadOptions;
use super::facts::FileContent;
use super::files::FileSample;
use super::location::Location;
use super::webdataset::{Content, TarSample, counted_member};
use super::{NAME, format};

/// A row of [`cm3flow_schemas::columns::raw_sample`].
#[derive(Serialize)]
pub(super) struct RawRow {
    sample_id: SampleId,
    image_id: ImageId,
    source: String,
    key: String,
    row: u64,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

/// A sample as far as it could be read.
#[derive(Default)]
pub(super) struct RawSample {
    key: String,
    images: Vec<RoleImage>,
    annotations: Annotations,
    dropped: Vec<DroppedPart>,
    refusal: Option<Refusal>,
}

impl RawSample {
    pub(super) fn into_row(mut self, source: &str, row: u64) -> RawRow {
        self.refuse_unsupported();
        let main = self.images.iter().find(|image| image.role == MAIN_IMAGE);
        let image_id = ImageId::of(main.map_or(&[], |image| image.bytes.as_slice()));
        let refusal = self.refusal.or_else(|| main.is_none().then(|| Refusal::new(NAME, "no_image", "the sample has no image")));
        RawRow {
            // A refused sample may lack all content; its key distinguishes it from others.
            sample_id: if refusal.is_some() && self.images.is_empty() {
                keyed_id(source, &self.key, row)
            } else {
                sample::sample_id(&self.images, &self.annotations)
            },
            image_id,
            source: source.to_owned(),
            key: self.key,
            row,
            images: self.images,
            annotations: self.annotations,
            dropped: self.dropped,
            refusal,
        }
    }

    /// Takes annotations, or refuses the sample if they are useless.
    fn take(&mut self, reading: Reading) {
        if let Some(problem) = &reading.problem {
            tracing::info!(key = self.key, problem, "annotations could not be read in full");
        }
        match reading.finish() {
            Ok((annotations, dropped)) => {
                self.annotations = annotations;
                dropped.iter().for_each(|part| DroppedPart::add(&mut self.dropped, &part.reason, part.count));
            }
            Err(problem) => self.refuse(BAD_ANNOTATIONS, problem),
        }
    }

    /// Refuses the sample, unless it already is.
    fn refuse(&mut self, reason: &str, detail: impl Into<String>) {
        self.refusal.get_or_insert_with(|| Refusal::new(NAME, reason, detail));
    }

    fn refuse_unsupported(&mut self) {
        let named = |image: &RoleImage| format::unsupported(&image.bytes).map(|what| (image.role.clone(), what));
        if let Some((role, what)) = self.images.iter().find_map(named) {
            self.refuse("unsupported_format", format!("image {role} is {what}; JPEG, PNG, GIF, WebP, BMP and TIFF are read"));
        }
    }

    /// Makes the first picture of an interleaved document its main one, if it has no other.
    fn make_first_item_main(&mut self) {
        let has_main = self.images.iter().any(|image| image.role == MAIN_IMAGE);
        let Some(first) = self.annotations.items.iter().find_map(|item| item.image.clone()).filter(|_| !has_main) else { return };
        self.images.iter_mut().filter(|image| image.role == first).for_each(|image| MAIN_IMAGE.clone_into(&mut image.role));
        let images = self.annotations.items.iter_mut().filter_map(|item| item.image.as_mut());
        images.filter(|image| **image == first).for_each(|image| MAIN_IMAGE.clone_into(image));
    }
}

fn keyed_id(source: &str, key: &str, row: u64) -> SampleId {
    SampleId(
        cm3flow_schemas::digest::PartHasher::new("sample without content")
            .part(source.as_bytes())
            .part(key.as_bytes())
            .part(&row.to_le_bytes())
            .id(),
    )
}

/// Checks whether a member is read. Others, such as a .cls, are left to their users.
pub(super) fn is_read(extension: &str) -> bool {
    let (stem, last) = extension.rsplit_once('.').map_or((None, extension), |(stem, last)| (Some(stem), last));
    (stem.is_none() && matches!(last, "json" | "txt")) || is_image_extension(last) || is_codes_extension(last)
}

/// A member that was read.
struct ReadMember {
    /// Part of the extension before the last dot, or [`MAIN_IMAGE`].
    role: String,
    /// Part of the name behind the key.
    extension: String,
    bytes: Vec<u8>,
}

/// A member that could not be read.
struct UnreadMember {
    /// Role, as [`ReadMember::role`].
    role: String,
    /// Part of the name behind the key.
    extension: String,
    /// Reason of a refusal.
    reason: &'static str,
    detail: String,
}

/// Builds a sample of the tar `name`. `repeated_at` is the offset of another sample with the same key.
pub(super) fn of_tar(found: TarSample, name: &str, repeated_at: Option<u64>, options: &ReadOptions) -> RawSample {
    let mut sample = RawSample { key: found.key.clone(), ..RawSample::default() };
    found.strays.iter().for_each(|stray| DroppedPart::add(&mut sample.dropped, &format!("members.{stray}"), 1));
    if let Some(damage) = &found.damage {
        sample.refuse("damaged_tar", format!("{name}: {damage}"));
        return sample;
    }
    if let Some(other) = repeated_at {
        let here = found.start;
        sample.refuse(
            "key_repeated",
            format!("{name}: the key stands at byte {here} and again at byte {other}; write members of one key side by side"),
        );
        return sample;
    }
    if let Some((first, second)) = found.repeated_member() {
        let (extension, one, other) = (&second.extension, first.header, second.header);
        sample.refuse("member_repeated", format!("{name}: .{extension} stands at byte {one} and again at byte {other}"));
        return sample;
    }
    let pictures: Vec<String> = found.members.iter().filter(|member| is_picture(&member.extension)).map(|m| m.extension.clone()).collect();
    let (members, unread) = sample.read_members(found, options);
    sample.take_members(members, options);
    sample.judge_unread(unread, options);
    let has_main = sample.images.iter().any(|image| image.role == MAIN_IMAGE);
    if !has_main && !pictures.is_empty() {
        let key = sample.key.rsplit('/').next().unwrap_or_default();
        let detail = format!(
            "{} belong to the key {key:?}, which ends at the first dot of the name; none is {key}.jpg or the like",
            pictures.join(", ")
        );
        sample.refuse("no_main_image", detail);
    }
    sample
}

fn is_picture(extension: &str) -> bool {
    is_image_extension(extension.rsplit('.').next().unwrap_or(extension))
}

impl RawSample {
    /// Separates the members that were read from those that could not be. Members that nobody needs are counted.
    fn read_members(&mut self, found: TarSample, options: &ReadOptions) -> (Vec<ReadMember>, Vec<UnreadMember>) {
        let (mut members, mut unread) = (Vec::new(), Vec::new());
        for member in found.members {
            let extension = member.extension;
            let role = extension.rsplit_once('.').map_or(MAIN_IMAGE, |(stem, _)| stem).to_owned();
            let (reason, detail) = match member.content {
                Content::Bytes(bytes) => {
                    members.push(ReadMember { role, extension, bytes });
                    continue;
                }
                Content::Unread => {
                    DroppedPart::add(&mut self.dropped, &counted_member(&extension), 1);
                    continue;
                }
                Content::TooLarge(bytes) => {
                    let most = options.max_member_bytes;
                    ("too_many_bytes", format!(".{extension} has {bytes} bytes, at most {most} are read (source.max_member_bytes)"))
                }
                Content::Link(target) => ("link", format!(".{extension} is a link to {target}, which is no member in front of it")),
                Content::Other(kind) => ("member_kind", format!(".{extension} is {kind}")),
            };
            unread.push(UnreadMember { role, extension, reason, detail });
        }
        (members, unread)
    }

    /// Refuses the sample for an unread member that is needed. Others are counted, as if they had been read.
    fn judge_unread(&mut self, unread: Vec<UnreadMember>, options: &ReadOptions) {
        let named = self.named_roles();
        for UnreadMember { role, extension, reason, detail } in unread {
            if role == MAIN_IMAGE || named.contains(&role) || options.roles.contains(&role) {
                self.refuse(reason, detail);
            } else {
                DroppedPart::add(&mut self.dropped, &counted_member(&extension), 1);
            }
        }
    }

    /// Returns the roles that annotations name.
    fn named_roles(&mut self) -> Vec<String> {
        image_names(&mut self.annotations).map(|(_, name)| name.clone()).collect()
    }

    /// Takes annotations and images of a tar's sample.
    fn take_members(&mut self, members: Vec<ReadMember>, options: &ReadOptions) {
        let (mut pictures, mut given) = (Vec::new(), Vec::new());
        // Captions of the JSON come first, in any order of members.
        let (mut reading, mut texts) = (Reading::default(), Reading::default());
        for member in members {
            let last = member.extension.rsplit('.').next().unwrap_or_default();
            let read = match last {
                "json" => from_json(&member.bytes).map(|read| reading.join(read.at(".json"))),
                "txt" => captions_from_text(&member.bytes).map(|captions| texts.join(Reading::of_captions(captions))),
                _ => {
                    if is_codes_extension(last) {
                        given.push(member)
                    } else {
                        pictures.push(member)
                    }
                    continue;
                }
            };
            if let Err(problem) = read {
                self.refuse(BAD_ANNOTATIONS, format!(".{}: {problem}", member.extension));
            }
        }
        reading.join(texts);
        self.take(reading);
        self.name_roles();
        self.take_images(pictures, given, options);
        self.make_first_item_main();
    }

    /// Replaces the names of members in annotations by roles.
    fn name_roles(&mut self) {
        for (_, name) in image_names(&mut self.annotations) {
            if let Some((stem, extension)) = name.rsplit_once('.')
                && [is_image_extension, is_codes_extension].iter().any(|is_known| is_known(&extension.to_ascii_lowercase()))
            {
                *name = stem.to_ascii_lowercase();
            } else if is_image_extension(&name.to_ascii_lowercase()) {
                // `KEY.jpg` has no name but its type.
                MAIN_IMAGE.clone_into(name);
            }
        }
    }

    /// Takes the images that are needed. Others are counted, and need not be encoded.
    fn take_images(&mut self, pictures: Vec<ReadMember>, given: Vec<ReadMember>, options: &ReadOptions) {
        let named = self.named_roles();
        let is_named = |role: &str| role == MAIN_IMAGE || named.iter().any(|name| name == role);
        let pictures = pictures.into_iter().map(|member| (is_named(&member.role) || options.roles.contains(&member.role), member));
        // Tars may have embeddings as .npy, too. Codes are only those in place of a missing picture.
        let given = given.into_iter().map(|member| (is_named(&member.role), member));
        for (is_wanted, member) in pictures.chain(given).collect::<Vec<_>>() {
            if is_wanted && !self.images.iter().any(|image| image.role == member.role) {
                self.images.push(RoleImage { role: member.role, bytes: member.bytes });
            } else {
                DroppedPart::add(&mut self.dropped, &counted_member(&member.extension), 1);
            }
        }
    }
}

/// Builds a sample with the contents of its images, in the order of [`FileSample::pictures`].
pub(super) fn of_files(found: FileSample, contents: Vec<FileContent>, location: &Location, options: &ReadOptions) -> RawSample {
    let mut sample = RawSample { key: found.key, ..RawSample::default() };
    if let Some((reason, detail)) = found.refusal {
        sample.refuse(&reason, detail);
    }
    sample.take(found.reading);
    if let Some(problem) = found.no_image {
        sample.refuse("no_image", problem);
    }
    match found.codes {
        Some(Ok(bytes)) => sample.images.push(RoleImage { role: MAIN_IMAGE.to_owned(), bytes }),
        Some(Err(problem)) => sample.refuse("bad_codes", problem),
        None => {}
    }
    let pictures = found.image.into_iter().map(|picture| (MAIN_IMAGE.to_owned(), picture)).chain(found.further);
    for ((role, picture), content) in pictures.zip(contents) {
        let named = || picture.path.as_ref().map_or_else(|_| picture.name.clone(), |path| location.relative(path));
        match content {
            FileContent::Bytes(bytes) => sample.images.push(RoleImage { role, bytes: bytes.to_vec() }),
            FileContent::Missing => sample.refuse("missing_image", format!("{} does not exist", named())),
            FileContent::Unreadable(problem) => sample.refuse("unreadable_image", format!("{}: {problem}", named())),
            FileContent::TooLarge(bytes) => {
                let most = options.max_member_bytes;
                sample
                    .refuse("too_many_bytes", format!("{} has {bytes} bytes, at most {most} are read (source.max_member_bytes)", named()));
            }
        }
    }
    sample
}
