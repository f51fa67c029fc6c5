use riklet_api::{InstanceDocument, ListEntry};
use riklet_sdn::store::Phase;

/// Returns the rows with columns aligned, two spaces apart.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Returns a table of instances: name, addresses, the `extra` columns, and one line for each exposure.
pub(crate) fn instances<'a>(
    extra: &[&str],
    rows: impl IntoIterator<Item = (&'a InstanceDocument, Vec<String>)>,
) -> String {
    let mut header = vec!["NAME", "INTERFACE", "GUEST", "HOST ADDRESS"];
    header.extend(extra);
    header.push("EXPOSURES");
    let mut lines = Vec::new();
    for (instance, cells) in rows {
        let mut first = vec![
            instance.name.clone(),
            instance.interface.clone(),
            instance.guest.address.to_string(),
            instance.host.address.to_string(),
        ];
        first.extend(cells);
        let blank = vec![String::new(); first.len()];
        let exposures = &instance.exposures;
        first.push(exposures.first().map_or_else(|| "-".to_owned(), ToString::to_string));
        lines.push(first);
        for exposure in exposures.iter().skip(1) {
            let mut line = blank.clone();
            line.push(exposure.to_string());
            lines.push(line);
        }
    }
    table(&header, &lines)
}

/// Returns the state of the interface, or the phase where the last operation was interrupted.
pub(crate) fn state(line: &ListEntry) -> String {
    let phase = &line.instance.phase;
    if phase == Phase::Up.as_str() { line.link.clone() } else { phase.clone() }
}
