//! kamailio (Debian) as the registrar and proxy of a carrier: it wants a digest, keeps registrations, and routes calls.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// A carrier: users `kigali-edge` and `other` with the canary as their password.
const SCRIPT: &str = r#"
debug=1
log_stderror=no
fork=no
children=2
auto_aliases=no
listen=udp:127.0.0.1:PORT
listen=tcp:127.0.0.1:PORT
loadmodule "sl.so"
loadmodule "tm.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "siputils.so"
modparam("usrloc", "db_mode", 0)
modparam("registrar", "max_expires", EXPIRES)
modparam("registrar", "min_expires", 1)
modparam("auth", "algorithm", "ALGORITHM")
request_route {
    if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
    if (is_method("OPTIONS") && uri == myself) { sl_send_reply("200", "OK"); exit; }
    if (is_method("REGISTER")) {
        if (!pv_auth_check("127.0.0.1", "canary-trunk-password", "0", "0")) { auth_challenge("127.0.0.1", "1"); exit; }
        save("location");
        exit;
    }
    if (has_totag()) {
        if (loose_route()) { t_relay(); exit; }
        if (is_method("ACK")) { if (t_check_trans()) { t_relay(); } exit; }
        sl_send_reply("404", "Not Here");
        exit;
    }
    if (is_method("CANCEL")) { if (t_check_trans()) { t_relay(); } exit; }
    t_check_trans();
    if (is_method("INVITE")) {
        if (!pv_proxy_authenticate("127.0.0.1", "canary-trunk-password", "0")) { proxy_challenge("127.0.0.1", "1"); exit; }
        consume_credentials();
        record_route();
        $rU = $(rU{re.subst,/^\+//});
        if ($rU == "35690000002") { $rU = "kigali-edge"; }
        if (!lookup("location")) { sl_send_reply("404", "Not Found"); exit; }
        t_relay();
        exit;
    }
    sl_send_reply("405", "Method Not Allowed");
}
"#;

/// Ends with its workers: the first process ends them when it is asked to, not when it is killed.
pub(crate) struct Carrier {
    child: Child,
    /// UDP and TCP of 127.0.0.1.
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

impl Carrier {
    /// Starts it; `algorithm` is that of its challenges.
    pub(crate) async fn start(algorithm: &str) -> Self {
        Self::with_expiry(algorithm, 120).await
    }

    /// Starts one that grants registrations of so many seconds at most.
    pub(crate) async fn with_expiry(algorithm: &str, expires: u32) -> Self {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        Self::start_on(probe.expect("a free port").port(), algorithm, expires).await
    }

    /// The same on this port.
    pub(crate) async fn start_on(port: u16, algorithm: &str, expires: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("carrier.cfg");
        let text = SCRIPT.replace("PORT", &port.to_string()).replace("ALGORITHM", algorithm);
        let text = text.replace("EXPIRES", &expires.to_string());
        std::fs::write(&script, text).expect("its script can be written");
        let mut kamailio = Command::new("kamailio");
        kamailio.args(["-f", &script.display().to_string(), "-DD", "-E", "-m", "32", "-M", "4", "-Y"]);
        let log = std::fs::File::create(folder.path().join("log")).expect("its log can be written");
        kamailio.arg(folder.path()).stdout(Stdio::null()).stderr(log);
        let child = kamailio.spawn().expect("kamailio is installed by `.ci/setup tests`");
        let carrier = Self { child, port, folder };
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return carrier;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}", std::fs::read_to_string(carrier.folder.path().join("log")).unwrap_or_default());
    }

    /// Asks it to end.
    pub(crate) fn end(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).ok();
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.end();
    }
}
