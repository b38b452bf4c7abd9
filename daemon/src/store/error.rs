//! What can go wrong with the ledger, each with the file it concerns and what to do about it.
//!
//! No text in here comes from a row: SQLite names tables and columns, never values.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use sauti_core::ids::CallId;

use crate::obs::logging::{Field, LogValue};

/// An error of the ledger. Cheap to clone: all who took part in a failed transaction get the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store's thread is gone; nothing more will be written by this process.
    #[error("the ledger's thread has stopped; end the process so that it is started again")]
    Closed,
    /// SQLite refused.
    #[error("{}: could not {doing}: {reason}; {remedy}", path.display())]
    Sqlite {
        /// The ledger.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// SQLite's words.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file system refused.
    #[error("{}: could not {doing}: {reason}; make its folder exist and writable for the user that runs sauti", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's words.
        reason: String,
    },
    /// There is nothing to read.
    #[error("{}: there is no ledger; `sauti run` makes it, and --config names the configuration that says where it is", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Whoever asks may not read it.
    #[error("{}: could not read it: {reason}; ask as root or as the user that runs the daemon", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Another process writes to this ledger.
    #[error("{}: another sauti is running on this ledger; stop it, or give this one its own [ledger] path", path.display())]
    InUse {
        /// The ledger.
        path: PathBuf,
    },
    /// A newer sauti wrote this file.
    #[error("{}: the ledger has schema version {found}, this sauti knows up to {known}; install the newer sauti again, or point [ledger] path elsewhere", path.display())]
    Newer {
        /// The ledger.
        path: PathBuf,
        /// The file's version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// An older sauti wrote this file; only readers say this, the daemon upgrades.
    #[error("{}: the ledger has schema version {found}, this sauti reads {known}; start `sauti run` once, it upgrades the file", path.display())]
    Older {
        /// The ledger.
        path: PathBuf,
        /// The file's version.
        found: i64,
        /// The version that is read here.
        known: i64,
    },
    /// The file is a database, but not ours.
    #[error("{}: this database was not made by sauti; point [ledger] path to a file of its own", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("{}: the ledger is damaged ({reason}); move it away or restore a copy, then start again", path.display())]
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// The first finding.
        reason: String,
    },
    /// The row's call was never admitted.
    #[error("call {0} is not in the ledger; admit it before anything else is written for it")]
    UnknownCall(CallId),
    /// The system's random source or the cipher refused.
    #[error("{0} could not be sealed: the system gives no random bytes")]
    Seal(&'static str),
}

impl StoreError {
    /// Wraps an error of SQLite that came up while `doing` something with the file at `path`.
    pub(crate) fn sqlite(path: &Path, doing: &'static str, error: &rusqlite::Error) -> Self {
        Self::Sqlite { path: path.to_owned(), doing, reason: error.to_string(), remedy: remedy(error) }
    }
}

fn remedy(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "free space on its file system",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "make the file and its folder writable for the user that runs sauti"
        }
        Some(ErrorCode::CannotOpen) => "make its folder exist and writable for the user that runs sauti",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another program holds it locked: end that one",
        Some(ErrorCode::SystemIoFailure) => "look at the disk and at the kernel's log",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "move the file away or restore a copy, then start again"
        }
        _ => "this is a fault of sauti: please report it with these words",
    }
}

impl StoreError {
    /// The word for the log; the text of the error names the file.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Sqlite { .. } => "sqlite",
            Self::File { .. } => "file",
            Self::InUse { .. } => "in_use",
            Self::Newer { .. } => "newer",
            _ => "ledger",
        }
    }

    /// What the log says of it: fixed words.
    pub(crate) fn fields(&self) -> Vec<(Field, LogValue)> {
        let mut values = vec![(Field::Stage, "ledger".into()), (Field::Reason, self.label().into())];
        if let Self::Sqlite { doing, remedy, .. } = self {
            values.extend([(Field::Condition, (*doing).into()), (Field::Remedy, (*remedy).into())]);
        }
        values
    }
}
