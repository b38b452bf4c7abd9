//! How a call ended and whose fault it was: the taxonomy that ledger, metrics and tables share.

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every value, for metrics that start at zero.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that ledger, metrics and log use.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// Reads the word back.
            #[must_use]
            pub fn parse(label: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.label() == label)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}
pub(crate) use labels;

labels! {
    /// How a call ended. Every admitted call gets exactly one.
    Outcome {
        /// A conversation took place and one side ended it.
        Completed => "completed",
        /// The caller hung up before hearing anything.
        CallerLeftEarly => "caller_left_early",
        /// No permit was free.
        RefusedCapacity => "refused_capacity",
        /// The offer or the configuration made an answer impossible.
        RefusedConfig => "refused_config",
        /// The connect was too old to be worth answering.
        Stale => "stale",
        /// Media never came up, or stopped for `[limits] no_media`.
        NoMedia => "no_media",
        /// The model's session broke or went silent.
        ModelFailed => "model_failed",
        /// The model's session was refused: key, quota or account.
        ModelRefused => "model_refused",
        /// Graph refused or did not answer what the call needed.
        GraphFailed => "graph_failed",
        /// `[limits] max_call` was reached.
        Limit => "limit",
        /// The daemon was told to stop and the drain time ran out.
        Drained => "drained",
        /// The daemon went away in mid-call; written at the next start.
        Restart => "restart",
        /// A bug of ours, contained to this call.
        Internal => "internal",
    }
}

labels! {
    /// Whose fault an outcome is.
    Fault {
        /// The person who called.
        Caller => "caller",
        /// Meta: Graph, its relays or its client.
        Whatsapp => "whatsapp",
        /// The carrier or its trunk.
        Carrier => "carrier",
        /// The provider of the model.
        Model => "model",
        /// This box or this program.
        Box => "box",
        /// Whoever configured or stopped the box.
        Operator => "operator",
        /// Nobody's.
        None => "none",
    }
}

labels! {
    /// How a call reached the box.
    Door {
        /// WhatsApp over the Graph API.
        Whatsapp => "whatsapp",
        /// WhatsApp over SIP.
        WhatsappSip => "whatsapp-sip",
        /// A SIP trunk.
        Trunk => "trunk",
        /// The carrier's media stream.
        Carrier => "carrier",
        /// The model's own SIP address.
        OpenaiSip => "openai-sip",
    }
}

impl Door {
    /// Whose affair it is when the far side of this door fails.
    #[must_use]
    pub const fn far_side(self) -> Fault {
        match self {
            Self::Whatsapp | Self::WhatsappSip => Fault::Whatsapp,
            Self::Trunk | Self::Carrier => Fault::Carrier,
            Self::OpenaiSip => Fault::Model,
        }
    }

    /// What a call ends with whose far side does not take our answer.
    #[must_use]
    pub const fn unanswered(self) -> Outcome {
        match self {
            Self::Whatsapp => Outcome::GraphFailed,
            Self::WhatsappSip | Self::Trunk | Self::Carrier | Self::OpenaiSip => Outcome::NoMedia,
        }
    }

    /// True where media cannot come up before the call was answered: an answer of SIP travels in the 200.
    #[must_use]
    pub const fn media_follows_answer(self) -> bool {
        matches!(self, Self::WhatsappSip | Self::Trunk)
    }

    /// True where a goodbye in RTCP is the end of the call; SIP has BYE for that, and a stream may end without it.
    #[must_use]
    pub const fn ends_with_media(self) -> bool {
        matches!(self, Self::Whatsapp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_reads_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.label()), Some(*outcome));
        }
        for fault in Fault::ALL {
            assert_eq!(Fault::parse(fault.label()), Some(*fault));
        }
    }
}
