#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| riklet_http::fuzz::server_sent_events(data));
