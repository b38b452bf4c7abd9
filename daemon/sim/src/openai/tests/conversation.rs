//! Items: created, retrieved, truncated, deleted by the client.

use serde_json::{Value, json};

use super::{super::ClientFaultKind, Rig, settings};

fn text(id: &str) -> Value {
    json!({"id": id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]})
}

fn greeted() -> (Rig, Value) {
    let mut rig = Rig::new(settings());
    rig.create();
    rig.run_ms(2_000);
    let item = rig.last("response.done")["response"]["output"][0]["id"].clone();
    (rig, item)
}

#[test]
fn created_items_are_announced_with_their_neighbour() {
    let mut rig = Rig::new(settings());
    rig.send(json!({"type": "conversation.item.create", "item": text("b")}));
    rig.send(json!({"type": "conversation.item.create", "item": text("a"), "previous_item_id": "root"}));
    rig.send(json!({"type": "conversation.item.create", "item": text("ab"), "previous_item_id": "a"}));
    let added: Vec<Value> = rig.all("conversation.item.added").iter().map(|e| e["previous_item_id"].clone()).collect();
    assert_eq!(added, [Value::Null, Value::Null, json!("a")]);
    assert_eq!(rig.all("conversation.item.done").len(), 3);
    assert_eq!(rig.last("conversation.item.done")["item"]["status"], "completed");
}

#[test]
fn items_that_cannot_be_are_refused() {
    let mut rig = Rig::new(settings());
    rig.send(json!({"type": "conversation.item.create", "item": text("a")}));
    let mut code = |item: Value, previous: Option<&str>| {
        rig.send(json!({"type": "conversation.item.create", "item": item, "previous_item_id": previous}));
        let error = &rig.last("error")["error"];
        (error["code"].as_str().unwrap().to_owned(), error["param"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(code(text("a"), None).0, "item_create_duplicate_item_id");
    assert_eq!(code(text("b"), Some("nowhere")).1, "previous_item_id");
    assert_eq!(code(text(&"x".repeat(33)), None).1, "item.id");
    let spoken =
        json!({"type": "message", "role": "assistant", "content": [{"type": "output_audio", "audio": "AAAA"}]});
    assert_eq!(code(spoken, None).1, "item.content[0].type", "assistant audio cannot be put in");
    assert_eq!(code(json!({"type": "item_reference", "id": "a"}), None).1, "item.type");
    let extra = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x", "y": 1}]});
    assert_eq!(code(extra, None), ("unknown_parameter".into(), "item.content[0].y".into()));
    assert_eq!(code(json!({"type": "message", "content": []}), None).1, "item.role");
}

#[test]
fn truncating_beyond_the_audio_is_refused_in_the_services_words() {
    let (mut rig, item) = greeted();
    rig.send(json!({"type": "conversation.item.truncate", "event_id": "t", "item_id": item, "content_index": 0,
        "audio_end_ms": 1_685}));
    let error = rig.last("error")["error"].clone();
    assert_eq!(error["code"], "invalid_value");
    assert_eq!(error["message"], "Audio content of 1600ms is already shorter than 1685ms");
    assert_eq!((&error["param"], &error["event_id"]), (&Value::Null, &json!("t")));
    assert_eq!(rig.server.record().count(ClientFaultKind::TruncateBeyondReceived), 1);
    assert!(rig.all("conversation.item.truncated").is_empty());
}

#[test]
fn a_biased_clock_refuses_what_the_client_counted_exactly() {
    let mut biased = settings();
    biased.truncate_bias = std::time::Duration::from_millis(85);
    let mut rig = Rig::new(biased);
    rig.create();
    rig.run_ms(2_000);
    let item = rig.last("response.done")["response"]["output"][0]["id"].clone();
    rig.send(json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": 1_600}));
    let message = rig.last("error")["error"]["message"].as_str().unwrap();
    assert_eq!(message, "Audio content of 1515ms is already shorter than 1600ms");
}

#[test]
fn an_item_can_be_truncated_only_to_what_was_sent_while_it_is_being_spoken() {
    let mut slow = settings();
    slow.burst.speed_percent = 100;
    let mut rig = Rig::new(slow);
    rig.create();
    rig.run_ms(500);
    let item = rig.last("conversation.item.added")["item"]["id"].clone();
    let truncate = |ms: u64| json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": ms});
    rig.send(truncate(1_500));
    assert_eq!(rig.error_code(), "invalid_value");
    rig.send(truncate(300));
    assert_eq!(rig.all("conversation.item.truncated").len(), 1);
}

#[test]
fn unknown_items_have_an_error_each() {
    let mut rig = Rig::new(settings());
    let mut code = |event: Value| {
        rig.send(event);
        rig.error_code().to_owned()
    };
    let truncate = json!({"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 0});
    assert_eq!(code(truncate), "item_truncate_invalid_item_id");
    assert_eq!(code(json!({"type": "conversation.item.delete", "item_id": "x"})), "item_delete_invalid_item_id");
    assert_eq!(code(json!({"type": "conversation.item.retrieve", "item_id": "x"})), "item_retrieve_invalid_item_id");
    assert_eq!(rig.server.record().count(ClientFaultKind::UnknownItem), 3);
}

#[test]
fn a_deleted_item_is_gone_and_recorded_as_such() {
    let (mut rig, item) = greeted();
    rig.send(json!({"type": "conversation.item.delete", "item_id": item}));
    assert_eq!(rig.last("conversation.item.deleted")["item_id"], item);
    assert!(rig.server.record().spoken[0].deleted);
    rig.send(json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": 10}));
    assert_eq!(rig.error_code(), "item_truncate_invalid_item_id");
}

#[test]
fn references_are_legal_in_a_responses_input_only_and_must_exist() {
    let (mut rig, item) = greeted();
    let ask = |reference: &Value| {
        json!({"type": "response.create", "response": {"conversation": "none", "output_modalities": ["text"],
            "input": [{"type": "item_reference", "id": reference}]}})
    };
    rig.send(ask(&item));
    rig.run_ms(500);
    assert_eq!(rig.all("response.done").len(), 2);
    rig.send(ask(&json!("nowhere")));
    assert_eq!(rig.last("error")["error"]["param"], "response.input[0].id");
}

#[test]
fn typed_text_is_answered_when_a_response_is_asked_for() {
    let (mut rig, _) = greeted();
    rig.send(json!({"type": "conversation.item.create", "item": text("t1")}));
    assert_eq!(rig.all("response.created").len(), 1);
    rig.send(json!({"type": "response.create", "response": {"output_modalities": ["text"]}}));
    rig.run_ms(1_000);
    let content = &rig.last("response.done")["response"]["output"][0]["content"][0];
    assert_eq!(content, &json!({"type": "output_text", "text": "this is answer number 1 of the script"}));
}

#[test]
fn the_output_buffer_belongs_to_other_transports() {
    let mut rig = Rig::new(settings());
    rig.send(json!({"type": "output_audio_buffer.clear"}));
    assert_eq!(rig.error_code(), "invalid_event");
}
