//! Starts threads and tasks. No other module does, so that none escapes the drain.

use std::future::Future;
use std::io;
use std::thread;

use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// Starts a thread that runs a future to completion.
///
/// # Errors
/// If the thread cannot be started.
pub fn start_thread(name: &str, runtime: Runtime, future: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(future))?;
    Ok(())
}

/// Starts work that blocks, on a thread for such work of this runtime. It continues if the result is dropped. The result
/// is `None` if the work panics, or the runtime ends before it starts.
pub fn start_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> + Send + 'static {
    let working = tokio::task::spawn_blocking(work);
    async move { working.await.ok() }
}

/// A set of tasks that can be waited for.
#[derive(Debug, Default, Clone)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Spawns a task on this thread's runtime. A panic ends only that task.
    pub fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Waits until all tasks have ended, including those that they started here.
    pub async fn end(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
