//! What every call shares: configuration, ledger, lanes, the ways to Graph and to the model.
//!
//! It holds handles and answers questions about settings; it decides nothing and owns no call.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use sauti_core::ai::client::SessionUpdate;
use sauti_core::ai::ladder::Climb;
use sauti_core::ai::session::HandOver;
use sauti_core::call::machine::{self, Action};
use sauti_core::call::outcome::{Door, Fault, Outcome};
use sauti_core::config::{Agent, Language, Limits, OpenAi, Texts, Transfer, WhatsApp};
use sauti_core::ids::CallId;
use sauti_core::media::frame::AudioFormat;
use sauti_core::now::Now;
use sauti_core::pii::{BoxKey, CallerAddress, KeyedHash, Pii};
use sauti_core::record::{Direction, EndRow, LiveCall, NewCall, NewText, TextId};
use tokio::sync::Notify;

use crate::ai::providers::{Dialled, Providers};
use crate::clips::Clips;
use crate::door::{FarSide, is_whatsapp, trouble_event};
use crate::lanes::{Lanes, RtpLegSettings};
use crate::obs::logging::{Field, log_event};
use crate::obs::metrics::Metrics;
use crate::sip::{Messages, Sip};
use crate::store::{Admitted, Ended, Store};
use crate::whatsapp::graph::Graph;

/// How long after a call its last SIP messages are waited for: what is sent once is answered within that.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// Shared by all calls.
#[derive(Debug)]
pub struct House {
    /// `[limits]`.
    pub limits: Limits,
    /// `[whatsapp]`.
    pub whatsapp: Option<Arc<WhatsApp>>,
    /// `[openai]`.
    pub openai: OpenAi,
    /// `[agent]`.
    pub agent: Agent,
    /// `[[price]]`.
    pub prices: sauti_core::call::cost::PriceTable,
    /// `[node] languages`.
    pub languages: Vec<Language>,
    /// What a call starts in; nothing is known of callers yet.
    pub language: Language,
    /// The texts of that language.
    pub texts: Texts,
    /// The recordings that the box plays by itself.
    pub clips: Clips,
    /// Seals and hashes.
    pub key: BoxKey,
    /// The ledger.
    pub store: Store,
    /// The media threads.
    pub lanes: Arc<Lanes>,
    /// The way to Graph, where there is a `[whatsapp]`.
    pub graph: Option<Graph>,
    /// What may be agreed on with each trunk, by its name.
    pub trunks: BTreeMap<Arc<str>, Arc<RtpLegSettings>>,
    /// SIP, where there is a `[sip]`; set before the first call.
    pub sip: OnceLock<Sip>,
    /// To whom callers are handed, where that was said.
    pub transfer: Option<HandOn>,
    /// The ways to the model.
    pub providers: Arc<Providers>,
    /// Every counter.
    pub metrics: Arc<Metrics>,
    /// Wakes the sender of owed texts.
    pub texts_ring: Arc<Notify>,
    /// Randomness for ids.
    pub random: SystemRandom,
}

/// `[transfer]`, with what its trunk is.
#[derive(Debug, Clone)]
pub struct HandOn {
    /// What was configured.
    pub to: Transfer,
    /// Its trunk leads into the public telephone network.
    pub public_network: bool,
    /// What may be agreed on with the trunk.
    pub media: Arc<RtpLegSettings>,
}

/// Why no caller of WhatsApp is handed on over such a trunk.
const PUBLIC_NETWORK: &str =
    "calls of WhatsApp may not be taken into the telephone network; offer that somebody writes";

/// One call before its task begins.
#[derive(Debug)]
pub struct Setup {
    /// Its name.
    pub call_id: CallId,
    /// Who is told what becomes of it.
    pub far_side: FarSide,
    /// What stands for the far side's id of the call: its name in the switchboard's table.
    pub key: KeyedHash,
    /// Where a text would go.
    pub caller: CallerAddress,
    /// What stands for the caller.
    pub caller_hash: Option<KeyedHash>,
    /// The SDP; `None` where we are to offer.
    pub offer: Option<Pii>,
    /// When the far side made it.
    pub connect_at: Option<Timestamp>,
    /// What is spoken.
    pub language: Language,
    /// When the webhook was read.
    pub received: Now,
    /// Too old to be answered.
    pub stale: bool,
}

impl Setup {
    /// How the call reached the box.
    #[must_use]
    pub const fn door(&self) -> Door {
        self.far_side.door()
    }
}

impl House {
    /// The limits that a call's machine needs.
    #[must_use]
    pub fn call_limits(&self, setup: &Setup) -> machine::Limits {
        machine::Limits {
            door: setup.door(),
            spread: setup.call_id.spread(),
            connect_within: self.limits.connect_within,
            no_media: self.limits.no_media,
            model_silence: self.limits.model_silence,
            max_call: self.limits.max_call,
        }
    }

    fn random_bytes(&self) -> [u8; 10] {
        let mut bytes = [0; 10];
        // Ids stay unique by their time even if the kernel had no randomness.
        self.random.fill(&mut bytes).ok();
        bytes
    }

    /// A new id for a call that came at `wall`.
    #[must_use]
    pub fn new_call_id(&self, wall: Timestamp) -> CallId {
        CallId::new(wall, self.random_bytes())
    }

    /// The texts of a call's language.
    #[must_use]
    pub fn texts_of(&self, language: Language) -> &Texts {
        self.agent.texts.get(&language).unwrap_or(&self.texts)
    }

    /// What the model's session is told.
    #[must_use]
    pub fn session_update(&self, language: Language, format: AudioFormat) -> SessionUpdate {
        let instructions = Pii::new(self.agent.instructions.clone());
        let update = SessionUpdate::new(&self.openai, instructions, language, &self.languages).in_format(format);
        if self.transfer.is_some() { update.with_transfer() } else { update }
    }

    /// Whether a caller who came by `door` may be handed to a person.
    #[must_use]
    pub fn hand_over(&self, door: Door) -> HandOver {
        match &self.transfer {
            None => HandOver::Nobody,
            Some(transfer) if transfer.public_network && is_whatsapp(door) => HandOver::Refused(PUBLIC_NETWORK),
            Some(_) => HandOver::Possible,
        }
    }

    /// Opens the model's socket, at one provider or another, for a call that has met this much until now.
    pub async fn connect_model(&self, climb: Climb, caller: Option<KeyedHash>) -> Dialled {
        self.providers.connect(climb, caller).await
    }

    /// The apology that a caller is owed; `None` when nobody is known to write to.
    #[must_use]
    pub fn apology(&self, setup: &Setup) -> Option<NewText> {
        self.text(setup, &self.texts_of(setup.language).apology)
    }

    /// A message to the caller in these words; `None` when nobody is known to write to.
    #[must_use]
    pub fn text(&self, setup: &Setup, body: &str) -> Option<NewText> {
        if setup.caller.is_unknown() {
            return None;
        }
        Some(NewText {
            text_id: TextId::new(Timestamp::now(), self.random_bytes()),
            address: setup.caller.clone(),
            body: Pii::new(body),
        })
    }

    /// Gives a call its row before anything is done for it; false when it has one already or is over.
    pub async fn admit(&self, setup: &Setup) -> bool {
        let wa_call = is_whatsapp(setup.door()).then_some(setup.key);
        if let Some(wa_call) = wa_call {
            match self.store.has_terminated(wa_call).await {
                Ok(true) => {
                    self.metrics.webhook("connect_after_terminate");
                    return false;
                }
                Ok(false) => {}
                Err(error) => self.ledger_trouble(setup, &error),
            }
        }
        let call = NewCall {
            call_id: setup.call_id,
            door: setup.door(),
            direction: Direction::Inbound,
            wa_call,
            mtn_call_sid: None,
            caller: setup.caller_hash,
            language: Some(setup.language),
            offered_at: setup.received.wall,
            connect_at: setup.connect_at,
        };
        let live = LiveCall { wacid: setup.far_side.wacid().cloned(), address: setup.caller.clone() };
        match self.store.admit(call, Some(live)).await {
            Ok(Admitted::New) => true,
            Ok(Admitted::Duplicate) => false,
            Err(error) => {
                // A ledger that fails is an alarm, but somebody is calling now.
                self.ledger_trouble(setup, &error);
                true
            }
        }
    }

    /// Ends a call on the far side when there is no task to do it.
    pub async fn last_word(&self, setup: &Setup, action: Action, why: Option<(Outcome, Fault)>) {
        if let Err(error) = setup.far_side.act(setup, action, None, why).await
            && !error.is_over()
        {
            log_event(trouble_event(setup.door()), Some(setup.call_id), &error.fields());
        }
    }

    /// Writes the one outcome.
    pub async fn end_call(&self, setup: &Setup, row: EndRow) {
        let (outcome, fault) = (row.outcome, row.fault);
        if let Some(messages) = setup.far_side.messages() {
            self.write_messages(setup.call_id, 0, messages);
        }
        match self.store.end(setup.call_id, row).await {
            Ok(Ended::Now) => {}
            Ok(Ended::Already(_)) => self.metrics.webhook("ended_twice"),
            Err(error) => self.ledger_trouble(setup, &error),
        }
        self.metrics.call_ended(setup.door(), outcome, fault);
        debug_assert!(outcome != Outcome::Restart, "written at boot only");
    }

    /// Writes the SIP messages of a dialog that is over or about to be, and once more what comes after the end: the
    /// answer to the last BYE, the ACK of a refusal.
    pub fn write_messages(&self, call: CallId, leg: u8, messages: Messages) {
        let (store, seen) = (self.store.clone(), messages.seen());
        store.sip_messages(call, leg, messages.lines());
        tokio::spawn(async move {
            tokio::time::sleep(LAST_MESSAGES).await;
            if messages.seen() != seen {
                store.sip_messages(call, leg, messages.lines());
            }
        });
    }

    fn ledger_trouble(&self, setup: &Setup, error: &crate::store::StoreError) {
        let values = [(Field::Stage, "ledger".into()), (Field::Reason, error.label().into())];
        log_event(trouble_event(setup.door()), Some(setup.call_id), &values);
    }
}
