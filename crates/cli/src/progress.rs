//! Shows the progress of a download.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use riklet_vmm::image::Progress;

use super::output::Output;

/// Returns a function that shows progress on standard error: as a bar on a terminal, otherwise as one line at the
/// begin.
pub(crate) fn shown(what: &str, output: Output) -> impl FnMut(Progress) + use<> {
    let what = what.to_owned();
    let mut bar: Option<ProgressBar> = None;
    let terminal = std::io::stderr().is_terminal() && !output.is_json();
    let mut announced = false;
    move |progress| {
        if !announced {
            announced = true;
            let doing = if progress.waiting { "another process downloads" } else { "downloading" };
            output.remark(&format!("{doing} {what}"));
        }
        if terminal && !progress.waiting {
            let bar = bar.get_or_insert_with(begun);
            match progress.total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
            bar.set_position(progress.received);
        }
    }
}

fn begun() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    // The template is constant. If it were wrong, the plain bar would be shown.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
