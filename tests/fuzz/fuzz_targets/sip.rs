#![no_main]

#[path = "../targets/mod.rs"]
#[expect(dead_code, unused_imports, reason = "one binary drives one of the targets")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::sip(data));
