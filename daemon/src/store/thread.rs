//! The one thread that writes: takes what is queued, does it in one transaction, then answers.
//!
//! It decides nothing about calls and waits for nobody but its queue and the disk. A panic in here ends the thread;
//! the handles notice ([`super::Store::closed`]) and the process ends.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use rusqlite::Connection;
use sauti_core::call::summary::{Heard, Summary};
use sauti_core::ids::CallId;
use sauti_core::media::quality::LineQuality;
use sauti_core::pii::KeyedHash;
use sauti_core::record::{
    EndRow, EventRow, LiveCall, LiveDialog, NewCall, NewText, OwedText, Recovered, SessionRow, Stage, TextId,
    TextVerdict, Turn,
};
use sauti_core::sip::trace::TraceLine;
use tokio::sync::{mpsc, oneshot};

use super::error::StoreError;
use super::seal::Sealer;
use super::{Admitted, Ended, OwedSummary, Seen};
use crate::obs::logging::{EventName, Field, log_event};

/// Most commands in one transaction: keeps the first of them from waiting for a long tail.
const BATCH: usize = 512;

/// Where the answer goes; whoever gave up waiting has dropped the other end, which is no error.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Everything the thread can be asked for. Those without a reply are counted and logged when they fail.
pub(crate) enum Command {
    Seen {
        events: Vec<(KeyedHash, String)>,
        at: Timestamp,
        reply: Reply<Vec<Seen>>,
    },
    HasTerminated {
        key: KeyedHash,
        reply: Reply<bool>,
    },
    Admit {
        call: Box<NewCall>,
        live: Option<Box<LiveCall>>,
        reply: Reply<Admitted>,
    },
    Stage {
        call: CallId,
        stage: Stage,
        at: Timestamp,
    },
    Event {
        call: CallId,
        row: Box<EventRow>,
    },
    Turn {
        call: CallId,
        row: Box<Turn>,
    },
    Session {
        call: CallId,
        row: Box<SessionRow>,
    },
    Quality {
        call: CallId,
        row: Box<LineQuality>,
    },
    SipMessages {
        call: CallId,
        leg: u8,
        lines: Vec<TraceLine>,
    },
    Dialog {
        call: CallId,
        leg: u8,
        dialog: Option<Box<LiveDialog>>,
    },
    End {
        call: CallId,
        end: Box<EndRow>,
        reply: Reply<Ended>,
    },
    Release {
        call: CallId,
        reply: Reply<()>,
    },
    Owe {
        call: CallId,
        text: Box<NewText>,
        at: Timestamp,
        reply: Reply<bool>,
    },
    TextsDue {
        reply: Reply<Vec<OwedText>>,
    },
    Sending {
        text: TextId,
        reply: Reply<bool>,
    },
    Settle {
        text: TextId,
        verdict: TextVerdict,
        reply: Reply<()>,
    },
    TextStatus {
        text: TextId,
        delivered: bool,
        reply: Reply<()>,
    },
    Recover {
        now: Timestamp,
        reply: Reply<Recovered>,
    },
    OweSummary {
        call: CallId,
        at: Timestamp,
    },
    NextSummary {
        now: Timestamp,
        reply: Reply<(Option<OwedSummary>, u64)>,
    },
    Heard {
        call: CallId,
        reply: Reply<Vec<Heard>>,
    },
    Summary {
        call: CallId,
        row: Box<Summary>,
        at: Timestamp,
        reply: Reply<bool>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
    #[cfg(test)]
    Panic,
    #[cfg(test)]
    Sql {
        sql: &'static str,
        reply: Reply<()>,
    },
}

impl Command {
    /// True when it must be on the disk, not only in the system's cache, before it is answered: a power cut that
    /// forgot it would make us send a text twice.
    const fn outlives_a_power_cut(&self) -> bool {
        matches!(self, Self::Sending { .. })
    }
}

/// What the thread owns.
pub(crate) struct Ledger {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    pub(crate) sealer: Sealer,
    /// The last row of `voice_calls` when the file was opened: rows up to it belong to earlier runs.
    pub(crate) boot_row: i64,
    /// When expired webhook events were last found to be none; `None` = look at the next opportunity.
    pub(crate) pruned_at: Option<Timestamp>,
    /// A table with a gauge was written since it was last counted.
    pub(crate) recount: bool,
    /// Held for as long as the thread lives: one writing process a ledger.
    pub(crate) _lock: File,
}

/// Figures that handles read without asking the thread.
#[derive(Default)]
pub(crate) struct Gauges {
    pub(crate) live_calls: AtomicU64,
    pub(crate) owed_texts: AtomicU64,
    pub(crate) texts_unknown: AtomicU64,
    pub(crate) owed_summaries: AtomicU64,
    pub(crate) commands: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) failing: AtomicBool,
}

/// Tells whoever asked; takes the error of the transaction, if it had one.
type Answer = dyn FnOnce(Option<&StoreError>);

/// What came of a command, held back until its transaction is through.
enum Held {
    /// Somebody waits.
    Answer(Box<Answer>),
    /// Nobody waits for it.
    Unheard(Option<StoreError>),
}

/// The thread's life: until it is closed or the last handle is gone.
pub(crate) fn run(mut ledger: Ledger, mut queue: mpsc::Receiver<Command>, gauges: &Arc<Gauges>) {
    let mut closing = None;
    let mut batch = VecDeque::with_capacity(BATCH);
    while closing.is_none() {
        let Some(first) = queue.blocking_recv() else { break };
        batch.push_back(first);
        while batch.len() < BATCH {
            let Ok(next) = queue.try_recv() else { break };
            batch.push_back(next);
        }
        while !batch.is_empty() && closing.is_none() {
            closing = transaction(&mut ledger, &mut batch, gauges);
        }
    }
    drop(queue);
    let path = ledger.path.clone();
    if let Err(error) = ledger.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        let error = StoreError::sqlite(&path, "move its log into the file", &error);
        log_event(EventName::LedgerCheckpointFailed, None, &error.fields());
    }
    drop(ledger);
    if let Some(reply) = closing {
        // Nobody waiting for the close is fine.
        reply.send(()).ok();
    }
}

/// Does commands from the front of `batch` in one transaction. Returns the reply of a close that was reached.
fn transaction(
    ledger: &mut Ledger,
    batch: &mut VecDeque<Command>,
    gauges: &Arc<Gauges>,
) -> Option<oneshot::Sender<()>> {
    let mut outcomes: Vec<Held> = Vec::with_capacity(batch.len());
    let mut closing = None;
    let durable = batch.iter().any(Command::outlives_a_power_cut);
    let mut failure = begin(ledger, durable).err();
    let had_begun = failure.is_none();
    while let Some(command) = batch.pop_front() {
        if let Command::Close { reply } = command {
            closing = Some(reply);
            break;
        }
        gauges.commands.fetch_add(1, Ordering::Relaxed);
        outcomes.push(if failure.is_none() { ledger.apply(command) } else { refuse(command) });
        // A full or failing disk makes SQLite roll the whole transaction back: nobody before this got anything.
        if had_begun && ledger.connection.is_autocommit() {
            failure = Some(StoreError::Sqlite {
                path: ledger.path.clone(),
                doing: "write to it",
                reason: "the transaction was rolled back".to_owned(),
                remedy: "free space on its file system and look at the disk",
            });
            break;
        }
    }
    if failure.is_none() {
        failure = commit(ledger).err();
        gauges.commits.fetch_add(1, Ordering::Relaxed);
    }
    // Before the answers: who was answered finds the figures right.
    if ledger.recount {
        count_tables(ledger, gauges);
    }
    report(gauges, &outcomes, failure.as_ref());
    for outcome in outcomes {
        if let Held::Answer(answer) = outcome {
            answer(failure.as_ref());
        }
    }
    closing
}

fn begin(ledger: &Ledger, durable: bool) -> Result<(), StoreError> {
    let sql = if durable {
        "PRAGMA synchronous = FULL; BEGIN IMMEDIATE"
    } else {
        "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE"
    };
    ledger.connection.execute_batch(sql).map_err(|error| StoreError::sqlite(&ledger.path, "begin to write", &error))
}

fn commit(ledger: &mut Ledger) -> Result<(), StoreError> {
    ledger.connection.execute_batch("COMMIT").map_err(|error| {
        if !ledger.connection.is_autocommit() {
            // A commit that found the disk full leaves the transaction open.
            ledger.connection.execute_batch("ROLLBACK").ok();
        }
        ledger.recount = true;
        StoreError::sqlite(&ledger.path, "write to it", &error)
    })
}

/// Counts and logs: once when writing begins to fail, once when it works again.
fn report(gauges: &Gauges, outcomes: &[Held], failure: Option<&StoreError>) {
    let mut lost = 0;
    let mut reason = failure;
    for outcome in outcomes {
        if let Held::Unheard(error) = outcome
            && let Some(error) = failure.or(error.as_ref())
        {
            lost += 1;
            reason = reason.or(Some(error));
        }
    }
    gauges.lost.fetch_add(lost, Ordering::Relaxed);
    if let Some(error) = reason {
        if !gauges.failing.swap(true, Ordering::Relaxed) {
            let mut values = error.fields();
            values.push((Field::Count, lost.into()));
            log_event(EventName::LedgerWriteFailed, None, &values);
        }
    } else if gauges.failing.swap(false, Ordering::Relaxed) {
        log_event(EventName::LedgerWritesAgain, None, &[]);
    }
}

pub(crate) fn count_tables(ledger: &mut Ledger, gauges: &Gauges) {
    let count = |sql: &str, gauge: &AtomicU64| {
        let rows: Result<i64, _> =
            ledger.connection.prepare_cached(sql).and_then(|mut count| count.query_row([], |row| row.get(0)));
        if let Ok(rows) = rows {
            gauge.store(rows.unsigned_abs(), Ordering::Relaxed);
        }
        rows.is_ok()
    };
    let counted = count("SELECT count(*) FROM live_calls", &gauges.live_calls)
        & count("SELECT count(*) FROM owed_texts", &gauges.owed_texts)
        & count("SELECT count(*) FROM voice_calls WHERE text_state = 'unknown'", &gauges.texts_unknown)
        & count("SELECT count(*) FROM owed_summaries", &gauges.owed_summaries);
    ledger.recount = !counted;
}

/// What a command inside a transaction may run into.
pub(crate) enum Trouble {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Ledger {
    /// Does one command inside the running transaction: all of it or nothing.
    fn apply(&mut self, command: Command) -> Held {
        match command {
            Command::Seen { events, at, reply } => {
                waiting(reply, self.whole("note a webhook", |ledger| ledger.seen(&events, at)))
            }
            Command::HasTerminated { key, reply } => {
                waiting(reply, self.whole("look for a terminate", |ledger| ledger.has_terminated(key)))
            }
            Command::Admit { call, live, reply } => {
                waiting(reply, self.whole("admit a call", |ledger| ledger.admit(&call, live.as_deref())))
            }
            Command::Stage { call, stage, at } => {
                unattended(self.whole("note a stage", |ledger| ledger.stage(call, stage, at)))
            }
            Command::Event { call, row } => unattended(self.whole("write an event", |ledger| ledger.event(call, &row))),
            Command::Turn { call, row } => unattended(self.whole("write a turn", |ledger| ledger.turn(call, &row))),
            Command::Session { call, row } => {
                unattended(self.whole("write a session", |ledger| ledger.session(call, &row)))
            }
            Command::Quality { call, row } => {
                unattended(self.whole("write the quality", |ledger| ledger.quality(call, &row)))
            }
            Command::SipMessages { call, leg, lines } => {
                unattended(self.whole("write SIP messages", |ledger| ledger.sip_messages(call, leg, &lines)))
            }
            Command::Dialog { call, leg, dialog } => {
                unattended(self.whole("seal a dialog", |ledger| ledger.dialog(call, leg, dialog.as_deref())))
            }
            Command::End { call, end, reply } => {
                waiting(reply, self.whole("end a call", |ledger| ledger.end(call, &end)))
            }
            Command::Release { call, reply } => {
                waiting(reply, self.whole("wipe a live call", |ledger| ledger.release(call)))
            }
            Command::Owe { call, text, at, reply } => {
                waiting(reply, self.whole("owe a text", |ledger| ledger.owe(call, &text, at)))
            }
            Command::TextsDue { reply } => waiting(reply, self.whole("read owed texts", Self::texts_due)),
            Command::Sending { text, reply } => {
                waiting(reply, self.whole("journal a text", |ledger| ledger.sending(text)))
            }
            Command::Settle { text, verdict, reply } => {
                waiting(reply, self.whole("settle a text", |ledger| ledger.settle(text, verdict)))
            }
            Command::TextStatus { text, delivered, reply } => {
                waiting(reply, self.whole("settle a text", |ledger| ledger.text_status(text, delivered)))
            }
            Command::Recover { now, reply } => {
                waiting(reply, self.whole("close what a crash left", |ledger| ledger.recover(now)))
            }
            Command::OweSummary { call, at } => {
                unattended(self.whole("owe a summary", |ledger| ledger.owe_summary(call, at)))
            }
            Command::NextSummary { now, reply } => {
                waiting(reply, self.whole("look for owed summaries", |ledger| ledger.next_summary(now)))
            }
            Command::Heard { call, reply } => {
                waiting(reply, self.whole("read a transcript", |ledger| ledger.heard_in(call)))
            }
            Command::Summary { call, row, at, reply } => {
                waiting(reply, self.whole("write a summary", |ledger| ledger.summary(call, &row, at)))
            }
            Command::Close { reply } => Held::Answer(Box::new(move |_| {
                reply.send(()).ok();
            })),
            #[cfg(test)]
            Command::Panic => panic!("asked for by a test"),
            #[cfg(test)]
            Command::Sql { sql, reply } => {
                waiting(reply, self.whole("run a test's words", |ledger| Ok(ledger.connection.execute_batch(sql)?)))
            }
        }
    }

    fn whole<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let done = self.savepoint("SAVEPOINT command").and_then(|()| work(self)).and_then(|value| {
            self.savepoint("RELEASE command")?;
            Ok(value)
        });
        done.map_err(|trouble| {
            if !self.connection.is_autocommit() {
                // Fails only when SQLite has already rolled all of it back.
                self.connection.execute_batch("ROLLBACK TO command; RELEASE command").ok();
            }
            match trouble {
                Trouble::Sql(error) => StoreError::sqlite(&self.path, doing, &error),
                Trouble::Store(error) => error,
            }
        })
    }

    fn savepoint(&self, sql: &str) -> Result<(), Trouble> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }
}

/// Answers whoever waits.
fn waiting<T: 'static>(reply: Reply<T>, result: Result<T, StoreError>) -> Held {
    Held::Answer(Box::new(move |failure| {
        reply.send(failure.map_or(result, |error| Err(error.clone()))).ok();
    }))
}

/// Nobody waits: an error is counted.
fn unattended(result: Result<(), StoreError>) -> Held {
    Held::Unheard(result.err())
}

/// The answer to a command that was not even tried, as no transaction could be begun.
fn refuse(command: Command) -> Held {
    /// The commit error always comes, as there is no transaction.
    fn never<T: 'static>(reply: Reply<T>) -> Held {
        waiting(reply, Err(StoreError::Closed))
    }
    match command {
        Command::Seen { reply, .. } => never(reply),
        Command::HasTerminated { reply, .. } | Command::Owe { reply, .. } | Command::Sending { reply, .. } => {
            never(reply)
        }
        Command::Admit { reply, .. } => never(reply),
        Command::End { reply, .. } => never(reply),
        Command::Release { reply, .. } | Command::Settle { reply, .. } | Command::TextStatus { reply, .. } => {
            never(reply)
        }
        Command::TextsDue { reply } => never(reply),
        Command::NextSummary { reply, .. } => never(reply),
        Command::Heard { reply, .. } => never(reply),
        Command::Summary { reply, .. } => never(reply),
        Command::Recover { reply, .. } => never(reply),
        Command::Close { reply } => Held::Answer(Box::new(move |_| {
            reply.send(()).ok();
        })),
        Command::Stage { .. }
        | Command::Event { .. }
        | Command::Turn { .. }
        | Command::Session { .. }
        | Command::OweSummary { .. }
        | Command::SipMessages { .. }
        | Command::Dialog { .. }
        | Command::Quality { .. } => unattended(Err(StoreError::Closed)),
        #[cfg(test)]
        Command::Panic => unattended(Ok(())),
        #[cfg(test)]
        Command::Sql { reply, .. } => never(reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::obs::logging::tests::logged;

    #[test]
    fn rows_that_are_lost_are_told_once_with_what_to_do() {
        let error = StoreError::Sqlite {
            path: "/var/lib/sauti/ledger.db".into(),
            doing: "write to it",
            reason: "database or disk is full".to_owned(),
            remedy: "free space on its file system",
        };
        let gauges = Gauges::default();
        let lines = logged(|| {
            for failure in [Some(&error), Some(&error), None, None] {
                report(&gauges, &[], failure);
            }
        });
        let lines: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<_> = lines.iter().map(|line| line["EVENT"].as_str().unwrap()).collect();
        assert_eq!(names, ["LEDGER_WRITE_FAILED", "LEDGER_WRITES_AGAIN"]);
        assert_eq!((&lines[0]["REASON"], &lines[0]["level"]), (&"sqlite".into(), &"ERROR".into()));
        assert_eq!(lines[0]["REMEDY"], "free space on its file system");
    }
}
