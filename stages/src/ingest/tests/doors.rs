//! Oddities that other tools leave in tars, lists and folders: every sample enters or is refused with a reason, and skipped files are
//! counted.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path as DiskPath;

use object_store::local::LocalFileSystem;

use super::*;

fn dropped(row: &Row) -> BTreeMap<&str, u64> {
    row.dropped.iter().map(|part| (part.reason.as_str(), part.count)).collect()
}

/// Returns keys with reasons of refusal.
fn outcomes(rows: &[Row]) -> Vec<(&str, &str)> {
    rows.iter().map(|row| (row.key.as_str(), reason(row).map_or("kept", |(_, reason)| reason))).collect()
}

fn detail(row: &Row) -> &str {
    row.refusal.as_ref().map_or("", |refusal| refusal.detail.as_str())
}

/// Returns a source on the disk below `folder`.
fn on_disk(folder: &DiskPath, path: &str) -> Location {
    let path = folder.canonicalize().unwrap().join(path);
    Location { store: Arc::new(LocalFileSystem::new()), path: Path::parse(path.to_str().unwrap()).unwrap(), is_disk: true }
}

fn write(folder: &DiskPath, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn list(rows: &[&str]) -> Vec<u8> {
    rows.join("\n").into_bytes()
}

#[test]
fn pieces_of_a_key_that_comes_back_are_refused_with_both_offsets() {
    let photo = jpeg(&picture(1, 20, 20));
    let rows = tar_rows(&[("a.jpg", &photo), ("b.jpg", &photo), ("a.txt", b"one"), ("b.txt", b"two"), ("c.jpg", &photo)]);
    let repeated = "key_repeated";
    assert_eq!(outcomes(&rows), [("a", repeated), ("b", repeated), ("a", repeated), ("b", repeated), ("c", "kept")]);
    let second = 512 + photo.len().next_multiple_of(512);
    assert!(detail(&rows[2]).contains(&format!("at byte {} and again at byte 0", 2 * second)), "{}", detail(&rows[2]));
    let rows = tar_rows(&[("a.jpg", &photo), ("a.txt", b"one"), ("a.jpg", &photo), ("b.jpg", &photo)]);
    assert_eq!(outcomes(&rows), [("a", "member_repeated"), ("b", "kept")]);
}

#[test]
fn a_date_in_a_name_ends_the_key_and_the_refusal_says_so() {
    let photo = jpeg(&picture(1, 20, 20));
    let rows = tar_rows(&[("2024.01.05_a.jpg", &photo), ("2024.01.06_b.jpg", &photo)]);
    assert_eq!(outcomes(&rows), [("2024", "no_main_image")]);
    let said = detail(&rows[0]);
    assert!(said.contains("01.05_a.jpg, 01.06_b.jpg") && said.contains("first dot"), "{said}");
}

#[test]
fn pictures_that_nothing_names_are_counted_and_not_sent() {
    let photo = jpeg(&picture(1, 20, 20));
    let rows = tar_rows(&[
        ("photo.jpg", &photo),
        ("photo.v2.jpg", &photo),
        ("photo.v3.JPG", &photo),
        ("photo.hed.png", &photo),
        ("photo.note.txt", b"behind a further dot"),
        ("photo.cls", b"3"),
        ("photo.txt", b"a caption"),
        ("LICENSE", b"of the tar"),
    ]);
    assert_eq!(rows[0].images.iter().map(|image| image.role.as_str()).collect::<Vec<_>>(), [MAIN_IMAGE, "hed"]);
    assert_eq!(dropped(&rows[0]), BTreeMap::from([("members.cls", 1), ("members.jpg", 2), ("members.none", 1), ("members.txt", 1)]));
    assert_eq!(rows[0].annotations.captions, ["a caption"]);
}

#[test]
fn links_and_other_kinds_of_members_are_followed_or_refused() {
    let photo = jpeg(&picture(1, 20, 20));
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |name: &str, kind: tar::EntryType, target: Option<&str>, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        match target {
            Some(target) => builder.append_link(&mut header, name, target).unwrap(),
            None => builder.append_data(&mut header, name, bytes).unwrap(),
        }
    };
    append("a.jpg", tar::EntryType::Regular, None, &photo);
    append("b.jpg", tar::EntryType::Link, Some("a.jpg"), b"");
    append("c.jpg", tar::EntryType::Symlink, Some("a.jpg"), b"");
    append("d.jpg", tar::EntryType::Link, Some("nothing.jpg"), b"");
    append("e.jpg", tar::EntryType::Fifo, None, b"");
    append("f.jpg", tar::EntryType::Regular, None, &photo);
    append("f.cls", tar::EntryType::Symlink, Some("a.cls"), b"");
    append("f.v2.jpg", tar::EntryType::Symlink, Some("a.jpg"), b"");
    append("g.jpg", tar::EntryType::Regular, None, &photo);
    append("g.hed.png", tar::EntryType::Symlink, Some("a.jpg"), b"");
    let bytes = builder.into_inner().unwrap();
    // Units have one sample, so the bytes behind a link lie in another unit.
    let rows = all_rows(&config(SourceFormat::WebDataset, 1), &location(&[("photos.tar", &bytes)], "photos.tar"));
    assert_eq!(
        outcomes(&rows),
        [("a", "kept"), ("b", "kept"), ("c", "link"), ("d", "link"), ("e", "member_kind"), ("f", "kept"), ("g", "link")]
    );
    assert_eq!(rows[1].images[0].bytes, photo);
    assert_eq!(dropped(&rows[5]), BTreeMap::from([("members.cls", 1), ("members.jpg", 1)]), "nothing asks for these");
}

#[test]
fn a_member_beyond_the_limit_refuses_its_sample_unread() {
    let photo = jpeg(&picture(1, 20, 20));
    let location = location(&[("photos.tar", &tar(&[("a.jpg", &vec![0; 4000]), ("b.jpg", &photo)]))], "photos.tar");
    let source = SourceConfig { max_member_bytes: Some(3000), ..config(SourceFormat::WebDataset, 10) };
    let options = ReadOptions::new(&source, 1 << 30, BTreeSet::new());
    let units = scan_with(&source, &location, &options).unwrap().units;
    let rows = rows_of(&ingest_with(units.into_iter().next().unwrap(), &location, options).unwrap());
    assert_eq!(outcomes(&rows), [("a", "too_many_bytes"), ("b", "kept")]);
    assert!(detail(&rows[0]).contains("4000 bytes") && rows[0].images.is_empty(), "{}", detail(&rows[0]));
}

#[test]
fn pictures_of_formats_that_are_not_built_in_are_named() {
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice();
    let rows = tar_rows(&[("a.heic", heic), ("a.txt", b"a caption"), ("b.jpg", b"version https://git-lfs.github.com/spec/v1\noid")]);
    assert_eq!(outcomes(&rows), [("a", "unsupported_format"), ("b", "unsupported_format")]);
    assert!(detail(&rows[0]).contains("a HEIC picture") && detail(&rows[1]).contains("Git LFS"), "{}", detail(&rows[1]));
    let rows = all_rows(
        &config(SourceFormat::Jsonl, 10),
        &location(&[("list.jsonl", br#"{"image": "x.jpg"}"#), ("x.jpg", b"<!DOCTYPE html><html></html>")], "list.jsonl"),
    );
    assert_eq!((outcomes(&rows), detail(&rows[0]).contains("an HTML page")), (vec![("x.jpg", "unsupported_format")], true));
}

#[test]
fn names_of_any_characters_are_found_on_disks_and_in_stores() {
    let photo = jpeg(&picture(1, 20, 20));
    let names = [
        "café.jpg",
        "写真.jpg",
        "photo [1].jpg",
        "IMG~1.jpg",
        "100%.jpg",
        "a#b.jpg",
        "q?x.jpg",
        "{x}.jpg",
        "a b.jpg",
        "c%20d.jpg",
        "e+f&g.jpg",
    ];
    let lines: Vec<String> = names.iter().map(|name| serde_json::json!({"image": name, "caption": "a photo"}).to_string()).collect();
    let lines = lines.join("\n").into_bytes();
    let paths: Vec<String> = names.iter().map(|name| format!("josé/{name}")).collect();
    let mut files: Vec<(&str, &[u8])> = paths.iter().map(|path| (path.as_str(), photo.as_slice())).collect();
    files.push(("josé/list.jsonl", &lines));
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &files);
    for location in [on_disk(folder.path(), "josé/list.jsonl"), location(&files, "josé/list.jsonl")] {
        let rows = all_rows(&config(SourceFormat::Jsonl, 3), &location);
        assert_eq!(outcomes(&rows), names.map(|name| (name, "kept")), "on a disk: {}", location.is_disk);
    }
    let rows = all_rows(&config(SourceFormat::Folder, 3), &on_disk(folder.path(), "josé"));
    assert_eq!(rows.iter().filter(|row| row.refusal.is_none()).count(), names.len());
}

#[test]
fn the_fault_of_a_row_is_that_row_s() {
    let (folder, photo) = (tempfile::tempdir().unwrap(), jpeg(&picture(1, 20, 20)));
    write(folder.path(), &[("ok.jpg", &photo), ("last.jpg", &photo), ("a folder/x", b"")]);
    let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.jpg")).status().unwrap();
    assert!(pipe.success());
    std::os::unix::fs::symlink("loop.jpg", folder.path().join("loop.jpg")).unwrap();
    let long = "x".repeat(300) + ".jpg";
    let names =
        ["ok.jpg", "ok.jpg/inner.jpg", &long, "a folder", "pipe.jpg", "loop.jpg", "gone.jpg", "https://example.org/x.jpg", "last.jpg"];
    let rows: Vec<String> = names.iter().map(|name| serde_json::json!({"image": name}).to_string()).collect();
    write(folder.path(), &[("list.jsonl", rows.join("\n").as_bytes())]);
    let rows = all_rows(&config(SourceFormat::Jsonl, 4), &on_disk(folder.path(), "list.jsonl"));
    let unreadable = "unreadable_image";
    let reasons: Vec<&str> = outcomes(&rows).into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, ["kept", unreadable, unreadable, unreadable, unreadable, unreadable, "missing_image", unreadable, "kept"]);
    assert!(detail(&rows[1]).contains("Not a directory") && detail(&rows[4]).contains("named pipe"), "{}", detail(&rows[1]));
}

#[test]
fn folders_account_for_every_entry() {
    let (folder, photo) = (tempfile::tempdir().unwrap(), jpeg(&picture(1, 20, 20)));
    write(
        folder.path(),
        &[
            ("a.jfif", &photo),
            ("b.JPE", &photo),
            ("b.TXT", b"a caption\n"),
            ("no extension", &photo),
            ("odd.part1", &photo),
            ("both.jpg", &photo),
            ("both.txt", b"of the text"),
            ("both.json", br#"{"caption": "of the JSON"}"#),
            ("x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
            ("page", b"<html></html>"),
            ("alone.txt", b"a caption"),
            ("alone.json", b"{}"),
            ("table.csv", b"1,2"),
            ("model.bin", b"nothing that is known"),
            (".DS_Store", b"x"),
            (".git/config", b"x"),
            (".git/photo.jpg", &photo),
            ("._b.jpg", b"x"),
            ("sub/c.png", &photo),
        ],
    );
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
    link("nowhere.jpg", "broken.jpg");
    link("..", "sub/up");
    link("a.jfif", "linked.jpg");
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.jpg");
    std::fs::write(folder.path().join(name), &photo).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(folder.path().join("pipe.jpg")).status().unwrap().success());
    let source = config(SourceFormat::Folder, 4);
    let location = on_disk(folder.path(), "");
    let rows = all_rows(&source, &location);
    let (kept, missing) = ("kept", "no_image");
    let expected = BTreeMap::from([
        ("a.jfif", kept),
        ("b.JPE", kept),
        ("no extension", kept),
        ("odd.part1", kept),
        ("both.jpg", kept),
        ("sub/c.png", kept),
        ("linked.jpg", kept),
        ("x.heic", "unsupported_format"),
        ("page", "unsupported_format"),
        ("alone.txt", missing),
        ("alone.json", missing),
        ("broken.jpg", "link"),
        ("sub/up", "link"),
        ("caf%E9.jpg", "bad_name"),
        ("pipe.jpg", "unreadable_image"),
    ]);
    assert_eq!(outcomes(&rows).into_iter().collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(rows.len(), expected.len());
    let both = rows.iter().find(|row| row.key == "both.jpg").unwrap();
    assert_eq!(both.annotations.captions, ["of the JSON", "of the text"]);
    assert_eq!(rows.iter().find(|row| row.key == "b.JPE").unwrap().annotations.captions, ["a caption"]);
    let left = scan_of(&source, &location, None).unwrap().left;
    assert_eq!(left, BTreeMap::from([("bin".to_owned(), 1), ("csv".to_owned(), 1), ("hidden".to_owned(), 3)]));
}

#[test]
fn rows_that_follow_each_other_and_name_one_image_are_one_sample() {
    let photo = jpeg(&picture(1, 20, 20));
    let rows = list(&[
        r#"{"image": "a.jpg", "caption": "one"}"#,
        r#"{"image": "a.jpg", "caption": "two", "questions": [{"question": "What?", "answer": "it"}]}"#,
        "",
        r#"{"image": "a.jpg", "caption": "one", "license": "CC0-1.0", "edits": [{"instruction": "turn", "image": "e.jpg"}]}"#,
        r#"{"image": "b.jpg", "caption": "three"}"#,
        r#"{"image": "a.jpg", "caption": "four", "edits": [{"instruction": "mirror", "image": "e.jpg"}]}"#,
    ]);
    let location = location(&[("list.jsonl", &rows), ("a.jpg", &photo), ("b.jpg", &photo), ("e.jpg", &photo)], "list.jsonl");
    for unit_samples in [1, 2, 10] {
        let rows = all_rows(&config(SourceFormat::Jsonl, unit_samples), &location);
        assert_eq!(outcomes(&rows), [("a.jpg", "kept"), ("b.jpg", "kept"), ("a.jpg", "kept")]);
        let first = &rows[0].annotations;
        assert_eq!(first.captions, ["one", "two"]);
        assert_eq!((first.questions.len(), first.license.as_deref(), first.edits[0].image.as_str()), (1, Some("CC0-1.0"), "edit0"));
    }
    let by_row = SourceConfig { group_by: GroupBy::Row, ..config(SourceFormat::Jsonl, 10) };
    let options = ReadOptions::new(&by_row, 1 << 30, BTreeSet::new());
    assert_eq!(scan_with(&by_row, &location, &options).unwrap().units[0].unit.rows, 5);
}

#[test]
fn names_and_ranges_need_no_listing_and_patterns_that_match_nothing_say_what_is_known() {
    let photo = jpeg(&picture(1, 20, 20));
    let bytes = tar(&[("a.jpg", &photo)]);
    let files: Vec<(String, &[u8])> = (8..11).map(|number| (format!("in/p-{number:02}.tar"), bytes.as_slice())).collect();
    let mut files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    files.push(("in/odd [1].tar", &bytes));
    let units = |path: &str| scan_of(&config(SourceFormat::WebDataset, 1), &location(&files, path), None).map(|found| found.units.len());
    assert_eq!(units("in/p-{08..10}.tar").unwrap(), 3);
    assert_eq!(units("in/p-*.tar").unwrap(), 3);
    assert_eq!(units("in/odd [1].tar").unwrap(), 1);
    for (path, said) in [("in/p-{07..10}.tar", "there is no file p-07.tar"), ("in/{a,b}.tar", "{000..127}"), ("in/x[12].tar", "[abc]")] {
        let error = units(path).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
