//! Pickles of tensors, of everything else, and broken ones.

use proptest::prelude::*;

use super::*;

/// Builds a pickle of protocol 2: the version, `parts`, the end.
fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [&[0x80, 2][..], &parts.concat(), b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn storage(class: &str, key: &str, len: u8) -> Vec<u8> {
    [b"(", &text("storage")[..], format!("ctorch\n{class}\n").as_bytes(), &text(key), &text("cpu"), &[b'K', len], b"tQ"].concat()
}

/// Builds `_rebuild_tensor_v2(storage, 1, (2, 3), (3, 1), False, OrderedDict())`.
fn tensor(storage: &[u8]) -> Vec<u8> {
    let hooks = b"\x89ccollections\nOrderedDict\n)RtR";
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, b"K\x01K\x02K\x03\x86K\x03K\x01\x86", &hooks[..]].concat()
}

/// Offset, shape, strides, length of the storage and its key.
type Tensor<'a> = (i64, &'a [i64], &'a [i64], u64, &'a str);

fn tensor_of<'a>(values: &'a Values, id: Id, name: &str) -> Option<Tensor<'a>> {
    let id = values.dict(id)?.find(|(key, _)| *key == name)?.1;
    let (view, storage, key) = values.tensor(id)?;
    Some((view.offset, &view.shape, &view.strides, storage.len, key))
}

#[test]
fn tensors_of_a_dict_are_read_however_they_are_wrapped() {
    let plain = tensor(&storage("FloatStorage", "0", 9));
    let parameter = [b"ctorch._utils\n_rebuild_parameter\n(", &plain[..], b"\x88NtR"].concat();
    let entries = [text("a"), plain, text("b"), parameter].concat();
    for bytes in [
        pickle(&[b"}(", &entries, b"u"]),
        pickle(&[b"ccollections\nOrderedDict\n)Rq\x00(", &entries, b"u}X\x09\x00\x00\x00_metadataNsb"]),
        pickle(&[b"(", &entries, b"d"]),
    ] {
        let (values, root) = read(&bytes).expect("a dict of tensors");
        for name in ["a", "b"] {
            assert_eq!(tensor_of(&values, root, name), Some((1, &[2, 3][..], &[3, 1][..], 9, "0")));
        }
    }
}

#[test]
fn values_are_shared_by_what_refers_to_them() {
    // The dict is put into the memo and into itself, and filled afterwards.
    let bytes = pickle(&[b"}q\x05", &text("self"), b"h\x05s", &text("a"), &tensor(&storage("HalfStorage", "k", 7)), b"s"]);
    let (values, root) = read(&bytes).expect("a dict that holds itself");
    let inner = values.dict(root).expect("a dict").find(|(key, _)| *key == "self").expect("itself").1;
    assert_eq!(inner, root);
    assert!(tensor_of(&values, inner, "a").is_some());
}

#[test]
fn what_python_would_run_is_inert() {
    let marker = std::env::temp_dir().join("cm3flow-pickle-ran-code");
    let command = text(&format!("touch {}", marker.display()));
    for call in [
        [b"cos\nsystem\n", &command[..], b"\x85R"].concat(),
        [b"cbuiltins\neval\n", &command[..], b"\x85R"].concat(),
        [&text("posix")[..], &text("system"), b"\x93", &command, b"\x85R"].concat(),
        [b"(ios\nsystem\n"[..].to_vec(), command.clone()].concat(),
        [b"(cos\nsystem\n", &command[..], b"o"].concat(),
        [b"csubprocess\nPopen\n", &command[..], b"\x85\x81}b"].concat(),
        b"ctorch\nload\n(tR".to_vec(),
        b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec(),
        b"P1\n".to_vec(),
        b"\x82\x01".to_vec(),
    ] {
        let bytes = pickle(&[b"}(", &text("evil"), &call, &text("a"), &tensor(&storage("FloatStorage", "0", 9)), b"u"]);
        // An instance of protocol 0 takes its arguments from the stack, so its dict is another one.
        let Ok((values, root)) = read(&bytes) else { continue };
        assert!(tensor_of(&values, root, "evil").is_none());
        if call.starts_with(b"(i") {
            continue;
        }
        assert!(tensor_of(&values, root, "a").is_some(), "{}", String::from_utf8_lossy(&call));
    }
    assert!(!marker.exists());
}

#[test]
fn tensors_of_unknown_storages_or_shapes_are_no_tensors() {
    let deep =
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage("FloatStorage", "0", 9)[..], b"K\x00(", &b"K\x01".repeat(9), b"t(t\x89NtR"]
            .concat();
    let untyped = tensor(&storage("UntypedStorage", "0", 9));
    let unstored = tensor(b"N");
    let negative =
        tensor(&[b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"J\xff\xff\xff\xfftQ"].concat());
    for broken in [deep, untyped, unstored, negative] {
        let (values, root) = read(&pickle(&[b"}", &text("a"), &broken, b"s"])).expect("a dict");
        assert_eq!(tensor_of(&values, root, "a"), None);
    }
}

#[test]
fn numbers_of_every_encoding_are_read() {
    for (bytes, expected) in [
        (&b"K\xff"[..], Some(255)),
        (b"M\x00\x01", Some(256)),
        (b"J\xfe\xff\xff\xff", Some(-2)),
        (b"\x8a\x02\x00\x80", Some(-32768)),
        (b"\x8a\x00", Some(0)),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01", None),
        (b"I17\n", Some(17)),
        (b"L-5L\n", Some(-5)),
    ] {
        let (values, root) = read(&pickle(&[b"}", &text("a"), bytes, b"s"])).expect("a number");
        let id = values.dict(root).expect("a dict").next().expect("an entry").1;
        assert_eq!(values.int(id), expected, "{bytes:?}");
    }
}

#[test]
fn broken_pickles_are_refused_with_the_place() {
    for (bytes, expected) in [
        (&b""[..], PickleError::Truncated { position: 0 }),
        (b"\x80\x02", PickleError::Truncated { position: 2 }),
        (b".", PickleError::Missing { what: "a value", position: 1 }),
        (b"X\xff\xff\xff\x7fabc", PickleError::Truncated { position: 8 }),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc", PickleError::Truncated { position: 12 }),
        (b"\x8b\xff\xff\xff\xff", PickleError::Truncated { position: 5 }),
        (b"N\xff.", PickleError::Instruction { code: 0xff, position: 1 }),
        (b"Nt.", PickleError::Missing { what: "a mark", position: 2 }),
        (b"N(s.", PickleError::Missing { what: "a value", position: 3 }),
        (b"h\x07.", PickleError::Missing { what: "what it remembered", position: 2 }),
        (b"Npx\n.", PickleError::Malformed { what: "number of the memo", position: 2 }),
        (b"c\xff\n\n.", PickleError::Malformed { what: "name of a module", position: 1 }),
        (b"cos", PickleError::Truncated { position: 3 }),
    ] {
        assert_eq!(read(bytes).expect_err("broken"), expected, "{bytes:?}");
    }
}

#[test]
fn depth_and_number_are_bounded() {
    // A million nested tuples, and marks that are never closed.
    let deep = [&b"N"[..], &b"\x85".repeat(1_000_000), b"."].concat();
    assert!(read(&deep).is_ok());
    assert!(matches!(read(&b"(".repeat(1_000_000)), Err(PickleError::Truncated { .. })));
    let many = b"N0".repeat(8_000_001);
    assert_eq!(read(&many).expect_err("too many"), PickleError::TooLarge { limit: 8_000_000 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let entries = [text("a"), tensor(&storage("FloatStorage", "0", 9)), text("b"), b"ccollections\nOrderedDict\n)R".to_vec()].concat();
        let mut bytes = pickle(&[b"}q\x00(", &entries, b"uh\x00b"]);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 8);
        if let Ok((values, root)) = read(&bytes) {
            tensor_of(&values, root, "a");
        }
    }
}
