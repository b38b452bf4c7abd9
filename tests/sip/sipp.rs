//! SIPp (Debian's `sip-tester`) calls, over UDP and TCP.

use std::process::Stdio;
use std::time::Duration;

use sauti_core::config::Transport;
use tokio::process::Command;

use super::bench::{Bench, LOOPBACK, answer_all, tally};

async fn calls(transport: Transport, flag: &str, count: usize) {
    let Bench { sip, calls, .. } = Bench::start(LOOPBACK).await;
    let mut endings = answer_all(calls);
    let folder = tempfile::tempdir().unwrap();
    let far = sip.address(transport).unwrap();
    let mut sipp = Command::new("sipp");
    sipp.args([
        "-max_socket",
        "1000",
        "-sn",
        "uac",
        "-s",
        "service",
        "-i",
        "127.0.0.1",
        "-mi",
        "127.0.0.1",
        "-nostdin",
        "-trace_err",
        "-d",
        "200",
        "-r",
        "50",
    ]);
    sipp.args(["-m", &count.to_string(), "-t", flag, &far.to_string()]);
    sipp.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), sipp.output()).await.unwrap();
    let output = output.expect("sipp is installed by `.ci/setup tests`");
    let logs =
        std::fs::read_dir(folder.path()).unwrap().filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{flag}: {screen}\n{}", logs.collect::<String>());
    let mut ended = Vec::new();
    while ended.len() < count {
        ended.push(tokio::time::timeout(Duration::from_secs(5), endings.recv()).await.unwrap().unwrap());
    }
    assert_eq!(tally(ended).get("bye"), Some(&count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_over_udp() {
    calls(Transport::Udp, "u1", 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_calls_over_one_tcp_connection_and_fifty_over_their_own() {
    calls(Transport::Tcp, "t1", 50).await;
    calls(Transport::Tcp, "tn", 50).await;
}
