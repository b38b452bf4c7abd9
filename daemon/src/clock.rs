//! Whether the wall clock of this box may be believed.
//!
//! A box without a battery clock wakes up in the past; judging the age of a call by it would refuse everybody.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

/// Present while systemd-timesyncd runs; the file in it appears with the first synchronisation.
const TIMESYNC: &str = "/run/systemd/timesync";
/// How often an unsynchronised clock is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// No clock that is right shows a time before this program was written: 2026-11-01.
const WRITTEN: i64 = 1_793_491_200;

fn synchronised(now: Timestamp, timesync: &Path) -> bool {
    if now.as_second() < WRITTEN {
        return false;
    }
    // Without timesyncd another service (chrony, a hypervisor) keeps the time, or nobody does: it is believed.
    !timesync.is_dir() || timesync.join("synchronized").exists()
}

/// Watches until the clock is synchronised; from then on it stays believed.
pub fn watch_synchronised() -> watch::Receiver<bool> {
    let look = || synchronised(Timestamp::now(), Path::new(TIMESYNC));
    let (sender, receiver) = watch::channel(look());
    tokio::spawn(async move {
        while !look() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        sender.send_replace(true);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_from_before_this_program_is_not_believed() {
        let nowhere = Path::new("/nonexistent");
        assert!(!synchronised(Timestamp::UNIX_EPOCH, nowhere));
        assert!(synchronised(Timestamp::from_second(WRITTEN + 1).unwrap(), nowhere));
    }

    #[test]
    fn timesyncd_has_to_say_that_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(WRITTEN + 1).unwrap();
        assert!(!synchronised(now, folder.path()));
        std::fs::write(folder.path().join("synchronized"), "").unwrap();
        assert!(synchronised(now, folder.path()));
    }
}
