#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guitong_tests::fuzz::binary(bytes));
