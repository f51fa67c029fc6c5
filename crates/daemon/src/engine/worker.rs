//! The thread that does chores, one after another, with a kernel of its own.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use riklet_kernel::Kernel;
use riklet_sdn::{BackgroundTask, TaskOutcome};

/// The thread. It ends once this is dropped, after the chore that it is at.
#[derive(Debug)]
pub(super) struct Worker {
    tasks: Sender<BackgroundTask>,
    /// Whether it has one.
    at_work: bool,
}

impl Worker {
    /// Starts it. `done` is called on its thread.
    pub(super) fn start(
        kernel: impl Kernel + Send + 'static,
        done: impl Fn(TaskOutcome) + Send + 'static,
    ) -> io::Result<Self> {
        let (tasks, queue) = mpsc::channel();
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || work(kernel, queue, done))?;
        Ok(Self { tasks, at_work: false })
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.at_work
    }

    /// Hands it a chore.
    pub(super) fn give(&mut self, task: BackgroundTask) {
        self.at_work = self.tasks.send(task).is_ok();
    }

    /// It said that it has done its chore.
    pub(super) fn rests(&mut self) {
        self.at_work = false;
    }
}

fn work(mut kernel: impl Kernel, queue: Receiver<BackgroundTask>, done: impl Fn(TaskOutcome)) {
    for task in queue {
        done(task.run(&mut kernel));
    }
}
