//! Disturbances, expiry, and how a connection ends.

use std::time::Duration;

use serde_json::json;

use super::{
    super::{Fault, Out, Trouble, When},
    Rig, quiet, settings,
};

fn troubled(when: When, trouble: Trouble) -> Rig {
    let mut settings = settings();
    settings.faults = vec![Fault { when, trouble }];
    Rig::new(settings)
}

#[test]
fn a_session_expires_with_an_error_and_1001() {
    let mut settings = settings();
    settings.session_limit = Duration::from_secs(60);
    let mut rig = Rig::new(settings);
    rig.run_ms(59_999);
    assert!(rig.all("error").is_empty());
    rig.run_ms(1);
    assert_eq!(rig.error_code(), "session_expired");
    let reason = "Your session hit the maximum duration of 60 minutes.".to_owned();
    assert_eq!(rig.ends, [Out::Close { code: 1_001, reason }]);
    rig.forget();
    rig.create();
    rig.run_ms(10_000);
    assert!(rig.texts.is_empty() && rig.server.deadline().is_none(), "nothing comes after the end");
}

#[test]
fn frames_that_no_client_knows_come_where_planned() {
    let after = Duration::from_secs(1);
    let mut rig = troubled(When::AfterOpen(after), Trouble::UnknownEvent);
    rig.run_ms(1_000);
    assert_eq!(rig.all("response.mood.updated").len(), 1);

    let mut rig = troubled(When::AfterOpen(after), Trouble::Huge(2 << 20));
    rig.run_ms(1_000);
    assert!(rig.texts.last().unwrap().len() > 2 << 20);

    let mut rig = troubled(When::AtResponse(0), Trouble::Garbage);
    rig.create();
    assert!(serde_json::from_str::<serde_json::Value>(rig.texts.last().unwrap()).is_err());

    let mut rig = troubled(When::AtDelta(2), Trouble::OrphanDelta);
    rig.create();
    rig.run_ms(2_000);
    let own = rig.last("response.done")["response"]["id"].clone();
    let orphans = rig.all("response.output_audio.delta").into_iter().filter(|delta| delta["response_id"] != own);
    assert_eq!(orphans.count(), 1);
}

#[test]
fn events_can_be_doubled_and_swapped() {
    let mut rig = troubled(When::AtDelta(1), Trouble::Duplicate);
    rig.create();
    rig.run_ms(2_000);
    let doubled = rig.texts.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert_eq!(doubled, 1);

    let mut rig = troubled(When::AtResponse(0), Trouble::Swap);
    rig.create();
    rig.run_ms(2_000);
    let kinds = rig.kinds();
    let at = |kind: &str| kinds.iter().position(|found| *found == kind).unwrap();
    assert!(at("conversation.item.added") < at("response.output_item.added"));
    assert_eq!(rig.all("response.output_item.added").len(), 1, "swapped, not lost");
}

#[test]
fn an_account_error_can_be_announced() {
    let quota = Trouble::Error {
        kind: "insufficient_quota".into(),
        code: Some("insufficient_quota".into()),
        message: "You exceeded your current quota.".into(),
    };
    let mut rig = troubled(When::AtResponse(0), quota);
    rig.create();
    assert_eq!(rig.last("error")["error"]["type"], "insufficient_quota");
}

#[test]
fn connections_end_in_every_way() {
    let close = Trouble::Close { code: 1_011, reason: "internal error".into() };
    let ends = [
        (close, Out::Close { code: 1_011, reason: "internal error".into() }),
        (Trouble::Abort, Out::Abort),
        (Trouble::HalfOpen, Out::HalfOpen),
    ];
    for (trouble, end) in ends {
        let mut rig = troubled(When::AtDelta(0), trouble);
        rig.create();
        rig.run_ms(10_000);
        assert_eq!(rig.ends, [end]);
        rig.forget();
        rig.create();
        rig.run_ms(10_000);
        assert!(rig.texts.is_empty());
    }
}

#[test]
fn a_stall_holds_everything_back_and_then_lets_it_out_at_once() {
    let mut rig = troubled(When::AfterOpen(Duration::from_millis(500)), Trouble::Stall(Duration::from_secs(3)));
    rig.run_ms(600);
    rig.forget();
    rig.create();
    rig.say(&quiet(1_000));
    assert!(rig.texts.is_empty());
    rig.send(json!({"type": "response.cancel"}));
    rig.run_ms(1_890);
    assert!(rig.texts.is_empty());
    rig.run_ms(20);
    assert_eq!(rig.all("response.created").len(), 1);
    assert_eq!(rig.last("response.done")["response"]["status"], "cancelled");
    assert_eq!(rig.server.record().appends.len(), 50, "appends of the stall are not lost");
    assert!(rig.server.record().client_faults.is_empty(), "{:?}", rig.server.record().client_faults);
}

#[test]
fn a_late_or_early_wakeup_changes_nothing() {
    let mut rig = Rig::new(settings());
    let mut out = Vec::new();
    rig.server.handle_timeout(rig.now, &mut out);
    assert!(out.is_empty());
    rig.create();
    let late = rig.now + Duration::from_secs(5);
    rig.server.handle_timeout(late, &mut out);
    assert!(matches!(out.last(), Some(Out::Text(text)) if text.contains("rate_limits.updated")));
}

#[test]
fn extra_keys_appear_when_asked_for() {
    let mut extra = settings();
    extra.extra_keys = true;
    let mut rig = Rig::new(extra);
    rig.create();
    rig.run_ms(1_000);
    assert!(rig.last("response.output_audio.delta").get("obfuscation").is_some());
    assert!(rig.last("response.output_audio_transcript.delta").get("obfuscation").is_some());
}
