//! Two ways to drive a future: at once, where it never waits, and to its end, whoever waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;

use super::Stop;
use crate::fault::{Class, StoreError};
use crate::migrate;

/// The result of a future on an SQLite thread: these never wait.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T
where
    T: Blocked,
{
    future.now_or_never().unwrap_or_else(T::blocked)
}

/// What [`now`] gives for a future that waits all the same: an error.
pub(crate) trait Blocked {
    fn blocked() -> Self;
}

impl<T> Blocked for Result<T, Stop> {
    fn blocked() -> Self {
        Err(StoreError::new(Class::Other, "an SQLite operation tried to wait").into())
    }
}

impl<T> Blocked for Result<T, StoreError> {
    fn blocked() -> Self {
        Err(StoreError::new(Class::Other, "an SQLite operation tried to wait"))
    }
}

impl<T> Blocked for Result<T, migrate::Error> {
    fn blocked() -> Self {
        Err(migrate::Error::Damaged("an SQLite operation tried to wait".to_owned()))
    }
}

/// A future that runs to its end: one that is dropped before goes on as a task of its own.
pub(super) struct Detached<T: Send + 'static>(pub(super) Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out while it runs, so that a panic drops it.
        let Some(mut inner) = self.0.take() else { return Poll::Pending };
        match inner.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => {
                self.0 = Some(inner);
                Poll::Pending
            }
        }
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let (Some(inner), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(inner);
        }
    }
}
