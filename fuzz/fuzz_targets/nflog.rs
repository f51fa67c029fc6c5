#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riklet_kernel::fuzz::nflog(data));
