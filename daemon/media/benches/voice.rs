//! What it costs to know whether the caller speaks. One iteration is one frame of 20 ms.
//!
//! `cargo bench -p sauti-media --bench voice`

use divan::{Bencher, black_box};
use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::level::Tone;
use sauti_media::voice::VoiceDetector;

fn main() {
    divan::main();
}

/// Something that is neither silent nor one tone: the detector's work does not depend on what it hears.
fn sound() -> [i16; FRAME_SAMPLES] {
    let (low, high) = (Tone::new(180.0, 0.2).frame(), Tone::new(1_900.0, 0.1).frame());
    std::array::from_fn(|at| low[at] + high[at])
}

#[divan::bench(sample_size = 50)]
fn a_frame_of_the_caller(bencher: Bencher<'_, '_>) {
    let (mut detector, frame) = (VoiceDetector::default(), sound());
    bencher.bench_local(|| detector.hear(black_box(&frame)));
}

#[divan::bench(sample_size = 50)]
fn a_silent_frame(bencher: Bencher<'_, '_>) {
    let mut detector = VoiceDetector::default();
    bencher.bench_local(|| detector.hear(black_box(&[0; FRAME_SAMPLES])));
}
