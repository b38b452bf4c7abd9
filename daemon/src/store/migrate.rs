//! Brings a ledger file to the schema of this program, one numbered step and one transaction at a time.
//!
//! `PRAGMA user_version` counts the steps done; `PRAGMA application_id` says that the file is ours at all.
//! It never goes back: a file of a newer sauti is refused (`daemon/decisions/0003-ledger-migrations.md`).

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::error::StoreError;

/// `saut` in ASCII: tells our file from any other SQLite database.
pub(crate) const APPLICATION_ID: i64 = 0x7361_7574;

/// The steps, the first one leading from version 0 to version 1.
const STEPS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_calls.sql"),
    include_str!("../../../migrations/sqlite/0002_quality.sql"),
    include_str!("../../../migrations/sqlite/0003_summaries.sql"),
    include_str!("../../../migrations/sqlite/0004_sip.sql"),
];

/// The version that [`STEPS`] lead to.
pub(crate) fn known_version() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Looks at a file without changing it: whether it is ours, and its version; 0 for an empty file.
pub(crate) fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let ask = |pragma: &str| {
        connection
            .query_row(pragma, [], |row| row.get::<_, i64>(0))
            .map_err(|error| StoreError::sqlite(path, "read the schema version", &error))
    };
    let version = ask("PRAGMA user_version")?;
    let tables = ask("SELECT count(*) FROM sqlite_schema")?;
    if (tables > 0 || version != 0) && ask("PRAGMA application_id")? != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if version > known_version() {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: known_version() });
    }
    Ok(version)
}

/// Does the steps that the file has not seen; returns the version it had.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<i64, StoreError> {
    steps(connection, path, STEPS)
}

fn steps(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<i64, StoreError> {
    let from = version(connection, path)?;
    for (step, to) in steps.iter().zip(1_i64..).skip_while(|(_, to)| *to <= from) {
        let done = (|| {
            let step_taken = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            step_taken.execute_batch(step)?;
            step_taken.pragma_update(None, "application_id", APPLICATION_ID)?;
            step_taken.pragma_update(None, "user_version", to)?;
            step_taken.commit()
        })();
        done.map_err(|error| StoreError::sqlite(path, "upgrade its schema", &error))?;
    }
    Ok(from)
}

#[cfg(test)]
mod tests {
    use sauti_core::call::outcome::{Door, Fault, Outcome};
    use sauti_core::config::Language;
    use sauti_core::record::{Direction, Speaker, TextState};

    use super::*;

    fn memory() -> Connection {
        Connection::open_in_memory().unwrap()
    }

    fn here() -> &'static Path {
        Path::new("ledger.db")
    }

    /// The words of `CHECK (column IN (...))` in the definition of `table`.
    fn checked_words(connection: &Connection, table: &str, column: &str) -> Vec<String> {
        let sql: String =
            connection.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [table], |row| row.get(0)).unwrap();
        let list = sql.split_once(&format!("CHECK ({column} IN (")).unwrap().1.split_once("))").unwrap().0;
        list.split(", ").map(|word| word.trim_matches('\'').to_owned()).collect()
    }

    #[test]
    fn an_empty_file_comes_to_the_known_version_and_a_second_run_changes_nothing() {
        let mut connection = memory();
        assert_eq!(migrate(&mut connection, here()).unwrap(), 0);
        assert_eq!(version(&connection, here()).unwrap(), known_version());
        assert_eq!(migrate(&mut connection, here()).unwrap(), known_version());
    }

    #[test]
    fn a_newer_file_is_refused_with_both_versions_and_a_remedy() {
        let mut connection = memory();
        migrate(&mut connection, here()).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut connection, here()).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }));
        let text = error.to_string();
        assert!(text.contains("ledger.db") && text.contains("99") && text.contains("install"), "{text}");
    }

    #[test]
    fn another_programs_database_is_refused_and_left_as_it_is() {
        let mut connection = memory();
        connection.execute_batch("CREATE TABLE things (x)").unwrap();
        assert!(matches!(migrate(&mut connection, here()), Err(StoreError::Foreign { .. })));
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }

    #[test]
    fn a_step_that_breaks_leaves_the_version_before_it() {
        let mut connection = memory();
        let broken = [STEPS[0], "CREATE TABLE half (x) STRICT; CREATE TABLE voice_calls (x)"];
        assert!(steps(&mut connection, here(), &broken).is_err());
        assert_eq!(version(&connection, here()).unwrap(), 1);
        assert!(connection.query_row("SELECT 1 FROM half", [], |_| Ok(())).is_err());
    }

    #[test]
    fn the_words_in_the_schema_are_those_of_the_program() {
        let mut connection = memory();
        migrate(&mut connection, here()).unwrap();
        let same = |table: &str, column: &str, labels: Vec<&str>| {
            assert_eq!(checked_words(&connection, table, column), labels, "{table}.{column}");
        };
        same("voice_calls", "door", Door::ALL.iter().map(|value| value.label()).collect());
        same("voice_calls", "direction", Direction::ALL.iter().map(|value| value.label()).collect());
        same("voice_calls", "language", Language::ALL.iter().map(|value| value.code()).collect());
        same("voice_calls", "outcome", Outcome::ALL.iter().map(|value| value.label()).collect());
        same("voice_calls", "fault", Fault::ALL.iter().map(|value| value.label()).collect());
        same("voice_calls", "text_state", TextState::ALL.iter().map(|value| value.label()).collect());
        same("transcripts", "speaker", Speaker::ALL.iter().map(|value| value.label()).collect());
    }

    #[test]
    fn every_table_is_strict() {
        let mut connection = memory();
        migrate(&mut connection, here()).unwrap();
        let loose: i64 = connection
            .query_row(
                "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND strict = 0 AND name NOT LIKE 'sqlite_%'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(loose, 0);
    }
}
