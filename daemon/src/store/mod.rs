//! The ledger's door: handles that queue commands for the one thread that owns the SQLite file.
//!
//! A handle never touches the disk. What must be known to be written is answered after its transaction; what is
//! merely told (stages, events, turns, sessions) is queued without waiting, and counted if it is lost.
//! Driven by the shell: HTTP handlers, call tasks, boot. Reading for people is [`read`].

mod error;
mod migrate;
pub mod read;
mod seal;
mod sip;
mod summaries;
mod texts;
mod thread;
mod write;

#[cfg(test)]
mod summaries_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use sauti_core::call::outcome::Outcome;
use sauti_core::call::summary::{Heard, Summary};
use sauti_core::ids::CallId;
use sauti_core::media::quality::LineQuality;
use sauti_core::pii::{BoxKey, KeyedHash};
use sauti_core::record::{
    EndRow, EventRow, LiveCall, LiveDialog, NewCall, NewText, OwedText, Recovered, SessionRow, Stage, TextId,
    TextVerdict, Turn,
};
use sauti_core::sip::trace::TraceLine;
use tokio::sync::{mpsc, oneshot};

pub use self::error::StoreError;
use self::seal::Sealer;
use self::thread::{Command, Gauges, Ledger, Reply};

/// Commands that may wait: 100 calls ending at once with all their events, and a disk that pauses for a second.
const QUEUE: usize = 4096;
/// Worst case of the queue's own memory, without what its commands point to.
const _: () = assert!(QUEUE * size_of::<Command>() <= 512 * 1024, "the queue's memory is known");

/// Whether a webhook event is taken for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is written now.
    New,
    /// It was taken before, by this run or an earlier one.
    Duplicate,
}

/// Whether a call got its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It has it now.
    New,
    /// This id, or another call with the same `wacid`, has one already; nothing was written.
    Duplicate,
}

/// Whether an outcome was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// This was the first.
    Now,
    /// The call had this one already and keeps it.
    Already(Outcome),
}

/// A call whose summary is still to be asked for.
#[derive(Debug)]
pub struct OwedSummary {
    /// Which.
    pub call_id: CallId,
    /// Which try this is, from 0.
    pub attempt: u32,
    /// What was said in it.
    pub turns: Vec<Heard>,
}

/// Figures of the store, read without asking its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rows of `live_calls`.
    pub live_calls: u64,
    /// Rows of `owed_texts`.
    pub owed_texts: u64,
    /// Rows of `owed_summaries`.
    pub owed_summaries: u64,
    /// Texts that may or may not have been sent.
    pub texts_unknown: u64,
    /// Commands waiting.
    pub queued: u64,
    /// Commands done since the start.
    pub commands: u64,
    /// Transactions since the start; fewer than commands.
    pub commits: u64,
    /// Commands that failed with nobody waiting for them.
    pub lost: u64,
    /// The last transaction failed, or lost a command that nobody waited for.
    pub failing: bool,
}

/// A handle on the ledger; clones share the one thread.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::Sender<Command>,
    gauges: Arc<Gauges>,
    path: Arc<Path>,
}

impl Store {
    /// Opens or makes the ledger at `path` (mode 0600), upgrades its schema and starts its thread; `key` seals and
    /// opens what must survive a crash. Blocks on the disk: call it before the runtime or on a blocking thread.
    ///
    /// # Errors
    /// The file cannot be had, is damaged, is newer than this program, or belongs to something else; the text names
    /// it and what to do.
    pub fn open(path: &Path, key: &BoxKey) -> Result<Self, StoreError> {
        let mut ledger = open_ledger(path, key)?;
        let (queue, commands) = mpsc::channel(QUEUE);
        let gauges = Arc::new(Gauges::default());
        thread::count_tables(&mut ledger, &gauges);
        let shared = Arc::clone(&gauges);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || thread::run(ledger, commands, &shared))
            .map_err(|error| StoreError::File {
                path: path.to_owned(),
                doing: "start its thread",
                reason: error.to_string(),
            })?;
        Ok(Self { queue, gauges, path: path.into() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a webhook event of the call with this hash; answered once it is written.
    ///
    /// A `terminate` noted here is the tombstone that [`Self::has_terminated`] finds, whether or not a connect came.
    /// Known for 7 days. Of an event's name the first 64 bytes count.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn seen(&self, key: KeyedHash, event: &str, at: Timestamp) -> Result<Seen, StoreError> {
        let verdicts = self.seen_all(vec![(key, event.to_owned())], at).await?;
        verdicts.first().copied().ok_or(StoreError::Closed)
    }

    /// Notes all events of one webhook body in one go; the verdicts stand in the same order.
    ///
    /// # Errors
    /// They could not be written.
    pub async fn seen_all(&self, events: Vec<(KeyedHash, String)>, at: Timestamp) -> Result<Vec<Seen>, StoreError> {
        self.ask(|reply| Command::Seen { events, at, reply }).await
    }

    /// True when a `terminate` of this call was seen in the last 7 days.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub async fn has_terminated(&self, key: KeyedHash) -> Result<bool, StoreError> {
        self.ask(|reply| Command::HasTerminated { key, reply }).await
    }

    /// Gives a call its row, and seals what is needed to end it after a crash.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn admit(&self, call: NewCall, live: Option<LiveCall>) -> Result<Admitted, StoreError> {
        let (call, live) = (Box::new(call), live.map(Box::new));
        self.ask(|reply| Command::Admit { call, live, reply }).await
    }

    /// Tells when a call passed a stage; the first time counts.
    pub fn stage(&self, call: CallId, stage: Stage, at: Timestamp) {
        self.tell_now(Command::Stage { call, stage, at });
    }

    /// Tells an event of a call.
    pub fn event(&self, call: CallId, row: EventRow) {
        self.tell_now(Command::Event { call, row: Box::new(row) });
    }

    /// Tells a turn as heard; the same item again replaces its words.
    pub fn turn(&self, call: CallId, row: Turn) {
        self.tell_now(Command::Turn { call, row: Box::new(row) });
    }

    /// Tells the totals of a session with the model; the same ordinal again replaces them. The call's cost follows.
    pub fn session(&self, call: CallId, row: SessionRow) {
        self.tell_now(Command::Session { call, row: Box::new(row) });
    }

    /// Tells how a call sounded; told again it replaces.
    pub fn quality(&self, call: CallId, row: LineQuality) {
        self.tell_now(Command::Quality { call, row: Box::new(row) });
    }

    /// Tells the SIP messages of a dialog of `call`; told again it replaces them. `leg` 0 is the caller's, 1 that of
    /// whoever the call was handed to.
    pub fn sip_messages(&self, call: CallId, leg: u8, lines: Vec<TraceLine>) {
        self.tell_now(Command::SipMessages { call, leg, lines });
    }

    /// Tells what it takes to hang up in a dialog of `call` after a crash, sealed; told again it replaces, `None` wipes.
    /// `leg` as in [`Self::sip_messages`]. Wiped with the end of the call.
    pub fn dialog(&self, call: CallId, leg: u8, dialog: Option<LiveDialog>) {
        self.tell_now(Command::Dialog { call, leg, dialog: dialog.map(Box::new) });
    }

    /// Writes the outcome of a call, once; wipes what was sealed for it, queues it for upstream, and owes the text
    /// that comes along, all in one transaction.
    ///
    /// # Errors
    /// It could not be written, or the call was never admitted.
    pub async fn end(&self, call: CallId, end: EndRow) -> Result<Ended, StoreError> {
        let end = Box::new(end);
        self.ask(|reply| Command::End { call, end, reply }).await
    }

    /// Wipes what was sealed for a call of an earlier run, after the far end was told; until then
    /// [`Self::recover`] hands it out at every start.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn release(&self, call: CallId) -> Result<(), StoreError> {
        self.ask(|reply| Command::Release { call, reply }).await
    }

    /// Owes the caller of `call` a text. A call owes one in its life: false = it had one, nothing was written.
    ///
    /// # Errors
    /// It could not be written, or the call was never admitted.
    pub async fn owe_text(&self, call: CallId, text: NewText, at: Timestamp) -> Result<bool, StoreError> {
        let text = Box::new(text);
        self.ask(|reply| Command::Owe { call, text, at, reply }).await
    }

    /// The texts to be sent, oldest first; not those that are being sent.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub async fn texts_due(&self) -> Result<Vec<OwedText>, StoreError> {
        self.ask(|reply| Command::TextsDue { reply }).await
    }

    /// Journals that a text is about to be sent; answered when it is on the disk. False = do not send it.
    ///
    /// # Errors
    /// It could not be written: do not send it.
    pub async fn sending(&self, text: TextId) -> Result<bool, StoreError> {
        self.ask(|reply| Command::Sending { text, reply }).await
    }

    /// Writes what an attempt came to; all but [`TextVerdict::Again`] wipe the text.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn settle_text(&self, text: TextId, verdict: TextVerdict) -> Result<(), StoreError> {
        self.ask(|reply| Command::Settle { text, verdict, reply }).await
    }

    /// Writes what a status webhook says of a text: `delivered` for `sent`, `delivered`, `read` and `played`.
    /// An id that is not ours changes nothing.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn text_status(&self, text: TextId, delivered: bool) -> Result<(), StoreError> {
        self.ask(|reply| Command::TextStatus { text, delivered, reply }).await
    }

    /// Closes what earlier runs left open, each call with outcome `restart` by the box, and hands out the calls whose
    /// far end is still to be told; [`Self::release`] each when that is done. Calls of this run are not touched.
    /// Texts caught in `sending` become `unknown`.
    ///
    /// # Errors
    /// It could not be read or written.
    pub async fn recover(&self, now: Timestamp) -> Result<Recovered, StoreError> {
        self.ask(|reply| Command::Recover { now, reply }).await
    }

    /// Tells that the summary of a call is owed; tell it before [`Self::end`], and a crash between loses neither.
    pub fn owe_summary(&self, call: CallId, at: Timestamp) {
        self.tell_now(Command::OweSummary { call, at });
    }

    /// The call whose summary has been due longest, with what was said in it, and how many were given up on the way.
    /// Handing it out counts as a try.
    ///
    /// # Errors
    /// The ledger could not be read or written.
    pub async fn next_summary(&self, now: Timestamp) -> Result<(Option<OwedSummary>, u64), StoreError> {
        self.ask(|reply| Command::NextSummary { now, reply }).await
    }

    /// What was said in a call, as heard.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub async fn heard(&self, call: CallId) -> Result<Vec<Heard>, StoreError> {
        self.ask(|reply| Command::Heard { call, reply }).await
    }

    /// Writes what a call was about and owes it no more; false = it had a summary and keeps it.
    ///
    /// # Errors
    /// It could not be written, or the call was never admitted.
    pub async fn summary(&self, call: CallId, row: Summary, at: Timestamp) -> Result<bool, StoreError> {
        let row = Box::new(row);
        self.ask(|reply| Command::Summary { call, row, at, reply }).await
    }

    /// Figures for metrics and health.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |gauge: &std::sync::atomic::AtomicU64| gauge.load(Ordering::Relaxed);
        let queued = self.queue.max_capacity().saturating_sub(self.queue.capacity());
        Counts {
            live_calls: read(&self.gauges.live_calls),
            owed_texts: read(&self.gauges.owed_texts),
            texts_unknown: read(&self.gauges.texts_unknown),
            owed_summaries: read(&self.gauges.owed_summaries),
            queued: u64::try_from(queued).unwrap_or(u64::MAX),
            commands: read(&self.gauges.commands),
            commits: read(&self.gauges.commits),
            lost: read(&self.gauges.lost),
            failing: self.gauges.failing.load(Ordering::Relaxed),
        }
    }

    /// False once the thread has ended.
    #[must_use]
    pub fn alive(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Waits until the thread has ended, by [`Self::close`] or by a bug: the process must not go on without it.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Writes what is queued, puts everything into the file and ends the thread; the file is free when it answers.
    /// A second close answers at once.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Command::Close { reply }).await.is_ok() {
            // An error means that another close was first.
            answer.await.ok();
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues what nobody waits for. A call task must not wait for a disk, so with a full queue it is lost and counted.
    fn tell_now(&self, command: Command) {
        if self.queue.try_send(command).is_err() {
            self.gauges.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn tell(&self, command: Command) -> Result<(), StoreError> {
        self.queue.send(command).await.map_err(|_| StoreError::Closed)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Everything that happens before the thread exists.
fn open_ledger(path: &Path, key: &BoxKey) -> Result<Ledger, StoreError> {
    let sealer = Sealer::new(key)?;
    let lock = lock(path)?;
    // Made by us with this mode; SQLite gives the files beside it the same one.
    own_file(path, "open it")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| StoreError::sqlite(path, "open it", &error))?;
    migrate::version(&connection, path)?;
    settings(&connection).map_err(|error| StoreError::sqlite(path, "prepare it", &error))?;
    let finding: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| StoreError::sqlite(path, "check it", &error))?;
    if finding != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), reason: finding });
    }
    migrate::migrate(&mut connection, path)?;
    let boot_row = connection
        .query_row("SELECT coalesce(max(rowid), 0) FROM voice_calls", [], |row| row.get(0))
        .map_err(|error| StoreError::sqlite(path, "read it", &error))?;
    Ok(Ledger { connection, path: path.to_owned(), sealer, boot_row, pruned_at: None, recount: false, _lock: lock })
}

fn settings(connection: &Connection) -> rusqlite::Result<()> {
    // Only an empty file takes auto_vacuum, so it comes first. secure_delete overwrites what a wipe leaves behind.
    connection.execute_batch(
        "PRAGMA busy_timeout = 5000;
         PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA foreign_keys = ON;
         PRAGMA secure_delete = ON;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA wal_autocheckpoint = 1000;",
    )?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Takes the file beside the ledger that says "a daemon writes here"; the system lets go of it when the process ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = own_file(&PathBuf::from(beside), "take its lock")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => {
            Err(StoreError::File { path: path.to_owned(), doing: "take its lock", reason: error.to_string() })
        }
    }
}

/// Opens a file for its owner alone, making it if it is not there.
fn own_file(path: &Path, doing: &'static str) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::File { path: path.to_owned(), doing, reason: error.to_string() })
}
