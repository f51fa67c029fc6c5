//! Threads for slow work: each does its tasks one after another, with a kernel handle of its own.

use std::{
    io,
    sync::mpsc::{self, Sender},
    thread,
};

/// A thread. After this is dropped, it finishes the tasks that it was given, and ends.
#[derive(Debug)]
pub(super) struct Worker<T> {
    tasks: Sender<T>,
    in_progress: usize,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts the thread, which does each task by calling `work`.
    pub(super) fn start(name: &str, work: impl FnMut(T) + Send + 'static) -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel();
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(move || queue.into_iter().for_each(work))?;
        Ok(Self { tasks, in_progress: 0 })
    }

    /// Returns whether no task is in progress.
    pub(super) const fn is_idle(&self) -> bool {
        self.in_progress == 0
    }

    /// Gives the thread a task. Returns it if the thread has ended.
    pub(super) fn give(&mut self, task: T) -> Result<(), T> {
        self.tasks.send(task).map_err(|returned| returned.0)?;
        self.in_progress += 1;
        Ok(())
    }

    /// Notes that the outcome of a task has arrived.
    pub(super) const fn finished(&mut self) {
        self.in_progress = self.in_progress.saturating_sub(1);
    }
}
