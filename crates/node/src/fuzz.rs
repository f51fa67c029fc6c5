//! Functions that fuzzing calls. Each takes foreign bytes.

use crate::Config;

/// Reads a configuration file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _words = Config::parse("config.toml", text).map_err(|refused| refused.to_string());
    }
}

#[cfg(test)]
mod tests {
    use riklet_testkit::fuzz::replay;

    #[test]
    fn configuration_files() {
        replay("config", super::config);
    }
}
