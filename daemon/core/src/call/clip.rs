//! Names of the short recordings that the box plays by itself, when the model cannot speak or need not.
//!
//! Only the names: the audio belongs to the shell, when each is played to the machines of call and session.

use crate::config::Texts;

super::outcome::labels! {
    /// A recording, the same set in each language. Its label is the file's name without the ending.
    ClipName {
        /// The first words of a call.
        Greeting => "greeting",
        /// An answer takes long, or a session is opened again.
        OneMoment => "one_moment",
        /// The call cannot go on: the spoken form, which does not promise what the text message does.
        Apology => "apology",
        /// The last words of a call.
        Goodbye => "goodbye",
        /// The caller has been silent for long.
        StillThere => "still_there",
        /// What a caller hears while a person is called; played again and again.
        HoldMusic => "hold_music",
    }
}

impl ClipName {
    /// Words, not music.
    #[must_use]
    pub const fn is_spoken(self) -> bool {
        !matches!(self, Self::HoldMusic)
    }

    /// The text of `[agent.xx]` that says the same; `None` for the apology, whose text is a message to be read, and for
    /// music.
    #[must_use]
    pub fn text(self, texts: &Texts) -> Option<&str> {
        match self {
            Self::Greeting => Some(&texts.greeting),
            Self::OneMoment => Some(&texts.one_moment),
            Self::Apology | Self::HoldMusic => None,
            Self::Goodbye => Some(&texts.goodbye),
            Self::StillThere => Some(&texts.still_there),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names_of_files_and_of_texts() {
        for &name in ClipName::ALL {
            assert_eq!(ClipName::parse(name.label()), Some(name));
            assert!(name.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        }
        let texts = Texts { still_there: "there?".to_owned(), ..Texts::default() };
        assert_eq!(ClipName::StillThere.text(&texts), Some("there?"));
        assert_eq!(ClipName::Apology.text(&texts), None);
    }
}
