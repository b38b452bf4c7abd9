//! The words of a box that was given none: what the model is told, and the texts in each language.
//!
//! The Kinyarwanda texts want a native speaker's eye before a box goes into service with them; `one_moment`,
//! `still_there`, `nobody_there` and `nobody_free` in Swahili, and the French ones, are set phrases that somebody who speaks them should read once.

use std::collections::BTreeMap;

use super::{Language, Texts};

/// What the model is told when `[agent]` says nothing else.
pub(super) const INSTRUCTIONS: &str = "You answer this telephone line as its voice assistant. Callers hear you, they do not read: \
     keep each answer to one or two short sentences, without lists, symbols or addresses spelled out. \
     Stay in the language that the caller speaks. Ask one thing at a time, and repeat names, places and numbers \
     back before you rely on them. When you do not know or cannot do something, say so plainly.";

/// The texts of one language.
pub(super) fn of(language: Language) -> Texts {
    let [greeting, one_moment, still_there, nobody_there, apology, nobody_free, goodbye] = match language {
        Language::En => [
            "Hello! How can I help you today?",
            "One moment, please.",
            "Are you still there?",
            "I cannot hear you, so I will hang up now. Please call again any time. Goodbye!",
            "Sorry, we could not take your call just now. Please call again in a few minutes, or write to us here.",
            "Sorry, nobody was free to speak with you just now. Please write to us here what it is about.",
            "The time for this call is over. Thank you for calling. Goodbye!",
        ],
        Language::Fr => [
            "Bonjour ! Comment puis-je vous aider aujourd'hui ?",
            "Un instant, s'il vous plaît.",
            "Êtes-vous toujours là ?",
            "Je ne vous entends pas, je vais donc raccrocher. Rappelez quand vous voulez. Au revoir !",
            "Désolé, nous n'avons pas pu prendre votre appel. Veuillez rappeler dans quelques minutes, \
             ou écrivez-nous ici.",
            "Désolé, personne n'était libre pour vous parler. Veuillez nous écrire ici de quoi il s'agit.",
            "Le temps prévu pour cet appel est écoulé. Merci de votre appel. Au revoir !",
        ],
        Language::Rw => [
            "Muraho! Nabafasha iki uyu munsi?",
            "Mutegereze akanya gato.",
            "Muracyari ku murongo?",
            "Sinshobora kubumva, ngiye guhagarika telefone. Mwongere muhamagare igihe cyose. Murabeho!",
            "Mutubabarire, ntitwashoboye kwitaba telefone yanyu. Mwongere muhamagare mu minota mike, \
             cyangwa mutwandikire hano.",
            "Mutubabarire, nta muntu wabonetse ngo muvugane ubu. Mutwandikire hano icyo mwifuzaga.",
            "Igihe cyagenewe iki kiganiro kirarangiye. Murakoze guhamagara. Murabeho!",
        ],
        Language::Sw => [
            "Habari! Ninaweza kukusaidiaje leo?",
            "Tafadhali subiri kidogo.",
            "Je, bado upo kwenye simu?",
            "Sikusikii, kwa hiyo ninakata simu. Tafadhali piga tena wakati wowote. Kwaheri!",
            "Samahani, hatukuweza kupokea simu yako sasa hivi. Tafadhali piga tena baada ya dakika chache, \
             au tuandikie hapa.",
            "Samahani, hakuna mtu aliyepatikana kuzungumza nawe sasa hivi. Tafadhali tuandikie hapa unachohitaji.",
            "Muda wa simu hii umekwisha. Asante kwa kupiga simu. Kwaheri!",
        ],
    };
    Texts {
        notice: None,
        greeting: greeting.to_owned(),
        one_moment: one_moment.to_owned(),
        still_there: still_there.to_owned(),
        nobody_there: nobody_there.to_owned(),
        apology: apology.to_owned(),
        nobody_free: nobody_free.to_owned(),
        goodbye: goodbye.to_owned(),
    }
}

/// The texts of all languages.
pub(super) fn all() -> BTreeMap<Language, Texts> {
    Language::ALL.into_iter().map(|language| (language, of(language))).collect()
}
