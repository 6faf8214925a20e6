//! Threads and tasks: the one place that makes either, so that none escapes the drain.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// Starts a thread that runs a future to its end: the one place that makes threads.
///
/// # Errors
/// If the system gives no thread.
pub fn start_thread(name: &str, runtime: Runtime, future: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(future))?;
    Ok(())
}

/// Tasks that are waited for: the one place that spawns, so that none escapes the drain.
#[derive(Debug, Default, Clone)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Starts a task on this thread's runtime. A panic in it ends it alone.
    pub fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Waits until all tasks have ended, and those that they started.
    pub async fn end(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
