//! Starts threads and tasks. No other module does, so that none escapes the drain.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Starts a thread that runs a future to completion.
///
/// # Errors
/// If the thread cannot be started.
pub fn start_thread(name: &str, runtime: Runtime, future: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(future))?;
    Ok(())
}

/// Starts a thread for work that blocks. It continues if the receiver of the result is dropped. There is no result if
/// the thread cannot be started, or panics.
pub fn start_blocking<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    let work = move || drop(sender.send(work()));
    // Otherwise the sender is dropped, which the receiver reports.
    let _ = thread::Builder::new().name(name.to_owned()).spawn(work);
    receiver
}

/// A set of tasks that can be waited for.
#[derive(Debug, Default, Clone)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Spawns a task on this thread's runtime. A panic ends only that task.
    pub fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Spawns a task on another thread's runtime. A panic ends only that task.
    pub fn start_on(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn_on(task, runtime);
    }

    /// Waits until all tasks have ended, including those that they started here.
    pub async fn end(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
