#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pacegate_fuzz::answer::run(input));
