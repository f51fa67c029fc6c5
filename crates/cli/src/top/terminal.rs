//! The terminal: reads keys and shows the screen. It is restored however this ends.

use std::{
    io, panic,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::{
        cursor,
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
    },
};
use riklet_kernel::threads;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    low_level::emulate_default_handler,
};

use super::{
    sample::{Sample, Sampler},
    screen::{Screen, draw},
    view::{Order, View},
};
use crate::{
    args::NodeArgs,
    error::{CliError, chain},
};

/// The delay after which a signal or a sample is noticed, since it does not interrupt the wait for keys.
const REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// The number of lines of a page.
const PAGE: isize = 10;

type Samples = Receiver<Result<Sample, CliError>>;

/// Shows the screen until the user quits or a signal comes. Takes the first sample before it takes over the terminal,
/// so that an error is printed as usual.
pub(super) fn run(node: NodeArgs, interval: Duration) -> Result<ExitCode, CliError> {
    let mut sampler = Sampler::new(node);
    let first = sampler.take_in_turn()?;
    let signal = watch_signals().map_err(|source| CliError::Signals { source })?;
    let (sender, coming) = mpsc::channel();
    let (_running, ended) = mpsc::channel();
    threads::start("samples", move || sample(&mut sampler, interval, &sender, &ended))
        .map_err(|source| CliError::Terminal { source })?;
    // ratatui also restores the terminal after a panic, except for the cursor.
    let mut terminal = ratatui::try_init().map_err(|source| CliError::Terminal { source })?;
    show_cursor_on_panic();
    let shown = show(&mut terminal, first, &coming, &signal);
    ratatui::restore();
    shown.map_err(|source| CliError::Terminal { source })?;
    match i32::try_from(signal.load(Ordering::Relaxed)) {
        Ok(0) | Err(_) => {}
        // The program ends as the signal demands, so its sender sees that.
        Ok(signal) => {
            emulate_default_handler(signal).map_err(|source| CliError::Signals { source })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the cursor after a panic. Dropping the terminal would do so, but a program that aborts on a panic never drops
/// it.
fn show_cursor_on_panic() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |reason| {
        let _unwritable = execute!(io::stdout(), cursor::Show);
        before(reason);
    }));
}

/// Catches the signals. The returned number is the last one that came; 0 before the first.
fn watch_signals() -> io::Result<Arc<AtomicUsize>> {
    let last = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let number = usize::try_from(signal).unwrap_or_default();
        flag::register_usize(signal, Arc::clone(&last), number)?;
    }
    Ok(last)
}

/// Takes samples, until the receiver is gone.
fn sample(
    sampler: &mut Sampler,
    interval: Duration,
    coming: &Sender<Result<Sample, CliError>>,
    ended: &Receiver<()>,
) {
    while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        if coming.send(sampler.take_in_turn()).is_err() {
            return;
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    first: Sample,
    samples: &Samples,
    signal: &AtomicUsize,
) -> io::Result<()> {
    let mut screen = Screen::default();
    screen.show(View::new(None, &first));
    let mut before = first.counted;
    let mut stale = true;
    while signal.load(Ordering::Relaxed) == 0 {
        for sample in samples.try_iter() {
            stale = true;
            match sample {
                Ok(sample) => {
                    screen.show(View::new(Some(&before), &sample));
                    before = sample.counted;
                }
                Err(error) => screen.problem = Some(chain(&error)),
            }
        }
        if std::mem::take(&mut stale) {
            terminal.draw(|frame| draw(frame, &screen))?;
        }
        if !wait_for_keys() {
            return Ok(());
        }
        if event::poll(Duration::ZERO)? {
            stale = true;
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && !press(&mut screen, key)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Waits for a key, a while at most. Returns `false` if the terminal is gone: then reading keys, which knows no end of input,
/// would take a whole processor, and SIGHUP may have gone to another process, such as the shell that leads the session.
fn wait_for_keys() -> bool {
    let stdout = io::stdout();
    let mut files = [PollFd::new(&stdout, PollFlags::IN)];
    let limit = Timespec::try_from(REFRESH_INTERVAL).ok();
    let polled = poll(&mut files, limit.as_ref());
    let [terminal] = files;
    polled.is_err() || !terminal.revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Handles a key. Returns whether to go on.
fn press(screen: &mut Screen, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        // In this mode, the terminal sends no SIGINT.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('n') => screen.order_by(Order::Name),
        KeyCode::Char('i') => screen.order_by(Order::In),
        KeyCode::Char('o') => screen.order_by(Order::Out),
        KeyCode::Up => screen.scroll(-1),
        KeyCode::Down => screen.scroll(1),
        KeyCode::PageUp => screen.scroll(-PAGE),
        KeyCode::PageDown => screen.scroll(PAGE),
        KeyCode::Home => screen.scroll(isize::MIN),
        KeyCode::End => screen.scroll(isize::MAX),
        _ => {}
    }
    true
}
