//! Archives as `torch.save` writes them, and broken ones; `tests/golden.rs` reads whole checkpoints of PyTorch itself.

use std::io::Write;

use proptest::prelude::*;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::weights::WeightsFile;

/// Builds an archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored)).expect("in memory");
        writer.write_all(bytes).expect("in memory");
    }
    writer.finish().expect("in memory").into_inner()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(number: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &number.to_le_bytes()].concat()
}

fn tuple(numbers: &[i64]) -> Vec<u8> {
    [b"(", &numbers.iter().flat_map(|number| int(*number)).collect::<Vec<_>>()[..], b"t"].concat()
}

/// Builds a tensor of `class` in storage `0` of `len` numbers.
fn tensor(class: &str, len: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let storage =
        [b"(", &text("storage")[..], format!("ctorch\n{class}\n").as_bytes(), &text("0"), &text("cpu"), &int(len), b"tQ"].concat();
    let parts = [&storage[..], &int(offset), &tuple(shape), &tuple(strides), b"\x89N"].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &parts[..], b"tR"].concat()
}

/// Builds a checkpoint that is the dict `{"w": tensor}`.
fn checkpoint(tensor: &[u8], data: &[u8]) -> Vec<u8> {
    let pickle = [b"\x80\x02}", &text("w")[..], tensor, b"s."].concat();
    archive(&[("model/data.pkl", &pickle), ("model/byteorder", b"little"), ("model/data/0", data), ("model/version", b"3\n")])
}

fn loaded(bytes: &[u8]) -> Result<Tensor, ModelError> {
    WeightsFile::open(bytes)?.tensor("w").map(|tensor| tensor.expect("it is listed"))
}

fn floats(count: u8) -> Vec<u8> {
    (0..count).flat_map(|number| f32::from(number).to_le_bytes()).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

#[test]
fn views_are_read_with_offset_and_strides() {
    let values = |bytes: &[u8]| Vec::<f32>::try_from(loaded(bytes).expect("a view").reshape([-1])).expect("floats");
    assert_eq!(values(&checkpoint(&tensor("FloatStorage", 8, 1, &[2, 3], &[3, 1]), &floats(8))), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(values(&checkpoint(&tensor("FloatStorage", 8, 1, &[2, 3], &[1, 2]), &floats(8))), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    assert_eq!(values(&checkpoint(&tensor("FloatStorage", 8, 7, &[], &[]), &floats(8))), [7.0]);
    assert_eq!(values(&checkpoint(&tensor("FloatStorage", 0, 0, &[0, 5], &[5, 1]), b"")), [0.0; 0]);
    // 1.5 and -2 as f16, then as bf16.
    assert_eq!(values(&checkpoint(&tensor("HalfStorage", 2, 0, &[2], &[1]), &[0x00, 0x3e, 0x00, 0xc0])), [1.5, -2.0]);
    assert_eq!(values(&checkpoint(&tensor("BFloat16Storage", 2, 0, &[2], &[1]), &[0xc0, 0x3f, 0x00, 0xc0])), [1.5, -2.0]);
}

#[test]
fn views_that_leave_their_storage_are_refused() {
    for (len, offset, shape, strides) in [
        (8, 3, &[2, 3][..], &[3, 1][..]),
        (8, -1, &[2], &[1]),
        (8, 0, &[-2], &[1]),
        (8, 0, &[2], &[-1]),
        (8, 0, &[2, 3], &[3]),
        (8, i64::MAX, &[2], &[1]),
        (8, 0, &[i64::MAX, i64::MAX], &[i64::MAX, 1]),
        // Many elements from few numbers: an expanded view.
        (8, 0, &[1 << 40, 1 << 20], &[0, 0]),
        (8, 0, &[9], &[0]),
    ] {
        let error = loaded(&checkpoint(&tensor("FloatStorage", len, offset, shape, strides), &floats(8))).expect_err("out of range");
        let text = error.to_string();
        assert!(text.starts_with("tensor w cannot be read: offset ") && text.ends_with(" leave its storage of 8 numbers"), "{text}");
    }
    for len in [9, 1 << 61, i64::MAX] {
        let error = loaded(&checkpoint(&tensor("FloatStorage", len, 0, &[2], &[1]), &floats(8))).expect_err("too long");
        assert!(error.to_string().contains("its storage model/data/0 has 32 bytes, too few for"), "{error}");
    }
}

#[test]
fn numbers_that_no_weights_are_made_of_are_refused() {
    let error = loaded(&checkpoint(&tensor("LongStorage", 1, 0, &[1], &[1]), &[0; 8])).expect_err("not floats");
    assert_eq!(error.to_string(), "tensor w is stored as Long, expected Float, Half or BFloat16");
}

#[test]
fn weights_are_found_in_the_entries_that_checkpoints_use() {
    let weights = [b"}", &text("w")[..], &tensor("FloatStorage", 1, 0, &[1], &[1]), b"s"].concat();
    for name in ["state_dict", "model", "ema"] {
        // Further entries: a number, a nested dict with a tensor, an object.
        let others = [&text("epoch")[..], b"K\x03", &text("optimizer"), &weights, &text("callback"), b"cmodule\nClass\n)R"].concat();
        let pickle = [b"\x80\x02}(", &others[..], &text(name), &weights, b"u."].concat();
        let bytes = archive(&[("archive/data.pkl", &pickle), ("archive/data/0", &floats(1))]);
        assert_eq!(WeightsFile::open(&bytes).expect("a checkpoint").names(), ["w"], "{name}");
        drop(loaded(&bytes).expect("its tensor"));
    }
}

#[test]
fn archives_that_are_no_checkpoints_are_refused() {
    let problem = |entries: &[(&str, &[u8])]| chain(&WeightsFile::open(&archive(entries)).err().expect("no checkpoint"));
    assert!(problem(&[("a/b.txt", b"")]).contains("without data.pkl"));
    assert!(problem(&[("a/data.pkl", b"N."), ("a/constants.pkl", b"")]).contains("TorchScript"));
    assert!(problem(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")]).contains("not little-endian"));
    assert!(problem(&[("a/data.pkl", b"N.")]).contains("state_dict()"));
    assert!(problem(&[("a/data.pkl", b"cmodule\nModel\n)R.")]).contains("state_dict()"));
    assert!(problem(&[("a/data.pkl", b"\xff")]).ends_with("the pickle has unknown instruction 0xff at byte 0"));
    let missing = archive(&[("a/data.pkl", &[b"}", &text("w")[..], &tensor("FloatStorage", 1, 0, &[1], &[1]), b"s."].concat())]);
    assert_eq!(loaded(&missing).expect_err("no entry").to_string(), "cannot read a/data/0 of the PyTorch checkpoint");
}

#[test]
fn entries_that_are_there_are_named_where_no_weights_are() {
    let weights = |names: &[&str]| {
        let entry = |name: &&str| [&text(name)[..], &tensor("FloatStorage", 1, 0, &[1], &[1]), b"s"].concat();
        [b"}".to_vec(), names.iter().flat_map(entry).collect()].concat()
    };
    let saved = |entries: &[u8]| archive(&[("a/data.pkl", &[b"\x80\x02}(", entries, b"u."].concat()), ("a/data/0", &floats(1))]);
    let problem = |bytes: &[u8]| chain(&WeightsFile::open(bytes).err().expect("no weights"));
    let gan = [text("generator"), weights(&["a", "b"]), text("discriminator"), weights(&["c"]), text("step"), b"K\x05".to_vec()].concat();
    let told = problem(&saved(&gan));
    let wanted =
        "its dict has entries, but no tensors: discriminator (a dict of 1 tensors), generator (a dict of 2 tensors), step; save the entry";
    assert!(told.contains(wanted), "{told}");
    let inner = [text("state_dict"), b"}".to_vec(), text("net"), weights(&["a"]), b"s".to_vec()].concat();
    assert!(problem(&saved(&inner)).contains("but no tensors: net (a dict of 1 tensors); save"), "{}", problem(&saved(&inner)));
    assert!(problem(&archive(&[("a/data.pkl", b"}.")])).contains("its dict is empty"));
    // A dict with its own tensor is read as weights, and its other entries are still reported.
    let mixed = [&gan, &text("scale")[..], &tensor("FloatStorage", 1, 0, &[1], &[1])].concat();
    let bytes = saved(&mixed);
    let file = WeightsFile::open(&bytes).expect("one tensor");
    assert_eq!((file.names(), file.beside().len()), (vec!["scale".to_owned()], 2));
}

#[test]
fn other_archives_name_what_they_hold() {
    let files: Vec<(String, &[u8])> = (0..7).map(|number| (format!("arr_{number}.npy"), &b""[..])).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let told = chain(&WeightsFile::open(&archive(&files)).err().expect("no checkpoint"));
    let wanted = "without data.pkl, which holds arr_0.npy, arr_1.npy, arr_2.npy, arr_3.npy, arr_4.npy and 2 more; unpack it";
    assert!(told.contains(wanted), "{told}");
    assert!(chain(&WeightsFile::open(&archive(&[])).err().expect("no checkpoint")).contains("of no known kind"), "an empty archive");
    let checkpoint = checkpoint(&tensor("FloatStorage", 8, 0, &[8], &[1]), &floats(8));
    let told = chain(&crate::weights::check_module(&checkpoint).expect_err("no module"));
    assert!(told.contains("it holds tensors and no TorchScript module"), "{told}");
    crate::weights::check_module(&archive(&[("m/data.pkl", b"}."), ("m/constants.pkl", b"")])).expect("a module");
    assert!(chain(&crate::weights::check_module(&archive(&files)).expect_err("no module")).contains("arr_0.npy"));
    assert!(chain(&crate::weights::check_module(&checkpoint[..90]).expect_err("broken off")).contains("was the file fetched as a whole?"));
}

#[test]
fn damaged_numbers_are_noticed() {
    let mut bytes = checkpoint(&tensor("FloatStorage", 8, 0, &[8], &[1]), &floats(8));
    let place = bytes.windows(32).position(|window| window == floats(8)).expect("stored as they are");
    bytes[place + 5] ^= 1;
    assert!(chain(&loaded(&bytes).expect_err("damaged")).contains("data/0"));
}

#[test]
fn old_formats_say_how_to_convert_them() {
    let legacy = [b"\x80\x02\x8a\x0a", &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19][..], b".\x80\x02M\xe9\x03."].concat();
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    tar[..6].copy_from_slice(b"pickle");
    for (bytes, format) in [(legacy, "pickle"), (tar, "tar")] {
        let error = WeightsFile::open(&bytes).err().expect("an old format").to_string();
        assert!(error.contains(&format!("old {format} format")) && error.contains("torch.save(torch.load("), "{error}");
    }
}

#[test]
fn truncated_archives_are_errors() {
    let bytes = checkpoint(&tensor("FloatStorage", 8, 0, &[8], &[1]), &floats(8));
    drop(loaded(&bytes).expect("whole"));
    for length in 0..bytes.len() {
        assert!(loaded(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = checkpoint(&tensor("FloatStorage", 8, 1, &[2, 3], &[3, 1]), &floats(8));
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(mut file) = WeightsFile::open(&bytes) {
            for name in file.names() {
                let _ = file.tensor(&name);
            }
        }
    }
}
