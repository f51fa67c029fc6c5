//! Draws the view. Pure: the same view on a screen of the same size looks the same.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line as Text, Span},
    widgets::{Block, Borders, Paragraph, Row, Table},
};

use super::view::{HEADER, Order, View, short};
use crate::render;

/// The number of lines of events, if there is room.
const EVENTS: u16 = 6;
/// Columns of [`HEADER`].
const STATE: usize = 3;
const NUMBERS: std::ops::Range<usize> = 4..8;
const EXPOSURES: usize = 8;

/// The contents of the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// `None` before the first sample.
    pub(super) view: Option<View>,
    /// The reason why there is no newer sample.
    pub(super) problem: Option<String>,
    pub(super) order: Order,
    /// The first function that is shown.
    pub(super) first: usize,
}

impl Screen {
    /// Moves through the functions, which stay on the screen.
    pub(super) fn scroll(&mut self, lines: isize) {
        let count = self.view.as_ref().map_or(0, |view| view.functions.len());
        self.first = self.first.saturating_add_signed(lines).min(count.saturating_sub(1));
    }

    pub(super) fn order_by(&mut self, order: Order) {
        self.order = order;
        self.first = 0;
        if let Some(view) = &mut self.view {
            view.order(order);
        }
    }

    pub(super) fn show(&mut self, mut view: View) {
        view.order(self.order);
        self.view = Some(view);
        self.problem = None;
        self.scroll(0);
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let shown = screen.view.as_ref().map_or(0, |view| view.events.len());
    // The events with their title take at most a third of the screen.
    let events = match u16::try_from(shown).unwrap_or(EVENTS).min(EVENTS) {
        0 => 0,
        lines => (lines + 1).min(frame.area().height / 3),
    };
    let events = if events > 1 { events } else { 0 };
    let parts = [
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(events),
        Constraint::Length(1),
    ];
    let [head, functions, below, foot] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(summary(screen), head);
    if let Some(view) = &screen.view {
        draw_functions(frame, functions, screen, view);
        draw_events(frame, below, view);
    }
    frame.render_widget(keys(screen.order), foot);
}

/// Returns the summary: the number of functions, the daemon's state, and what is wrong.
fn summary(screen: &Screen) -> Text<'static> {
    let mut parts = Vec::new();
    if let Some(view) = &screen.view {
        let daemon = match &view.slots {
            Some(slots) => {
                let creating = match slots.creating {
                    0 => String::new(),
                    count => format!("{count} creating, "),
                };
                format!("slots: {creating}{} ready, {} draining", slots.ready, slots.draining)
            }
            None => "no daemon".to_owned(),
        };
        parts.push(Span::raw(format!("{} functions  {daemon}  ", view.functions.len())));
        parts.push(match &*view.drift {
            [] => Span::raw("no drift"),
            [only] => format!("drift: {only}").fg(Color::Red),
            [first, ..] => format!("drift in {} places: {first}", view.drift.len()).fg(Color::Red),
        });
    }
    if let Some(problem) = &screen.problem {
        parts.insert(0, format!("{}  ", problem.replace('\n', " ")).fg(Color::Red));
    }
    Text::from(parts)
}

fn draw_functions(frame: &mut Frame<'_>, area: Rect, screen: &Screen, view: &View) {
    let height = usize::from(area.height.saturating_sub(1));
    let lines: Vec<_> = view.functions.iter().skip(screen.first).take(height).collect();
    let longest =
        lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).clamp(4, 32);
    let columns = columns(longest, usize::from(area.width));
    let rows = lines.iter().map(|line| {
        let style = match &*line.state {
            "attached" => Style::new().fg(Color::Green),
            "ready" => Style::new(),
            _ => Style::new().fg(Color::Red),
        };
        let cells = line.row(short);
        Row::new(columns.iter().map(|&(column, _)| {
            let cell = aligned(column, cells.get(column).map_or("", String::as_str));
            if column == STATE { Span::styled(cell, style) } else { Span::raw(cell) }
        }))
    });
    let title = |&(column, _): &_| aligned(column, HEADER.get(column).unwrap_or(&""));
    let titles = columns.iter().map(title).collect::<Vec<_>>();
    let header = Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD));
    let widths = columns.iter().map(|&(column, width)| match column {
        EXPOSURES => Constraint::Min(width),
        _ => Constraint::Length(width),
    });
    frame.render_widget(Table::new(rows, widths.collect::<Vec<_>>()).header(header), area);
}

/// Returns the columns that fit, with their widths. No column is cut off, since a truncated number would be misread.
fn columns(longest: usize, room: usize) -> Vec<(usize, u16)> {
    /// The columns to drop if there is no room, the least important first.
    const SPARED: [usize; 8] = [EXPOSURES, 2, 1, 6, 4, STATE, 7, 5];
    let name = u16::try_from(longest).unwrap_or(u16::MAX);
    let widths = [name, 9, 15, 8, 7, 7, 7, 7, 16];
    let mut columns: Vec<_> = widths.into_iter().enumerate().collect();
    for spared in SPARED {
        let needed: usize = columns.iter().map(|(_, width)| usize::from(*width) + 1).sum();
        if needed <= room + 1 {
            break;
        }
        columns.retain(|(column, _)| *column != spared);
    }
    columns
}

/// Aligns numbers to the right.
fn aligned(column: usize, cell: &str) -> String {
    if NUMBERS.contains(&column) { format!("{cell:>7}") } else { cell.to_owned() }
}

/// Draws the first line of each of the last events, the newest at the bottom.
fn draw_events(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let room = usize::from(area.height.saturating_sub(1));
    let skipped = view.events.len().saturating_sub(room);
    let lines =
        view.events.iter().skip(skipped).map(|event| {
            Text::raw(render::event(event).lines().next().unwrap_or_default().to_owned())
        });
    let title = Block::new().borders(Borders::TOP).title("events");
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(title), area);
}

fn keys(order: Order) -> Text<'static> {
    let orders = [("n name", Order::Name), ("i in", Order::In), ("o out", Order::Out)];
    let mut parts = vec![Span::raw("q quits  order: ")];
    for (key, by) in orders {
        parts.push(if by == order { key.reversed() } else { Span::raw(key) });
        parts.push(Span::raw("  "));
    }
    parts.push(Span::raw("arrows move"));
    Text::from(parts)
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::view::tests::sampled, *};

    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        terminal.backend().to_string()
    }

    fn screen() -> Screen {
        let mut screen = Screen::default();
        screen.show(sampled());
        screen
    }

    #[test]
    fn screen_shows_functions_and_events() {
        insta::assert_snapshot!(drawn(&screen(), 120, 10), @r#"
        "3 functions  slots: 64 ready, 3 draining  drift: ~ TAP rik2: up                                                         "
        "NAME  INTERFACE GUEST           STATE     IN P/S  IN B/S OUT P/S OUT B/S EXPOSURES                                      "
        "hello rik0      10.231.0.2      attached    100k    100M    200k   6000k tcp 8080 -> 80, udp 53-54 -> 53-54             "
        "new   rik2      10.231.0.10     down           2    2000       4     120 -                                              "
        "quiet rik1      10.231.0.6      ready         60     60k     120    3600 -                                              "
        "                                                                                                                        "
        "                                                                                                                        "
        "events──────────────────────────────────────────────────────────────────────────────────────────────────────────────────"
        "2026-11-25T08:09:21.847Z repaired    + TAP rik2: address 10.231.0.9/30                                                  "
        "q quits  order: n name  i in  o out  arrows move                                                                        "
        "#);
    }

    #[test]
    fn small_screen_drops_columns_and_events() {
        let mut screen = screen();
        insta::assert_snapshot!(drawn(&screen, 50, 4), @r#"
        "3 functions  slots: 64 ready, 3 draining  drift: ~"
        "NAME  STATE     IN P/S  IN B/S OUT P/S OUT B/S    "
        "hello attached    100k    100M    200k   6000k    "
        "q quits  order: n name  i in  o out  arrows move  "
        "#);
        screen.scroll(9);
        assert_eq!(screen.first, 2);
        assert!(drawn(&screen, 120, 10).contains("quiet"));
        assert!(!drawn(&screen, 120, 10).contains("hello"));
        screen.scroll(-9);
        assert_eq!(screen.first, 0);
        for (width, height) in [(1, 1), (3, 2), (200, 3)] {
            drawn(&screen, width, height);
        }
        for room in 0..200 {
            let columns = columns(5, room);
            let needed: usize = columns.iter().map(|(_, width)| usize::from(*width) + 1).sum();
            assert!(needed <= room + 1 || columns == [(0, 5)], "{room}: {columns:?}");
        }
    }

    #[test]
    fn order_by_traffic_puts_the_busiest_first() {
        let mut screen = screen();
        let first = |screen: &Screen| {
            let text = drawn(screen, 120, 10);
            text.lines().nth(2).unwrap().trim_matches('"').split(' ').next().unwrap().to_owned()
        };
        screen.view.as_mut().unwrap().functions[1].outgoing.bytes_per_second = u64::MAX;
        assert_eq!(first(&screen), "hello");
        screen.order_by(Order::Out);
        assert_eq!(first(&screen), "new");
        // Later samples are in that order too.
        screen.show(sampled());
        assert_eq!(first(&screen), "hello");
    }

    #[test]
    fn problem_is_shown_above_the_last_sample() {
        let mut screen = screen();
        screen.problem = Some("the daemon\ndoes not answer".to_owned());
        let text = drawn(&screen, 120, 10);
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("\"the daemon does not answer  3 functions"), "{first}");
        assert!(drawn(&Screen::default(), 40, 5).contains("q quits"));
    }
}
