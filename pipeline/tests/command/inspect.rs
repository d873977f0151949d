//! `inspect`: output, JSON, files, errors.

use std::path::Path;

use serde_json::Value;

use super::{cm3flow, text};

/// Runs a command that must succeed; returns its output.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = cm3flow(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(folder, arguments)).expect("JSON")
}

/// Runs a command that must fail by the user's mistake; returns its error.
fn mistake(folder: &Path, arguments: &[&str]) -> String {
    let output = cm3flow(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// Writes a folder of photos with a caption that a terminal must not obey, and a configuration over it.
fn prepare(folder: &Path) {
    let photos = folder.join("photos");
    std::fs::create_dir(&photos).expect("a temporary folder");
    for number in 0..6_u8 {
        let photo = image::RgbImage::from_fn(80, 72, |x, y| image::Rgb([(x * 3) as u8, (y * 3) as u8, number * 40]));
        photo.save(photos.join(format!("{number}.png"))).expect("a temporary folder");
        std::fs::write(photos.join(format!("{number}.txt")), format!("a slope of colours, number {number}\u{1b}[2J\u{202e}\n"))
            .expect("so");
    }
    image::RgbImage::new(8, 8).save(photos.join("small.png")).expect("a temporary folder");
    std::fs::write(photos.join("small.txt"), "too small\n").expect("a temporary folder");
    let rest = "[filter]\nmin_short_side_px = 32\n[split]\nheld_out = 0.0\n[tokenize.image]\nkind = \"patches\"\nside_px = 64\ncodes = 32\n\
                [tokenize.text]\nvocabulary_size = 300\n[pack]\nseq_len = 512\n";
    let source = "[[source]]\nname = \"mine\"\nformat = \"folder\"\nurl = \"photos\"\n";
    std::fs::write(folder.join("job.toml"), format!("[dataset]\nname = \"d\"\nstore = \"store\"\n{source}{rest}")).expect("so");
}

#[test]
fn a_user_finds_ids_and_looks_at_what_they_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    prepare(folder);
    assert!(mistake(folder, &["inspect", "job.toml"]).contains("there is no store yet"));
    std::fs::create_dir(folder.join("store")).expect("a temporary folder");
    assert!(mistake(folder, &["inspect", "job.toml"]).contains("nothing of dataset d is published yet"));
    printed(folder, &["run", "job.toml"]);

    let list = printed(folder, &["inspect", "job.toml"]);
    assert_eq!(list, printed(folder, &["inspect", "job.toml", "list"]));
    let id = list.lines().find(|line| line.contains("a slope of colours")).expect("samples are listed").split_whitespace().next();
    let id = id.expect("a line begins with the id").to_owned();
    assert!(list.contains("train/0 to train/") && list.contains("filter.too_small"), "{list}");
    assert!(!list.contains('\u{1b}') && !list.contains('\u{202e}'), "{list:?}");

    let sample = printed(folder, &["inspect", "job.toml", "sample", &id[..10]]);
    for wanted in [id.as_str(), "mine", "kept", "a slope of colours, number", "80 x 72 px", "in pack train/", "main.png"] {
        assert!(sample.contains(wanted), "{wanted} is missing in {sample}");
    }
    assert!(!sample.contains('\u{1b}'), "{sample:?}");
    let png = folder.join(format!("sample-{}/main.png", &id[..12]));
    assert_eq!(image::open(&png).expect("a picture").into_rgb8().dimensions(), (64, 64));

    let shown = json(folder, &["inspect", "job.toml", "sample", &id, "--json", "--out", "there", "--version", "1"]);
    assert_eq!((&shown["kind"], &shown["sample_id"], &shown["folder"]), (&"sample".into(), &id.as_str().into(), &"there".into()));
    assert_eq!((&shown["places"][0]["state"], &shown["places"][0]["source"]), (&"kept".into(), &"mine".into()));
    assert_eq!(std::fs::read(&png).expect("written"), std::fs::read(folder.join("there/main.png")).expect("written"));
    let document = shown["documents"][0]["document_id"].as_str().expect("a sample has documents").to_owned();
    let pack = shown["documents"][0]["pack"].as_str().expect("it is packed").to_owned();

    let shown = printed(folder, &["inspect", "job.toml", "document", &document, "--tokens", "--out", "there"]);
    for wanted in ["masked, as it is trained on", "without masks", "</s>", "modality", "token ids", pack.as_str(), &id] {
        assert!(shown.contains(wanted), "{wanted} is missing in {shown}");
    }
    let shown = json(folder, &["inspect", "job.toml", "document", &document, "--json", "--out", "there"]);
    assert_eq!(shown["sample_id"], id.as_str());
    assert!(shown["token_ids"].is_null() && shown["segments"][0]["role"] == "boundary", "{shown}");
    let shown = json(folder, &["inspect", "job.toml", "pack", &pack, "--json", "--tokens", "--out", "there"]);
    assert_eq!(shown["token_ids"].as_array().map(Vec::len), Some(512));
    assert!(shown["documents"].as_array().expect("a list").iter().any(|row| row["document_id"] == document.as_str()), "{shown}");
    printed(folder, &["inspect", "job.toml", "pack", &pack]);
    assert!(folder.join(format!("pack-{}", pack.replace('/', "-"))).is_dir());

    let refused = printed(folder, &["refused", "list", "job.toml"]);
    let small = printed(folder, &["inspect", "job.toml", "sample", refused.split_whitespace().next().expect("an id")]);
    assert!(small.contains("refused by filter: too_small"), "{small}");

    let usage = json(folder, &["inspect", "job.toml", "codebook", "--json"]);
    assert_eq!((&usage["all"]["codes"], &usage["splits"]["held_out"]["tokens"]), (&32.into(), &0.into()));
    assert!(printed(folder, &["inspect", "job.toml", "codebook"]).contains(" of 32 used"), "{usage}");
}

#[test]
fn mistakes_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    prepare(folder);
    printed(folder, &["run", "job.toml"]);
    let unknown = mistake(folder, &["inspect", "job.toml", "sample", &"0".repeat(32)]);
    assert!(unknown.contains("version 1 has no sample 000") && unknown.contains("`cm3flow inspect CONFIG` shows ids"), "{unknown}");
    let far = mistake(folder, &["inspect", "job.toml", "pack", "train/999"]);
    assert!(far.contains("has packs 0 to"), "{far}");
    let none = mistake(folder, &["inspect", "job.toml", "pack", "held_out/0"]);
    assert!(none.contains("the split held_out has no packs"), "{none}");
    let shape = mistake(folder, &["inspect", "job.toml", "document", "photo-1"]);
    assert!(shape.contains("32 digits"), "{shape}");
    let version = mistake(folder, &["inspect", "job.toml", "codebook", "--version", "7"]);
    assert!(version.contains("has no version 7"), "{version}");
}
