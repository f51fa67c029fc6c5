#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riklet_daemon::fuzz::dns(data));
