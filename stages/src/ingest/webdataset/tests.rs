//! Samples of tars: archives of other tools, damaged ones, and parts read from the middle.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::{ControlFlow, Range};

use proptest::prelude::*;

use super::index::{HardLink, walk_whole};
use super::samples::{Content, Reading, TarSample, walk};

/// Appends a member of a kind, with a GNU header.
fn append(builder: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_cksum();
    builder.append(&header, bytes).expect("in memory");
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn walked_with(bytes: &[u8], base: u64, max_bytes: u64, links: &[HardLink], whole: &[u8]) -> Vec<TarSample> {
    let mut samples = Vec::new();
    let push = |sample| {
        samples.push(sample);
        ControlFlow::Continue(())
    };
    let link = |header| links.iter().find(|link| link.header == header).map(|link| link.start..link.end);
    let fetch = |range: Range<u64>| Ok(whole[range.start as usize..range.end as usize].to_vec());
    walk(bytes, base, &mut Reading { is_wanted: |_| true, max_bytes, link, fetch }, push).expect("in memory");
    samples
}

fn walked(bytes: &[u8], base: u64) -> Vec<TarSample> {
    walked_with(bytes, base, u64::MAX, &[], bytes)
}

/// Returns keys with problems, or with the extensions of the members.
fn summary(samples: &[TarSample]) -> Vec<(String, String)> {
    let members = |sample: &TarSample| sample.members.iter().map(|member| member.extension.clone()).collect::<Vec<_>>().join(" ");
    samples.iter().map(|sample| (sample.key.clone(), sample.damage.clone().unwrap_or_else(|| members(sample)))).collect()
}

fn keys(samples: &[TarSample]) -> Vec<&str> {
    samples.iter().map(|sample| sample.key.as_str()).collect()
}

#[test]
fn members_are_grouped_by_key_and_strays_counted() {
    let bytes = tar(&[("README", b"0"), ("a/x.jpg", b"12"), ("a/x.edit0.JPG", b"3"), ("a/.hidden", b"4"), ("a/y.json", b"{}")]);
    let samples = walked(&bytes, 0);
    let keys: Vec<_> = samples.iter().map(|sample| (sample.key.as_str(), sample.members.len())).collect();
    assert_eq!(keys, [("a/x", 2), ("a/y", 1)]);
    let second = &samples[0].members[1];
    assert_eq!((second.extension.as_str(), &second.content), ("edit0.jpg", &Content::Bytes(b"3".to_vec())));
    assert_eq!((samples[0].start, samples[0].strays.as_slice()), (0, &["none".to_owned(), "hidden".to_owned()][..]));
}

#[test]
fn samples_read_from_their_offset_are_those_of_the_whole_tar() {
    let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
    let (first, second) = (format!("{long}1.jpg"), format!("{long}2.jpg"));
    let bytes = tar(&[(&first, &[1; 700]), ("b.jpg", b"2"), (&second, b"3"), ("c.jpg", b""), ("c.txt", b"text"), ("d.jpg", b"4")]);
    let whole = walked(&bytes, 0);
    assert_eq!(whole.len(), 5);
    for (index, sample) in whole.iter().enumerate() {
        assert_eq!(walked(&bytes[sample.start as usize..], sample.start), whole[index..], "from {}", sample.key);
        let end = whole.get(index + 1).map_or(bytes.len(), |next| next.start as usize);
        assert_eq!(walked(&bytes[sample.start as usize..end], sample.start), std::slice::from_ref(sample), "{} alone", sample.key);
    }
}

#[test]
fn reading_goes_on_behind_the_end_of_an_archive() {
    let (first, second) = (tar(&[("a.jpg", b"1"), ("b.jpg", b"2")]), tar(&[("c.jpg", b"3"), ("d.txt", b"4")]));
    let samples = walked(&[first, second].concat(), 0);
    assert_eq!(keys(&samples), ["a", "b", "c", "d"]);
    assert!(samples.iter().all(|sample| sample.damage.is_none()));
}

#[test]
fn a_key_that_comes_back_is_known_with_both_offsets() {
    let bytes = tar(&[("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"3"), ("b.txt", b"4"), ("c.jpg", b"5"), ("a.json", b"{}")]);
    let found = walk_whole(&bytes[..]).expect("in memory");
    assert_eq!(found.starts, [0, 1024, 2048, 3072, 4096, 5120]);
    assert_eq!(found.repeated, BTreeMap::from([(0, 2048), (1, 3072), (2, 0), (3, 1024), (5, 0)]));
}

#[test]
fn one_name_twice_in_a_sample_is_noticed() {
    let samples = walked(&tar(&[("a.jpg", b"1"), ("a.txt", b"2"), ("a.jpg", b"3")]), 0);
    let (first, second) = samples[0].repeated_member().expect("a.jpg stands there twice");
    assert_eq!((first.header, second.header), (0, 2048));
    assert!(walked(&tar(&[("a.jpg", b"1"), ("a.JPG", b"2")]), 0)[0].repeated_member().is_none(), "these are two names");
}

#[test]
fn names_that_are_no_utf_8_stay_apart() {
    let mut builder = tar::Builder::new(Vec::new());
    for name in [&b"caf\xe9.jpg"[..], b"caf\xe8.jpg", b"caf\xe8.txt", b"50%\xff.jpg", "café.jpg".as_bytes()] {
        append(&mut builder, name, tar::EntryType::Regular, b"1");
    }
    let samples = walked(&builder.into_inner().expect("in memory"), 0);
    assert_eq!(keys(&samples), ["caf%E9", "caf%E8", "50%25%FF", "café"]);
    assert_eq!(samples[1].members.len(), 2);
}

/// Appends a link with its target.
fn append_link(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    builder.append_link(&mut header, name, target).expect("in memory");
}

#[test]
fn hard_links_have_the_bytes_of_what_stands_before_them() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, b"blob", tar::EntryType::Regular, b"a blob without extension");
    append(&mut builder, b"a.jpg", tar::EntryType::Regular, b"picture");
    for (name, target) in [("b.jpg", "a.jpg"), ("c.jpg", "b.jpg"), ("d.jpg", "blob"), ("e.jpg", "later.jpg")] {
        append_link(&mut builder, name, tar::EntryType::Link, target);
    }
    append_link(&mut builder, "f.jpg", tar::EntryType::Symlink, "a.jpg");
    append(&mut builder, b"later.jpg", tar::EntryType::Regular, b"too late");
    append(&mut builder, b"pipe.jpg", tar::EntryType::Fifo, b"");
    append(&mut builder, b"disk.jpg", tar::EntryType::Block, b"");
    append(&mut builder, b"holes.jpg", tar::EntryType::GNUSparse, b"12");
    let bytes = builder.into_inner().expect("in memory");
    let found = walk_whole(&bytes[..]).expect("in memory");
    let samples = walked_with(&bytes, 0, u64::MAX, &found.links, &bytes);
    let contents: BTreeMap<&str, &Content> = samples.iter().map(|sample| (sample.key.as_str(), &sample.members[0].content)).collect();
    for (key, expected) in [("a", &b"picture"[..]), ("b", b"picture"), ("c", b"picture"), ("d", b"a blob without extension")] {
        assert_eq!(contents[key], &Content::Bytes(expected.to_vec()), "{key}");
    }
    assert_eq!(contents["e"], &Content::Link("later.jpg".into()));
    assert_eq!(contents["f"], &Content::Link("a.jpg".into()));
    assert_eq!(contents["later"], &Content::Bytes(b"too late".to_vec()));
    let kinds = ["pipe", "disk", "holes"].map(|key| contents[key].clone());
    assert_eq!(kinds, [Content::Other("a named pipe"), Content::Other("a device"), Content::Other("a sparse file")]);
    let last = samples.iter().find(|sample| sample.key == "b").expect("it is there");
    let part = &bytes[last.start as usize..last.start as usize + 512];
    assert_eq!(walked_with(part, last.start, u64::MAX, &found.links, &bytes), std::slice::from_ref(last), "a part knows what lies outside");
}

#[test]
fn behind_a_bad_header_reading_goes_on() {
    let mut bytes = tar(&[("a.jpg", b"1"), ("b.jpg", &[7; 2000]), ("c.jpg", b"3"), ("d.jpg", b"4")]);
    bytes[1024] ^= 0xff;
    let samples = walked(&bytes, 0);
    assert_eq!(keys(&samples), ["a", "(byte 1024)", "c", "d"]);
    assert_eq!(samples[1].damage.as_deref(), Some("no header stands at byte 1024"));
    let alone = &bytes[samples[1].start as usize..samples[2].start as usize];
    assert_eq!(walked(alone, samples[1].start), &samples[1..2], "damage is the same from wherever it is read");
}

#[test]
fn a_tar_cut_within_a_member_names_its_sample() {
    let bytes = tar(&[("x.jpg", &[1; 600]), ("y.jpg", &[2; 600])]);
    let samples = walked(&bytes[..512 + 1024 + 512 + 100], 0);
    assert_eq!(samples.iter().map(|sample| sample.damage.is_some()).collect::<Vec<_>>(), [false, true]);
    let alone = walked(&bytes[samples[1].start as usize..512 + 1024 + 512 + 100], samples[1].start);
    assert_eq!(alone, samples[1..], "damage is the same from whatever offset it is read");
}

#[test]
fn a_tar_cut_where_no_sample_stands_says_so() {
    let bytes = tar(&[("x.jpg", b"1"), ("README", &[2; 600])]);
    assert_eq!(summary(&walked(&bytes[..1024 + 512 + 100], 0))[1].1, "the tar ends at byte 1636, within README");
    assert_eq!(summary(&walked(&bytes[..1024 + 100], 0))[1].1, "the tar ends at byte 1124, within a header");
    assert_eq!(summary(&walked(&tar(&[("README", b"text")]), 0)), [("(no sample)".to_owned(), String::new())]);
    assert!(walked(&tar(&[]), 0).is_empty());
}

#[test]
fn what_is_no_tar_is_one_refused_sample_that_says_what_it_is() {
    let mut gzip = vec![0x1f, 0x8b, 8, 0];
    gzip.extend(tar(&[("inside.jpg", b"1")]).into_iter().skip(4));
    for (bytes, says) in [
        (vec![7_u8; 2048], "no header stands at byte 0"),
        (gzip, "this is no tar: it is compressed by gzip; decompress it first (gunzip)"),
        ([b"<!DOCTYPE html>".to_vec(), vec![b' '; 600]].concat(), "this is no tar: it is something else under the name of a tar"),
        (b"not even a block".to_vec(), "the tar ends at byte 16, within a header"),
    ] {
        let samples = walked(&bytes, 0);
        assert_eq!(samples.len(), 1, "{says}");
        assert!(samples[0].damage.as_ref().is_some_and(|damage| damage.starts_with(says)), "{:?}", samples[0].damage);
    }
}

#[test]
fn members_beyond_the_limit_are_passed_over_unread() {
    let bytes = tar(&[("x.jpg", &[1; 600]), ("x.txt", b"text"), ("y.jpg", &[2; 500])]);
    let samples = walked_with(&bytes, 0, 500, &[], &bytes);
    assert_eq!(samples[0].members[0].content, Content::TooLarge(600));
    assert_eq!(samples[1].members[0].content, Content::Bytes(vec![2; 500]));
}

#[test]
fn a_header_of_a_long_name_beyond_the_limit_refuses_one_row() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, b"././@LongLink", tar::EntryType::GNULongName, &vec![b'x'; (1 << 20) + 1]);
    append(&mut builder, b"short.jpg", tar::EntryType::Regular, b"1");
    append(&mut builder, b"y.jpg", tar::EntryType::Regular, b"2");
    let samples = walked(&builder.into_inner().expect("in memory"), 0);
    assert_eq!(keys(&samples), ["(byte 0)", "y"]);
    assert!(samples[0].damage.as_ref().is_some_and(|damage| damage.contains("1048577 bytes")), "{:?}", samples[0].damage);
}

#[test]
fn names_and_sizes_of_pax_headers_count() {
    let mut builder = tar::Builder::new(Vec::new());
    let path = format!("{}.jpg", "é".repeat(200));
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).expect("some length fits");
        format!("{length}{rest}")
    };
    let records = record("path", &path) + &record("size", "3") + &record("mtime", "1.5");
    append(&mut builder, b"PaxHeaders/x", tar::EntryType::XHeader, records.as_bytes());
    append(&mut builder, b"x.jpg", tar::EntryType::Regular, b"abc");
    append(&mut builder, b"pax_global_header", tar::EntryType::XGlobalHeader, record("comment", "of git").as_bytes());
    append(&mut builder, b"PaxHeaders/y", tar::EntryType::XHeader, record("GNU.sparse.major", "1").as_bytes());
    append(&mut builder, b"y.jpg", tar::EntryType::Regular, b"123");
    let samples = walked(&builder.into_inner().expect("in memory"), 0);
    assert_eq!(keys(&samples), [path.trim_end_matches(".jpg"), "y"]);
    assert_eq!(samples[0].members[0].content, Content::Bytes(b"abc".to_vec()));
    assert_eq!(samples[1].members[0].content, Content::Other("a sparse file"));
}

#[test]
fn an_error_of_the_file_is_no_damage_of_the_tar() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the network is gone"))
        }
    }
    let bytes = tar(&[("x.jpg", &[1; 600])]);
    let mut reading = Reading { is_wanted: |_| true, max_bytes: 1000, link: |_| None, fetch: |_| Ok(Vec::new()) };
    let error = walk((&bytes[..700]).chain(Failing), 0, &mut reading, |_| ControlFlow::Continue(())).expect_err("it fails");
    assert_eq!(error.to_string(), "the network is gone");
}

proptest! {
    /// For any bytes, every part reads as the whole does, and nothing panics.
    #[test]
    fn parts_of_damaged_tars_read_as_the_whole(
        sizes in proptest::collection::vec(0_usize..1500, 1..8),
        flips in proptest::collection::vec((0_usize..12_000, any::<u8>()), 0..6),
        cut in 0_usize..14_000,
    ) {
        let names: Vec<String> = (0..sizes.len()).map(|index| format!("{}.{}", index / 2, if index % 2 == 0 { "jpg" } else { "txt" })).collect();
        let contents: Vec<Vec<u8>> = sizes.iter().map(|size| vec![1; *size]).collect();
        let members: Vec<(&str, &[u8])> = names.iter().zip(&contents).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let mut bytes = tar(&members);
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        let whole = walked(&bytes, 0);
        let found = walk_whole(&bytes[..]).expect("in memory");
        prop_assert_eq!(&found.starts, &whole.iter().map(|sample| sample.start).collect::<Vec<_>>());
        for (index, sample) in whole.iter().enumerate() {
            let end = whole.get(index + 1).map_or(bytes.len(), |next| next.start as usize);
            prop_assert_eq!(&walked(&bytes[sample.start as usize..end], sample.start), std::slice::from_ref(sample));
        }
    }
}
