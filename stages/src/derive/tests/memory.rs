//! Memory: the estimate from a header is at least what decoding and fitting allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use super::super::memory::Needs;
use super::*;

/// The system's allocator with counters of the bytes that each thread holds and of their peak.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: every call goes to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller guarantees the conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller guarantees the conditions.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller guarantees the conditions.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Returns the peak of the bytes that `work` holds, beside those held before.
fn most<Out>(work: impl FnOnce() -> Out) -> (Out, u64) {
    HELD.set(0);
    MOST.set(0);
    let out = work();
    (out, MOST.get() as u64)
}

/// Checks one file. Small files have no upper bound, since buffers of a fixed size dominate.
fn check(name: &str, bytes: &[u8]) {
    let Some(needs) = Needs::of(bytes) else { panic!("{name} has a header") };
    let said = needs.decoding_bytes(needs.stored.orientation());
    let (decoded, taken) = most(|| decode(bytes));
    let Ok(picture) = decoded else { panic!("{name} is whole") };
    assert_eq!(Size::from(picture.dimensions()), needs.stored.upright(), "{name}");
    assert!(taken <= said, "{name} took {taken} bytes, its header says {}", said);
    assert!(said <= 3 * taken + (1 << 20), "{name} took {taken} bytes, its header says {}", said);
    assert!(picture.as_raw().capacity() as u64 <= needs.picture_bytes, "{name}");
}

/// Returns pictures of many kinds of pixels, large enough that the pixels dominate.
fn large() -> Vec<DynamicImage> {
    let rgb = DynamicImage::ImageRgb8(RgbImage::from_fn(900, 700, |x, y| Rgb([x as u8, y as u8, (x / 64 * y / 64) as u8])));
    let with_alpha = DynamicImage::ImageRgba8(rgb.to_rgba8());
    vec![
        DynamicImage::ImageLuma8(rgb.to_luma8()),
        DynamicImage::ImageLumaA8(rgb.to_luma_alpha8()),
        DynamicImage::ImageLuma16(rgb.to_luma16()),
        DynamicImage::ImageLumaA16(rgb.to_luma_alpha16()),
        DynamicImage::ImageRgb16(rgb.to_rgb16()),
        DynamicImage::ImageRgba16(rgb.to_rgba16()),
        DynamicImage::ImageRgb32F(rgb.to_rgb32f()),
        DynamicImage::ImageRgba32F(rgb.to_rgba32f()),
        with_alpha,
        rgb,
    ]
}

#[test]
fn headers_tell_what_pictures_take() {
    let mut checked = 0;
    for picture in large() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
            let mut file = std::io::Cursor::new(Vec::new());
            // Some formats lack some kinds of pixels.
            if picture.write_to(&mut file, format).is_ok() {
                check(&format!("{format:?} of {:?}", picture.color()), &file.into_inner());
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked} kinds");
    let rgb = jpeg(&large().pop().unwrap().into_rgb8());
    for orientation in 1..=8 {
        check(&format!("orientation {orientation}"), &with_orientation(&rgb, orientation));
    }
    for folder in ["large", "pictures"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            let bytes = std::fs::read(&path).unwrap();
            if decode(&bytes).is_ok() {
                check(&path.display().to_string(), &bytes);
            }
        }
    }
}

#[test]
fn a_fit_tells_what_it_takes() {
    for (width, height) in [(900, 700), (700, 900), (2000, 500), (500, 2000), (40, 30), (7, 5), (SIDE, SIDE)] {
        let picture = picture(1, width, height);
        for side in [SIDE, 256] {
            let preparation = Preparation { side_px: side, ..preparation() };
            let fit = Fit::of(width, height, &preparation, SEED, &ImageId::of(b""));
            let (fitted, taken) = most(|| fit.apply(&picture));
            assert_eq!(fitted.width(), side);
            assert!(taken <= fit.working_bytes(), "{width} x {height} to {side} took {taken} bytes, not {}", fit.working_bytes());
            let levels = GrayImage::new(width, height);
            let (_, taken) = most(|| fit.apply_to_levels(&levels));
            let said = fit.levels_working_bytes();
            assert!(taken <= said, "levels of {width} x {height} to {side} took {taken} bytes, not {said}");
        }
    }
}

#[test]
fn derive_waits_for_room_and_gives_it_back() {
    let budget = ByteBudget::new(1 << 20);
    let samples: Vec<Raw> = (0..6).map(|n| Raw::new("photo", png(&picture(n, 200, 200)), &["a photo"])).collect();
    let filtered = run_whole(Map(Filter::new(filter_config())), &raw_batch(&samples));
    let room = budget.room_for_picture(2 << 20);
    let derive = Derive::new(DeriveConfig::default(), preparation(), SEED).with_budget(budget.clone());
    let worked = std::thread::spawn(move || run_whole(Map(derive), &filtered));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!worked.is_finished(), "a picture larger than the budget is worked on");
    drop(room);
    let out = worked.join().unwrap();
    assert_eq!((out.num_rows(), budget.held()), (6, 0));
}
