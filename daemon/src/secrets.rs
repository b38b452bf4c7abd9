//! Where secrets come from: systemd credentials first, the environment second, the state folder for `box_key`.
//!
//! A secret leaves this module trimmed, goes straight into a type that never prints, and is never logged. Which
//! secrets a box needs is decided by the configuration check, which is handed [`Secrets::get`].

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use sauti_core::pii::BoxKey;

/// Longest credential that is read; the longest we know of are tokens of some hundred bytes.
const LONGEST: u64 = 64 * 1024;

/// How a variable is looked up.
type Variables = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// The two places of secrets, as this process was started with them.
pub struct Secrets {
    directory: Option<PathBuf>,
    environment: Variables,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Secrets {
    /// The places that this process's environment names.
    #[must_use]
    pub fn of_this_process() -> Self {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from);
        Self::new(directory, |name| std::env::var_os(name))
    }

    /// The places that are given: a folder with a file for each secret, and a look-up of variables.
    #[must_use]
    pub fn new(
        directory: Option<PathBuf>,
        environment: impl Fn(&str) -> Option<OsString> + Send + Sync + 'static,
    ) -> Self {
        Self { directory, environment: Box::new(environment) }
    }

    /// A secret by its name, without the white space around it: the credential `name`, else `SAUTI_NAME`.
    ///
    /// `None` when it is given nowhere, empty, or cannot be read (then [`Secrets::unreadable`] says so). What is no
    /// UTF-8 comes with replacement characters, which the configuration check refuses.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let credential = self.credential(name).and_then(Result::ok);
        let bytes = credential.or_else(|| {
            use std::os::unix::ffi::OsStringExt as _;
            (self.environment)(&format!("SAUTI_{}", name.to_ascii_uppercase())).map(OsString::into_vec)
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Those of `names` whose credential is there and cannot be read, with the reason.
    pub fn unreadable<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<(&'n str, io::Error)> {
        let failed = |name| self.credential(name).and_then(Result::err).map(|error| (name, error));
        names.into_iter().filter_map(failed).collect()
    }

    fn credential(&self, name: &str) -> Option<io::Result<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(self.directory.as_ref()?.join(name)) {
            Ok(file) => Some(file.take(LONGEST).read_to_end(&mut bytes).map(|_| bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Switches core dumps of this process off, since a dump would hold every secret; the unit file does the same.
pub fn keep_out_of_core_dumps() {
    use nix::sys::resource::{Resource, setrlimit};
    // lowering a limit of one's own is always allowed; should it fail, the dump's other guards still stand
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap_or(());
}

/// Why there is no `box_key`.
#[derive(Debug, thiserror::Error)]
pub enum BoxKeyError {
    /// It was given and is no key.
    #[error("{place}: has the wrong length (its value is not shown); write 32 bytes as 64 hex digits or in base64")]
    WrongLength {
        /// The secret's name or the file.
        place: String,
    },
    /// Others could read it.
    #[error("{}: can be read by others (mode {mode:o}); chmod 600 it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file cannot be read or made.
    #[error("{}: {source}; give the secret box_key, or let the daemon's user write here", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system has no randomness to give.
    #[error("box_key: the system gave no random bytes; give the secret box_key")]
    NoRandomness,
}

/// The key that seals and hashes on this box: the secret `box_key`, else the file of that name in `state`, which is
/// made at the first start (mode 0600, complete or not there at all).
///
/// # Errors
///
/// When the key has the wrong length, lies open to others, or can neither be read nor made. It is never replaced:
/// rows sealed with the old one could not be opened again.
pub fn box_key(secrets: &Secrets, state: &Path) -> Result<BoxKey, BoxKeyError> {
    if let Some(text) = secrets.get("box_key") {
        return decode(&text).ok_or_else(|| BoxKeyError::WrongLength { place: "box_key".to_owned() });
    }
    let path = state.join("box_key");
    if !path.exists() {
        make(state, &path)?;
    }
    let failed = |source| BoxKeyError::File { path: path.clone(), source };
    let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(BoxKeyError::Exposed { path, mode });
    }
    let text = fs::read_to_string(&path).map_err(failed)?;
    decode(text.trim()).ok_or_else(|| BoxKeyError::WrongLength { place: path.display().to_string() })
}

fn decode(text: &str) -> Option<BoxKey> {
    let bytes = hex::decode(text).or_else(|_| STANDARD.decode(text)).ok()?;
    Some(BoxKey::new(<[u8; 32]>::try_from(bytes).ok()?))
}

/// Writes a fresh key beside its place and links it there: a crash leaves no half of a key, and whoever comes second
/// finds the first one's.
fn make(state: &Path, path: &Path) -> Result<(), BoxKeyError> {
    let mut key = [0_u8; 32];
    SystemRandom::new().fill(&mut key).map_err(|_| BoxKeyError::NoRandomness)?;
    let draft = state.join(format!(".box_key.{}", std::process::id()));
    let written = write_private(&draft, &hex::encode(key)).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = fs::remove_file(&draft);
    written
        .and(removed)
        .and_then(|()| File::open(state)?.sync_all())
        .map_err(|source| BoxKeyError::File { path: path.to_owned(), source })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Secrets {
        Secrets::new(None, |_| None)
    }

    #[test]
    fn a_credential_wins_over_the_environment_and_both_are_trimmed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("openai_api_key"), "canary-openai-key\n").unwrap();
        fs::write(folder.path().join("admin_token"), "  \n").unwrap();
        let secrets = Secrets::new(Some(folder.path().to_owned()), |name| match name {
            "SAUTI_OPENAI_API_KEY" => Some("another".into()),
            "SAUTI_WHATSAPP_ACCESS_TOKEN" => Some(" canary-whatsapp-token\r\n".into()),
            _ => None,
        });
        assert_eq!(secrets.get("openai_api_key").as_deref(), Some("canary-openai-key"));
        assert_eq!(secrets.get("whatsapp_access_token").as_deref(), Some("canary-whatsapp-token"));
        assert_eq!(secrets.get("admin_token"), None, "an empty file is no secret");
        assert_eq!(secrets.get("carrier_token"), None);
        assert!(!format!("{secrets:?}").contains("canary"));
    }

    #[test]
    fn a_credential_that_cannot_be_read_is_told_apart_from_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("admin_token")).unwrap();
        let secrets = Secrets::new(Some(folder.path().to_owned()), |_| None);
        let unreadable = secrets.unreadable(["admin_token", "carrier_token"]);
        assert_eq!(unreadable.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["admin_token"]);
        assert_eq!(secrets.get("admin_token"), None);
    }

    #[test]
    fn the_box_key_is_made_once_privately_and_stays() {
        let state = tempfile::tempdir().unwrap();
        let first = box_key(&nothing(), state.path()).unwrap();
        let second = box_key(&nothing(), state.path()).unwrap();
        assert_eq!(first.expose(), second.expose());
        let mode = fs::metadata(state.path().join("box_key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "no draft stays behind");
        let other = tempfile::tempdir().unwrap();
        assert_ne!(box_key(&nothing(), other.path()).unwrap().expose(), first.expose());
    }

    #[test]
    fn a_given_box_key_may_be_hex_or_base64_and_must_be_32_bytes() {
        let state = Path::new("/nowhere");
        let given = |text: &'static str| box_key(&Secrets::new(None, |_| Some(text.into())), state);
        let hex = given("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff").unwrap();
        let base64 = given("ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=").unwrap();
        assert_eq!(hex.expose(), base64.expose());
        for wrong in ["0011", "canary-key", "AAAA"] {
            let error = given(wrong).unwrap_err().to_string();
            assert!(error.contains("wrong length") && !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_box_key_that_is_short_or_open_to_others_is_refused_and_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("box_key");
        write_private(&path, "").unwrap();
        assert!(matches!(box_key(&nothing(), state.path()), Err(BoxKeyError::WrongLength { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = box_key(&nothing(), state.path()).unwrap_err().to_string();
        assert!(error.contains("mode 644") && error.contains("chmod 600"), "{error}");
        assert!(matches!(box_key(&nothing(), Path::new("/nowhere")), Err(BoxKeyError::File { .. })));
    }
}
