//! The thread that does background tasks, one after another, with a kernel of its own.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use riklet_kernel::Kernel;
use riklet_sdn::{BackgroundTask, TaskOutcome};

/// The thread. It ends once this is dropped, after the task that is under way.
#[derive(Debug)]
pub(super) struct Background {
    tasks: Sender<BackgroundTask>,
    is_busy: bool,
}

impl Background {
    /// Starts the thread, on which `report` is called with each outcome.
    pub(super) fn start(
        kernel: impl Kernel + Send + 'static,
        report: impl Fn(TaskOutcome) + Send + 'static,
    ) -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel();
        thread::Builder::new()
            .name("background".to_owned())
            .spawn(move || work(kernel, queue, report))?;
        Ok(Self { tasks, is_busy: false })
    }

    /// Returns whether no task is under way.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy
    }

    /// Hands a task over.
    pub(super) fn give(&mut self, task: BackgroundTask) {
        self.is_busy = self.tasks.send(task).is_ok();
    }

    /// Notes that the outcome of the task has come.
    pub(super) fn finished(&mut self) {
        self.is_busy = false;
    }
}

fn work(mut kernel: impl Kernel, queue: Receiver<BackgroundTask>, report: impl Fn(TaskOutcome)) {
    for task in queue {
        report(task.run(&mut kernel));
    }
}
