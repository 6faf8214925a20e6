//! The fuzz target for the headers of trusted proxies.

#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::forwarded(data));
