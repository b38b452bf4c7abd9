//! Who calls whom in the emulated WhatsApp.

use sauti_core::pii::{CallerAddress, Pii};

/// A person with a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Digits of the number, without `+`.
    pub number: Pii,
    /// The business-scoped user id.
    pub bsuid: Pii,
    /// The name in the profile.
    pub name: Pii,
    /// The chosen user name, if the person hides the number behind one.
    pub username: Option<Pii>,
}

impl Person {
    /// The one person of every test.
    #[must_use]
    pub fn test_caller() -> Self {
        Self {
            number: Pii::new("250780000001"),
            bsuid: Pii::new("RW.13491208655302741918"),
            name: Pii::new("Test Caller"),
            username: Some(Pii::new("tester")),
        }
    }

    /// Another test caller: the `nth` has the number and the BSUID of the first one plus `nth`.
    #[must_use]
    pub fn numbered(nth: u32) -> Self {
        Self {
            number: Pii::new((250_780_000_001_u64 + u64::from(nth)).to_string()),
            bsuid: Pii::new(format!("RW.{}", 13_491_208_655_302_741_918_u64 - u64::from(nth))),
            ..Self::test_caller()
        }
    }

    /// Both ids.
    #[must_use]
    pub fn address(&self) -> CallerAddress {
        CallerAddress { number: Some(self.number.clone()), bsuid: Some(self.bsuid.clone()) }
    }
}

/// The business number that is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Business {
    /// The account's id.
    pub waba_id: String,
    /// The number's id at Graph.
    pub phone_number_id: String,
    /// Digits of the number, without `+`.
    pub number: Pii,
}

impl Business {
    /// The business of every test, under the id that the configuration names.
    #[must_use]
    pub fn test(phone_number_id: impl Into<String>) -> Self {
        Self {
            waba_id: "100000000000001".to_owned(),
            phone_number_id: phone_number_id.into(),
            number: Pii::new("35690000002"),
        }
    }
}
