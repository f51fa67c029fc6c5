//! The thread that runs background tasks, one after another, with a kernel handle of its own.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use riklet_kernel::Kernel;
use riklet_sdn::{BackgroundTask, TaskOutcome};

/// The thread. After this is dropped, it finishes its current task and ends.
#[derive(Debug)]
pub(super) struct Background {
    tasks: Sender<BackgroundTask>,
    is_busy: bool,
}

impl Background {
    /// Starts the thread, which calls `report` with each outcome.
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

    /// Returns whether no task is in progress.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy
    }

    /// Gives the thread a task.
    pub(super) fn give(&mut self, task: BackgroundTask) {
        self.is_busy = self.tasks.send(task).is_ok();
    }

    /// Notes that the task's outcome has arrived.
    pub(super) fn finished(&mut self) {
        self.is_busy = false;
    }
}

fn work(mut kernel: impl Kernel, queue: Receiver<BackgroundTask>, report: impl Fn(TaskOutcome)) {
    for task in queue {
        report(task.run(&mut kernel));
    }
}
