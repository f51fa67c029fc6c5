//! Threads, which a host may refuse (`EAGAIN` of clone(2)): that is an error, or fewer threads do the work.
//!
//! The functions of the standard library that return no result panic then, which ends the process.

use std::{
    io, panic,
    sync::{Mutex, PoisonError},
    thread::{self, Builder, JoinHandle, ScopedJoinHandle},
};

/// Starts a thread of this name.
///
/// # Errors
/// Fails if the host has no thread left.
pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work).map_err(|error| refused(name, &error))
}

/// Does some work on a thread of this name, and waits for it. A panic of the thread becomes one of the caller.
///
/// # Errors
/// Fails if the host has no thread left.
pub fn apart<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| refused(name, &error))?;
        Ok(thread.join().unwrap_or_else(|reason| panic::resume_unwind(reason)))
    })
}

/// Does the work for all items at once, by at most this number of threads, and returns the results in the order of the items.
/// If the host refuses threads, those that there are do the work one item after another.
pub fn at_once<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items: Vec<_> = items.into_iter().collect();
    let more = items.len().min(most).saturating_sub(1);
    let queue = Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some((index, item)) = next() {
            done.push((index, work(item)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..more {
            match Builder::new().spawn_scoped(scope, work) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::warn!("{} threads do the work: {error}", threads.len() + 1);
                    break;
                }
            }
        }
        let mut done = work();
        for ended in threads.into_iter().map(ScopedJoinHandle::join) {
            done.append(&mut ended.unwrap_or_else(|reason| panic::resume_unwind(reason)));
        }
        done
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn refused(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot start the thread {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        assert_eq!(
            at_once(0..100, 7, |number| number * 2),
            (0..200).step_by(2).collect::<Vec<_>>()
        );
        assert!(at_once(Vec::<u8>::new(), 7, |_| ()).is_empty());
        assert_eq!(at_once([1], 0, |number| number), [1]);
    }

    #[test]
    fn all_items_are_worked_on_at_once() {
        // No thread passes before all have come.
        let barrier = Barrier::new(8);
        at_once(0..8, usize::MAX, |_| barrier.wait());
    }
}
