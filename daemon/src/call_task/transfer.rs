//! Handing the caller to a person: performs what [`sauti_core::call::transfer`] decides, and joins the two legs.
//!
//! The person's leg belongs to the call's task like the caller's: frames go from one leg's ring to the other's, at each
//! tick, in the format that the caller's leg has for the whole call. It decides nothing about the call: the end of a
//! transfer is an input of its machine like any other.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use sauti_core::ai::session;
use sauti_core::call::clip::ClipName;
use sauti_core::call::machine::Input as CallInput;
use sauti_core::call::outcome::{Door, Fault};
use sauti_core::call::transfer::{self, Asked, Effect, Input, Miss, Way};
use sauti_core::ids::CallId;
use sauti_core::media::frame::{AudioFormat, Frame};
use sauti_core::pii::Pii;
use tokio::sync::mpsc;

use super::dialog::Side;
use super::{CLOSE_WITHIN, CallTask, Done};
use crate::door::{FarSide, is_whatsapp};
use crate::house::{HandOn, House};
use crate::lanes::{CallerLink, DOWN_TARGET, LaneEvent, LegReport, LinkNews, RtpLegSettings, TaskEnd};
use crate::obs::logging::{EventName, Field, LogValue};
use crate::sip::{Dialog, DialogError, DialogEvent, DialogEvents, Place, Reply};

/// Frames that wait for the other leg at most: 160 ms. What is beyond them would stay as delay.
const RELAY_MOST: usize = 8;
/// Silence before the first frame, and before the next one where a leg had run dry: a task that is late by three frames is not
/// heard.
const RELAY_CUSHION: usize = 3;

/// Keys that wait to go by INFO: more than anybody presses while one is answered.
const KEYS: usize = 32;

/// The person's leg in the ledger; the caller's is 0.
const PERSON: u8 = 1;

/// The caller is being handed on, or has been.
pub(super) struct Transfer {
    machine: transfer::Transfer,
    way: Way,
    music: Option<Music>,
    person: Option<Box<Person>>,
}

/// What the caller hears meanwhile, and how far it is.
struct Music {
    samples: Arc<[i16]>,
    at: usize,
}

/// The leg to the person.
pub(super) struct Person {
    dialog: Dialog,
    events: Option<DialogEvents>,
    leg: CallerLink,
    /// Packets that had come when there were last more, and when that was.
    media: (u64, Instant),
    /// They put us on hold: silence is no fault.
    held: bool,
    /// Keys that go by INFO, one after the other: a later request that overtakes another one would be refused.
    keys: mpsc::Sender<char>,
}

/// Something came from the person's leg.
#[expect(clippy::large_enum_variant, reason = "it lives for one turn of the task's loop")]
pub(super) enum PersonNews {
    Leg(LinkNews),
    Dialog(Option<DialogEvent>),
}

/// Why there is no leg to the person.
#[derive(Debug, thiserror::Error)]
pub(super) enum PersonError {
    #[error("no leg: {0}")]
    Leg(#[from] crate::lanes::OpenError),
    #[error("no call: {0}")]
    Call(#[from] DialogError),
}

impl PersonError {
    const fn label(&self) -> &'static str {
        match self {
            Self::Leg(error) => error.label(),
            Self::Call(error) => error.label(),
        }
    }
}

impl Transfer {
    /// When its machine wants to be asked again.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.machine.deadline()
    }

    /// Whom to hang up on when the call is over.
    pub(super) fn into_dialog(self) -> Option<Dialog> {
        self.person.map(|person| person.dialog)
    }
}

/// Waits for something from the person's leg.
pub(super) async fn next_of_person(transfer: &mut Option<Transfer>) -> PersonNews {
    let Some(person) = transfer.as_mut().and_then(|transfer| transfer.person.as_deref_mut()) else {
        return std::future::pending().await;
    };
    let Person { events, leg, .. } = person;
    tokio::select! {
        news = leg.next() => PersonNews::Leg(news),
        event = super::next_of_dialog(events) => PersonNews::Dialog(event),
    }
}

/// Makes a leg and calls the person with it. The call is given up when the result is dropped.
async fn call_person(house: Arc<House>, to: HandOn, format: AudioFormat) -> Result<Person, PersonError> {
    let lanes = Arc::clone(&house.lanes);
    let settings = RtpLegSettings { frames: Some(format), ..to.media.as_ref().clone() };
    let opened = tokio::task::spawn_blocking(move || lanes.open_rtp(None, &settings)).await;
    let (leg, opened) = opened.map_err(|_| crate::lanes::OpenError::Bug)??;
    let sip = house.sip.get().ok_or(DialogError::Gone)?;
    let place =
        Place { trunk: Arc::from(to.to.trunk.as_str()), target: Pii::new(to.to.target), offer: opened.sdp, from: None };
    let (dialog, events) = sip.place(place).await?;
    let (keys, mut pressed) = mpsc::channel(KEYS);
    let presses = dialog.clone();
    tokio::spawn(async move {
        while let Some(key) = pressed.recv().await {
            // What is refused or lost is no reason to keep the next one back.
            presses.info_digit(key).await.ok();
        }
    });
    Ok(Person { dialog, events: Some(events), leg, media: (0, Instant::now()), held: false, keys })
}

/// Hangs up on the person, and leaves in the ledger what went by on her line.
pub(super) async fn let_go(house: &House, call: CallId, dialog: &Dialog) {
    // Whether the BYE was confirmed or not, the dialog is over.
    dialog.bye().await.ok();
    house.store.dialog(call, PERSON, None);
    house.write_messages(call, PERSON, dialog.messages());
}

/// Frames of one leg to the other.
fn pass(from: &mut TaskEnd, to: &mut TaskEnd, epoch: u32) {
    while let Some(frame) = from.up.dequeue() {
        if to.down.is_empty() {
            for _ in 0..RELAY_CUSHION {
                to.down.enqueue(Frame { epoch, firm: true, ..Frame::SILENCE }).ok();
            }
        }
        if to.down.len() < RELAY_MOST {
            // There is room, and nobody else puts frames in. Firm: who speaks over whom is theirs to judge.
            to.down.enqueue(Frame { epoch, firm: true, ..frame }).ok();
        }
    }
}

impl CallTask {
    /// The model hands the caller on.
    pub(super) fn begin_transfer(&mut self) {
        let Some(to) = self.house.transfer.clone() else { return };
        // A far end can only be asked for what lies on its own trunk, and WhatsApp not at all (whatsapp-calling §4).
        let same_trunk = matches!(
            &self.setup.far_side,
            FarSide::Sip { door: Door::Trunk, trunk, .. } if **trunk == *to.to.trunk
        );
        let way = if same_trunk { to.to.way } else { Way::Bridge };
        let mut effects = Vec::new();
        let machine = transfer::Transfer::start(Instant::now(), way, to.to.answer_within, &mut effects);
        self.transfer = Some(Transfer { machine, way, music: None, person: None });
        self.house.metrics.transfer("begun");
        self.transfer_event("begun", way.label());
        self.perform_transfer(effects);
    }

    /// The model wanted to, and may not.
    pub(super) fn refuse_transfer(&mut self) {
        self.house.metrics.transfer("refused");
        self.transfer_event("refused", "public_network");
    }

    fn transfer_event(&mut self, stage: &'static str, reason: &'static str) {
        let values: [(Field, LogValue); 2] = [(Field::Stage, stage.into()), (Field::Reason, reason.into())];
        self.event(EventName::CallTransfer, Timestamp::now(), &values);
    }

    pub(super) fn transfer_input(&mut self, input: Input) {
        let Some(transfer) = self.transfer.as_mut() else { return };
        let mut effects = Vec::new();
        transfer.machine.handle(Instant::now(), input, &mut effects);
        self.perform_transfer(effects);
    }

    fn perform_transfer(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.transfer_effect(effect);
        }
    }

    fn transfer_effect(&mut self, effect: Effect) {
        let Some(to) = self.house.transfer.clone() else { return };
        match effect {
            Effect::Music(plays) => self.play_apart(plays),
            Effect::Refer => self.ask_far_side(&to, None),
            Effect::CallPerson => {
                let (house, format) = (Arc::clone(&self.house), self.playout.format());
                // A task of its own: when the call ends meanwhile, what it has begun is ended as well.
                let calling = tokio::spawn(call_person(house, to, format));
                self.pending.push(Box::pin(async move {
                    Done::Person(Box::new(calling.await.unwrap_or(Err(PersonError::Call(DialogError::Gone)))))
                }));
            }
            Effect::Join => self.join(),
            Effect::ReferAttended => {
                let person = self.transfer.as_ref().and_then(|transfer| transfer.person.as_ref());
                let dialog = person.map(|person| person.dialog.clone());
                self.ask_far_side(&to, dialog);
            }
            Effect::LetPersonGo => {
                let person = self.transfer.as_mut().and_then(|transfer| transfer.person.take());
                self.let_person_go(person);
            }
            Effect::Back(miss) => self.have_back(miss),
            Effect::Done => {
                self.house.metrics.transfer("done");
                self.transfer_event("done", self.transfer.as_ref().map_or("", |transfer| transfer.way.label()));
                self.input(CallInput::Concluded(Fault::None));
            }
        }
    }

    fn let_person_go(&self, person: Option<Box<Person>>) {
        if let Some(person) = person {
            let (house, call) = (Arc::clone(&self.house), self.setup.call_id);
            tokio::spawn(async move { let_go(&house, call, &person.dialog).await });
        }
    }

    /// Asks the caller's far end to call the person, or to take our place in the call to her.
    fn ask_far_side(&mut self, to: &HandOn, other: Option<Dialog>) {
        let target = self.house.sip.get().and_then(|sip| sip.address_of(&to.to.trunk, &to.to.target));
        let (FarSide::Sip { dialog, .. }, Some(target)) = (&self.setup.far_side, target) else {
            self.pending.push(Box::pin(std::future::ready(Done::Asked(Err(DialogError::Unsupported)))));
            return;
        };
        let dialog = dialog.clone();
        self.pending.push(Box::pin(async move {
            Done::Asked(match other {
                Some(other) => dialog.refer_attended(&target, &other).await,
                None => dialog.refer(&target).await,
            })
        }));
    }

    /// A REFER was answered, or was not.
    pub(super) fn asked(&mut self, answer: Result<(), DialogError>) {
        if let Err(error) = answer {
            self.transfer_event("refer", error.label());
        }
        self.transfer_input(Input::Asked(if answer.is_ok() { Asked::Taken } else { Asked::Not }));
    }

    /// The person is being called, or cannot be.
    pub(super) fn person_called(&mut self, called: Result<Person, PersonError>) {
        match (called, self.transfer.as_mut()) {
            (Ok(person), Some(transfer)) if transfer.machine.is_waiting() => {
                transfer.person = Some(Box::new(person));
                self.transfer_event("called", "person");
            }
            // Whoever wanted her has gone: what is dropped here hangs up.
            (Ok(_), _) => {}
            (Err(error), _) => {
                self.transfer_event("call", error.label());
                self.transfer_input(Input::Unreachable);
            }
        }
    }

    pub(super) async fn person_news(&mut self, news: PersonNews) {
        match news {
            PersonNews::Leg(LinkNews::Tick) => self.relay(),
            PersonNews::Leg(LinkNews::Event(Some(LaneEvent::Report(report)))) => self.person_report(&report),
            PersonNews::Leg(LinkNews::Event(None | Some(LaneEvent::Lost | LaneEvent::Panicked))) => {
                self.lose_person("leg_lost");
            }
            PersonNews::Leg(LinkNews::Event(Some(_))) => {}
            PersonNews::Dialog(None) => {
                if let Some(person) = self.person() {
                    person.events = None;
                }
            }
            PersonNews::Dialog(Some(event)) => self.person_event(event).await,
        }
    }

    fn person(&mut self) -> Option<&mut Person> {
        self.transfer.as_mut()?.person.as_deref_mut()
    }

    async fn person_event(&mut self, event: DialogEvent) {
        match event {
            DialogEvent::Ringing { .. } => self.transfer_input(Input::Rings),
            DialogEvent::Confirmed { sdp } => {
                let Some(person) = self.person() else { return };
                // Without an answer to our offer there is nothing to hear.
                let agreed = sdp.map(|sdp| person.leg.accept_answer(sdp.expose()));
                match agreed {
                    Some(Ok(_)) => {
                        let journal = person.dialog.journal();
                        self.house.store.dialog(self.setup.call_id, PERSON, Some(journal));
                        self.transfer_input(Input::Answered);
                    }
                    Some(Err(error)) => self.lose_person(error.label()),
                    None => self.lose_person("no_answer_sdp"),
                }
            }
            DialogEvent::Refused { code, .. } => {
                let values =
                    [(Field::Stage, "call".into()), (Field::Reason, "refused".into()), (Field::Status, code.into())];
                self.event(EventName::CallTransfer, Timestamp::now(), &values);
                self.transfer_input(Input::Refused { code });
            }
            DialogEvent::Bye | DialogEvent::Cancelled => self.transfer_input(Input::PersonGone),
            DialogEvent::NoAck | DialogEvent::Broken(_) => self.lose_person("dialog_broken"),
            DialogEvent::Reoffer { sdp, reply } => {
                self.person_reoffer(sdp.as_ref().map(Pii::expose), reply).await;
            }
            DialogEvent::Answered { sdp } => self.person_reoffer_answered(&sdp),
            DialogEvent::RefreshDue => self.refresh(Side::Person),
            DialogEvent::Dtmf(_) | DialogEvent::Referred { .. } => {}
        }
    }

    /// Her line, while there is one.
    pub(super) fn person_line(&mut self) -> (Option<&mut CallerLink>, Option<&Dialog>) {
        self.person().map_or((None, None), |person| (Some(&mut person.leg), Some(&person.dialog)))
    }

    /// Her far end's answer to an offer of ours within the call. A bad one changes nothing.
    pub(super) fn person_reoffer_answered(&mut self, sdp: &Pii) {
        let Some(person) = self.person() else { return };
        if let Ok(agreed) = person.leg.accept_answer(sdp.expose()) {
            person.held = agreed.held;
            person.media.1 = Instant::now();
        }
    }

    /// The person's leg is of no use, or no more.
    fn lose_person(&mut self, why: &'static str) {
        self.transfer_event("person", why);
        self.transfer_effect(Effect::LetPersonGo);
        self.transfer_input(Input::PersonGone);
    }

    async fn person_reoffer(&mut self, offer: Option<&str>, reply: Reply) {
        let Some(person) = self.person() else { return };
        let answered = match offer {
            Some(offer) => person.leg.reoffer(offer).map(|(sdp, agreed)| (sdp, agreed.held)),
            None => person.leg.make_offer(false).map(|sdp| (sdp, person.held)),
        };
        match answered {
            Ok((sdp, held)) => {
                person.held = held;
                person.media.1 = Instant::now();
                reply.answer(&sdp).await;
            }
            Err(_) => reply.refuse(488).await,
        }
    }

    /// A person whose media stops has gone, whatever her dialog says.
    fn person_report(&mut self, report: &LegReport) {
        let (now, most) = (Instant::now(), self.house.limits.no_media);
        let joined = self.transfer.as_ref().is_some_and(|transfer| transfer.machine.is_joined());
        let Some(person) = self.person() else { return };
        if report.media_packets != person.media.0 || !joined || person.held {
            person.media = (report.media_packets, now);
        } else if now.saturating_duration_since(person.media.1) >= most {
            self.lose_person("no_media");
        }
    }

    /// True while the caller hears something else than the model.
    pub(super) const fn is_apart(&self) -> bool {
        self.transfer.is_some()
    }

    /// Begins or ends playing music to the caller.
    fn play_apart(&mut self, plays: bool) {
        let samples = self.house.clips.get_in(self.setup.language, ClipName::HoldMusic, self.playout.format());
        if let Some(transfer) = self.transfer.as_mut() {
            transfer.music = samples.filter(|_| plays).map(|samples| Music { samples, at: 0 });
        }
        self.set_apart();
    }

    /// What the lane holds is over; what is played now is counted by nobody.
    fn set_apart(&mut self) {
        let epoch = self.playout.set_apart();
        if let Some(leg) = self.leg.as_mut() {
            leg.frames().set_epoch(epoch);
        }
    }

    /// A frame's time has passed while the caller is being handed on.
    pub(super) fn tick_apart(&mut self) {
        let (epoch, format) = (self.playout.epoch(), self.playout.format());
        let (Some(transfer), Some(leg)) = (self.transfer.as_mut(), self.leg.as_mut()) else { return };
        if transfer.machine.is_joined() {
            self.relay();
            return;
        }
        let frames = leg.frames();
        // Neither the model nor a person hears her now.
        while frames.up.dequeue().is_some() {}
        let Some(music) = transfer.music.as_mut() else { return };
        while frames.down.len() < DOWN_TARGET {
            let mut frame = Frame { epoch, firm: true, ..Frame::SILENCE };
            let end = (music.at + format.frame_samples()).min(music.samples.len());
            let part = music.samples.get(music.at..end).unwrap_or_default();
            frame.samples.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            music.at = if end >= music.samples.len() { 0 } else { end };
            // There is room: that was asked.
            frames.down.enqueue(frame).ok();
        }
    }

    /// Each hears the other. The model is let go; it has nothing to do any more.
    fn join(&mut self) {
        self.house.metrics.transfer("joined");
        self.transfer_event("joined", self.transfer.as_ref().map_or("", |transfer| transfer.way.label()));
        self.input(CallInput::ModelOut);
        self.session_input(session::Input::End);
        if let Some(link) = self.link.take() {
            tokio::spawn(link.close(CLOSE_WITHIN));
        }
        self.ledger.closed();
        self.set_apart();
        if let Some(leg) = self.leg.as_mut() {
            while leg.frames().up.dequeue().is_some() {}
        }
        let Some(person) = self.person() else { return };
        person.media.1 = Instant::now();
        while person.leg.frames().up.dequeue().is_some() {}
        if !person.leg.open_audio() {
            self.lose_person("lane");
        }
    }

    /// Hands on what each has said.
    fn relay(&mut self) {
        let epoch = self.playout.epoch();
        let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.machine.is_joined()) else { return };
        let (Some(leg), Some(person)) = (self.leg.as_mut(), transfer.person.as_deref_mut()) else { return };
        pass(leg.frames(), person.leg.frames(), 0);
        pass(person.leg.frames(), leg.frames(), epoch);
    }

    /// A key that the caller presses while she speaks with a person is for the person's far end.
    pub(super) fn press_on(&mut self, key: char) {
        let Some(person) = self.person() else { return };
        if !person.leg.dial(key.encode_utf8(&mut [0; 4])) {
            // A far end that takes no keys in RTP. Beyond the bound they are lost, not memory.
            person.keys.try_send(key).ok();
        }
    }

    /// The model has the caller back.
    fn have_back(&mut self, miss: Miss) {
        self.house.metrics.transfer("missed");
        self.transfer_event("missed", miss.label());
        // Whoever refused is gone already; what went by on that line is kept.
        let person = self.transfer.take().and_then(|transfer| transfer.person);
        self.let_person_go(person);
        if is_whatsapp(self.setup.door()) && self.text.is_none() {
            let words = &self.house.texts_of(self.setup.language).nobody_free;
            self.text = self.house.text(&self.setup, words);
        }
        self.session_input(session::Input::TransferMissed(miss.words()));
    }
}
