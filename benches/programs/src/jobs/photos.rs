//! Photographs, made small and written anew.

use std::io::Cursor;

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, RgbImage};

use super::{Job, part};
use crate::random::Random;
use crate::sum::Sum;

pub(super) const JOB: Job = Job {
    name: "images",
    what: "image: eight JPEGs of 1600 × 1200 decoded, turned, made small in three sizes, written as PNG and JPEG",
    prepare,
    run,
};

/// JPEGs one after another, each behind its length.
fn prepare(percent: usize) -> Vec<u8> {
    let mut random = Random::new(7);
    let mut all = Vec::new();
    for _ in 0..part(8, percent) {
        let mut bytes = Cursor::new(Vec::new());
        photograph(&mut random).write_to(&mut bytes, ImageFormat::Jpeg).expect("an image");
        let bytes = bytes.into_inner();
        all.extend((bytes.len() as u64).to_le_bytes());
        all.extend(bytes);
    }
    all
}

/// Slopes, discs and noise, so that it compresses about as a photograph does.
fn photograph(random: &mut Random) -> RgbImage {
    let discs: Vec<[i64; 4]> = (0..40)
        .map(|_| [random.below(1600), random.below(1200), random.between(20, 200), random.below(256)].map(|n| n as i64))
        .collect();
    RgbImage::from_fn(1600, 1200, |x, y| {
        let (x, y) = (i64::from(x), i64::from(y));
        let noise = random.below(12) as i64;
        let disc = discs.iter().find(|[left, top, radius, _]| (x - left).pow(2) + (y - top).pow(2) < radius * radius);
        let base = disc.map_or([x * 255 / 1600, y * 255 / 1200, (x + y) * 255 / 2800], |&[.., shade]| {
            [shade, 255 - shade, x * 255 / 1600]
        });
        image::Rgb(base.map(|value| (value + noise).clamp(0, 255) as u8))
    })
}

fn run(input: Vec<u8>) -> u64 {
    let mut sum = Sum::new();
    let mut rest = input.as_slice();
    while let Some((length, behind)) = rest.split_first_chunk::<8>() {
        let (bytes, behind) = behind.split_at(u64::from_le_bytes(*length) as usize);
        rest = behind;
        let photograph = image::load_from_memory_with_format(bytes, ImageFormat::Jpeg).expect("a JPEG");
        let turned = photograph.rotate90();
        for (width, filter) in [(800, FilterType::Triangle), (320, FilterType::Triangle), (64, FilterType::Nearest)] {
            let small = turned.resize(width, width, filter);
            sum.number(written(&small, ImageFormat::Png) ^ written(&small, ImageFormat::Jpeg));
        }
        let grey = DynamicImage::ImageLuma8(photograph.to_luma8()).blur(1.5);
        sum.bytes(&grey.as_bytes()[..4096]);
    }
    sum.value()
}

fn written(image: &DynamicImage, format: ImageFormat) -> u64 {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an image");
    crate::sum::of(bytes.get_ref())
}
