//! Networks of our own: namespaces joined by cables, so that nothing of this machine's network is in the way or
//! touched. Addresses exist inside of them only.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::outside;

/// Where `ip netns` keeps them.
const FOLDER: &str = "/var/run/netns";
const PREFIX: &str = "sauti-interop";

/// One machine's network; gone when this is dropped.
pub(crate) struct Namespace {
    name: String,
}

/// Runs `ip` or `iptables` and returns what it complained about.
fn configure(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments}: {complaint}")) }
}

/// Deletes what test processes that were killed left behind.
fn sweep() {
    let Ok(names) = std::fs::read_dir(FOLDER) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            configure("ip", &format!("netns delete {name}")).ok();
        }
    }
}

impl Namespace {
    /// A network with nothing but its loopback; `None` where we may not make one, which is a skip.
    pub(crate) fn new(role: &str) -> Option<Self> {
        sweep();
        let name = format!("{PREFIX}-{}-{role}", std::process::id());
        if let Err(complaint) = configure("ip", &format!("netns add {name}")) {
            outside::missing("calls through a network namespace", &complaint);
            return None;
        }
        let namespace = Self { name };
        namespace.ip("link set lo up");
        Some(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` inside of it.
    pub(crate) fn ip(&self, arguments: &str) {
        configure("ip", &format!("-n {} {arguments}", self.name)).expect("ip does it");
    }

    /// A program that has to end well, inside of it.
    pub(crate) fn run(&self, command: &str) {
        configure("ip", &format!("netns exec {} {command}", self.name)).expect("it can be done");
    }

    /// A cable to another one; each end gets its address in a net of 30 bits.
    pub(crate) fn cable(&self, address: Ipv4Addr, other: &Self, other_address: Ipv4Addr) {
        let [_, _, net, _] = address.octets();
        let (near, far) = (format!("v{net}a"), format!("v{net}b"));
        self.ip(&format!("link add {near} type veth peer name {far} netns {}", other.name));
        for (side, name, address) in [(self, &near, address), (other, &far, other_address)] {
            side.ip(&format!("address add {address}/30 dev {name}"));
            side.ip(&format!("link set {name} up"));
        }
    }

    /// Does something on a thread inside of it: sockets and processes that it makes belong here for good.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = File::open(Path::new(FOLDER).join(&self.name)).expect("the namespace is there");
        let act = move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("it can be entered");
            act()
        };
        std::thread::scope(|scope| match scope.spawn(act).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// The same for what has to wait.
    pub(crate) fn block_on<T: Send>(&self, act: impl AsyncFnOnce() -> T + Send) -> T {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(act())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        configure("ip", &format!("netns delete {}", self.name)).ok();
    }
}
