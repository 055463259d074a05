//! Delivery of events one by one, to a destination that answers for each.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cratestack_engine::relay::{AuditEvent, SinkError};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::event_id;

/// How long it is remembered that an event was accepted. Longer than the relay waits between two tries.
const MEMORY: Duration = Duration::from_mins(10);

/// Sends the events of one key one after the other, and those of several keys at the same time.
///
/// Remembers what was accepted in a call that failed or was given up. Otherwise a destination that is too slow for a
/// batch, or fails now and then, would get the first events of it again and again, and the last ones never. It goes by
/// the event's own id, since numbers begin anew in a database that was restored.
#[derive(Debug)]
pub(super) struct Singly {
    at_once: usize,
    accepted: Mutex<HashMap<Uuid, Instant>>,
}

impl Singly {
    /// `at_once`: keys at the same time.
    pub(super) fn new(at_once: usize) -> Self {
        Self { at_once, accepted: Mutex::default() }
    }

    /// Calls `send` for each event. The first time that the destination is unavailable ends it; after a refusal the
    /// events of other keys go on.
    pub(super) async fn deliver<'a, F>(
        &self,
        events: &'a [AuditEvent],
        send: impl Fn(Uuid, &'a AuditEvent) -> F + Sync,
    ) -> Result<(), SinkError>
    where
        F: Future<Output = Result<(), SinkError>> + Send,
    {
        self.accepted().retain(|_, at| at.elapsed() < MEMORY);
        // Boxed: as types of their own, the compiler does not see that they are `Send`.
        let keys: Vec<_> = by_key(events).into_iter().map(|events| self.one_key(events, &send).boxed()).collect();
        let mut answers = stream::iter(keys).buffer_unordered(self.at_once);
        let mut refused = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(()) => {}
                Err(error) if error.is_unavailable() => return Err(error),
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
        // The relay is told now. If it asks again, it means it.
        let mut accepted = self.accepted();
        for id in events.iter().filter_map(|event| event_id(event).ok()) {
            accepted.remove(&id);
        }
        Ok(())
    }

    async fn one_key<'a, F>(
        &self,
        events: Vec<&'a AuditEvent>,
        send: &(impl Fn(Uuid, &'a AuditEvent) -> F + Sync),
    ) -> Result<(), SinkError>
    where
        F: Future<Output = Result<(), SinkError>> + Send,
    {
        for event in events {
            let id = event_id(event)?;
            if !self.accepted().contains_key(&id) {
                send(id, event).await?;
                self.accepted().insert(id, Instant::now());
            }
        }
        Ok(())
    }

    fn accepted(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of each key in their order; the keys in the order of their first events.
fn by_key(events: &[AuditEvent]) -> Vec<Vec<&AuditEvent>> {
    let mut places = HashMap::new();
    let mut keys: Vec<Vec<&AuditEvent>> = Vec::new();
    for event in events {
        let place = *places.entry((&event.model, &event.primary_key)).or_insert(keys.len());
        match keys.get_mut(place) {
            Some(key) => key.push(event),
            None => keys.push(vec![event]),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use cratestack_engine::relay::{AUDIT, OUTBOX};

    use super::*;
    use crate::sinks::testing::{event, event_id};

    /// Delivers, and gives what was sent as `key:seq` in order, with the answer.
    async fn deliver(
        singly: &Singly,
        events: &[AuditEvent],
        answer: impl Fn(&AuditEvent) -> Result<(), SinkError> + Sync,
    ) -> (Vec<i64>, Result<(), SinkError>) {
        let sent = Mutex::new(Vec::new());
        let done = singly
            .deliver(events, |_, event| {
                sent.lock().unwrap().push(event.seq);
                std::future::ready(answer(event))
            })
            .await;
        (sent.into_inner().unwrap(), done)
    }

    #[tokio::test]
    async fn after_a_refusal_the_key_stops_and_others_go_on() {
        let singly = Singly::new(2);
        let events = [event(1, "a"), event(2, "b"), event(3, "a"), event(4, "b"), event(5, "c")];
        let refuse = |event: &AuditEvent| if event.seq == 1 { Err(SinkError::refused("no")) } else { Ok(()) };
        let (mut sent, answer) = deliver(&singly, &events, refuse).await;
        sent.sort_unstable();
        assert_eq!(sent, [1, 2, 4, 5], "the second event of `a` waits for the first");
        assert!(!answer.unwrap_err().is_unavailable());
        // Then the relay gives each alone: what was accepted is not sent again, until the relay knows and asks again.
        let alone = |at: usize| std::slice::from_ref(&events[at]);
        assert_eq!(deliver(&singly, alone(1), |_| Ok(())).await, (vec![], Ok(())));
        assert_eq!(deliver(&singly, alone(1), |_| Ok(())).await, (vec![2], Ok(())));
        assert_eq!(deliver(&singly, alone(0), |_| Ok(())).await, (vec![1], Ok(())));
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_goes_on_where_it_was() {
        let singly = Singly::new(1);
        let events = [event(1, "a"), event(2, "a"), event(3, "a")];
        let slow = singly.deliver(&events, |_, event| async move {
            if event.seq == 2 {
                std::future::pending::<()>().await;
            }
            Ok(())
        });
        assert!(slow.now_or_never().is_none());
        assert_eq!(deliver(&singly, &events, |_| Ok(())).await, (vec![2, 3], Ok(())));
        assert_eq!(deliver(&singly, &events, |_| Ok(())).await, (vec![1, 2, 3], Ok(())));
    }

    #[tokio::test]
    async fn an_unavailable_destination_ends_it() {
        let singly = Singly::new(1);
        let events = [event(1, "a"), event(2, "b"), event(3, "c")];
        let fail = |event: &AuditEvent| if event.seq == 2 { Err(SinkError::unavailable("no")) } else { Ok(()) };
        let (sent, answer) = deliver(&singly, &events, fail).await;
        assert_eq!(sent, [1, 2]);
        assert!(answer.unwrap_err().is_unavailable());
    }

    #[tokio::test]
    async fn each_log_says_which_member_is_the_id() {
        let singly = Singly::new(1);
        let (here, there) = (event_id(1), event_id(2));
        let entry = format!(r#"{{"data":{{"id":"{there}"}},"event_id":"{there}","id":"{here}","more":[{{}},1]}}"#);
        for (log, id) in [(&OUTBOX, &here), (&AUDIT, &there)] {
            let events = [AuditEvent { log, entry: entry.clone(), ..event(1, "a") }];
            let sent = Mutex::new(Vec::new());
            let send = |id: Uuid, _| {
                sent.lock().unwrap().push(id.hyphenated().to_string());
                std::future::ready(Ok(()))
            };
            singly.deliver(&events, send).await.unwrap();
            assert_eq!(sent.into_inner().unwrap(), [id.as_str()]);
        }
    }

    #[tokio::test]
    async fn an_entry_without_an_id_is_refused() {
        let singly = Singly::new(1);
        for entry in ["{}", "", r#"{"event_id":"x"}"#, r#"{"event_id":1}"#] {
            let events = [AuditEvent { entry: entry.to_owned(), ..event(1, "a") }];
            let (sent, answer) = deliver(&singly, &events, |_| Ok(())).await;
            assert!(sent.is_empty() && !answer.unwrap_err().is_unavailable());
        }
    }
}
