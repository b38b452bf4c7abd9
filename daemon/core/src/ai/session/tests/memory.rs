//! What a conversation holds in memory, by the minute.

use allocation_counter::measure;

use super::*;

/// Ten turns of a minute: the caller's words, an answer of four seconds, every third one interrupted.
fn minute(scene: &mut Scene, minute: usize) {
    for turn in 0..10 {
        // Ids of one length, as the server's are.
        let id = |what: &str| format!("{what}_{:08}", minute * 10 + turn);
        let (heard, response, item) = (id("said"), id("resp"), id("item"));
        scene.speech(&heard);
        scene.pass(1_000);
        scene.committed(&heard);
        scene.event(json!({"type": "conversation.item.input_audio_transcription.completed", "item_id": heard,
            "content_index": 0, "transcript": "I need a ride to the airport."}));
        scene.created(&response);
        for _ in 0..10 {
            scene.audio(&response, &item, 0, 400);
        }
        scene.words(&response, &item, "Of course, at what time shall the car be there?");
        scene.event(json!({"type": "response.output_item.done", "response_id": response, "output_index": 0,
            "item": {"id": item, "type": "message", "status": "completed"}}));
        scene.done(&response, "completed");
        scene.hear(if turn % 3 == 2 { 1_500 } else { 5_000 });
        scene.out.clear();
    }
}

/// Field bug 52: memory that grows by the minute of talk is not seen by a test that counts calls.
#[test]
fn an_hour_of_talk_holds_no_more_than_its_tenth_minute() {
    let mut scene = Scene::ready();
    // What is kept for a new connection is full by then.
    (0..10).for_each(|number| minute(&mut scene, number));
    let rest = measure(|| (10..60).for_each(|number| minute(&mut scene, number)));
    assert!(rest.count_total > 10_000, "fifty minutes did happen: {rest:?}");
    assert!(rest.bytes_current <= 2_048, "{} bytes more after 50 minutes", rest.bytes_current);
    assert!(rest.bytes_max < 1_000_000, "{} bytes at one time", rest.bytes_max);
    assert!(scene.playout.is_drained() || scene.playout.remaining_ms() < 4_000);
}
