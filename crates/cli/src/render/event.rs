use riklet_api::Event;

/// Returns the time, the kind, the function and the text of an event; further lines of the text are indented.
pub(crate) fn event(event: &Event) -> String {
    let name = event.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
    let text = event.text.replace('\n', "\n    ");
    format!("{} {:11}{name} {text}\n", time(event.at_ms), event.kind)
}

/// Returns a time in the format of RFC 3339, in UTC.
fn time(at_ms: u64) -> String {
    let (seconds, millis) = (at_ms / 1000, at_ms % 1000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Returns the date in the Gregorian calendar, so many days after 1970-01-01. Counting years from March puts the leap
/// day at the end of the year.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, month, day) = (era * 400 + year, month + 3, day - (153 * month + 2) / 5 + 1);
    if month > 12 { (year + 1, month - 12, day) } else { (year, month, day) }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_rendered_as_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_795_594_161_847), "2026-11-25T08:09:21.847Z");
        assert_eq!(time(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
