//! The calling settings of the number: what was never set is not shown, what was set comes back.

use sauti_core::pii::Pii;
use serde_json::{Map, Value, json};

use super::dice::{ALPHANUMERIC, Dice};
use super::replies::Body;

/// The features that may be set, each replaced as a whole.
const FEATURES: [&str; 9] = [
    "status",
    "call_icon_visibility",
    "call_icons",
    "call_hours",
    "callback_permission_status",
    "sip",
    "srtp_key_exchange_protocol",
    "audio",
    "voicemail",
];

#[derive(Debug)]
pub(super) struct Settings {
    phone_number_id: String,
    calling: Map<String, Value>,
    sip_password: Option<Pii>,
}

impl Settings {
    /// Calling is on, everything else unset.
    pub(super) fn new(phone_number_id: &str) -> Self {
        let calling = Map::from_iter([("status".to_owned(), json!("ENABLED"))]);
        Self { phone_number_id: phone_number_id.to_owned(), calling, sip_password: None }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.calling.get("status").and_then(Value::as_str) == Some("ENABLED")
    }

    pub(super) fn is_sip(&self) -> bool {
        self.sip().text("status") == Some("ENABLED")
    }

    fn sip(&self) -> Body<'_> {
        Body(self.calling.get("sip").unwrap_or(&Value::Null))
    }

    /// Takes the features of `{"calling":{…}}`; the SIP password is made with the first server and dies with the last.
    pub(super) fn change(&mut self, body: &Value, dice: &mut Dice) -> Result<(), String> {
        let features = body.get("calling").and_then(Value::as_object).ok_or("calling is required")?;
        if let Some(unknown) = features.keys().find(|name| !FEATURES.contains(&name.as_str())) {
            return Err(format!("calling.{unknown} is no setting"));
        }
        for word in ["status", "callback_permission_status"] {
            let value = features.get(word).map_or(Some("ENABLED"), Value::as_str);
            if !matches!(value, Some("ENABLED" | "DISABLED")) {
                return Err(format!("calling.{word} must be ENABLED or DISABLED"));
            }
        }
        for (name, value) in features {
            self.calling.insert(name.clone(), value.clone());
        }
        let servers = self.sip().0.get("servers").and_then(Value::as_array).map_or(0, Vec::len);
        if servers == 0 {
            self.sip_password = None;
        } else {
            self.sip_password.get_or_insert_with(|| Pii::new(dice.text(32, ALPHANUMERIC)));
        }
        Ok(())
    }

    /// The answer to GET.
    pub(super) fn shown(&self, with_credentials: bool) -> Value {
        let mut calling = Value::Object(self.calling.clone());
        if let Some(Value::Array(servers)) = calling.pointer_mut("/sip/servers") {
            for server in servers.iter_mut().filter(|server| server.is_object()) {
                server["app_id"] = json!(100_000_000_000_003_u64);
                if let Some(password) = self.sip_password.as_ref().filter(|_| with_credentials) {
                    server["sip_user_password"] = json!(password);
                }
            }
        }
        json!({ "calling": calling })
    }

    /// The value of an `account_settings_update` without its time.
    pub(super) fn webhook(&self) -> Value {
        let mut settings = self.shown(false);
        settings["phone_number_id"] = json!(self.phone_number_id);
        json!({"messaging_product": "whatsapp", "type": "phone_number_settings", "phone_number_settings": settings})
    }

    /// The answer to `?fields=health_status`.
    pub(super) fn health(&self) -> Value {
        let state = if self.is_enabled() { "AVAILABLE" } else { "BLOCKED" };
        let sip = if self.is_sip() { "AVAILABLE" } else { "BLOCKED" };
        let entity = |kind: &str| json!({"entity_type": kind, "id": self.phone_number_id, "can_send_message": state, "can_receive_call_sip": sip});
        json!({
            "id": self.phone_number_id,
            "health_status": {"can_send_message": state, "entities": [entity("PHONE_NUMBER"), entity("APP")]},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_features_are_not_shown_and_set_ones_come_back() {
        let mut settings = Settings::new("1");
        let mut dice = Dice::new(1);
        assert_eq!(settings.shown(false), json!({"calling": {"status": "ENABLED"}}));
        settings
            .change(&json!({"calling": {"status": "DISABLED", "audio": {"additional_codecs": ["PCMA"]}}}), &mut dice)
            .unwrap();
        assert_eq!(
            settings.shown(false),
            json!({"calling": {"status": "DISABLED", "audio": {"additional_codecs": ["PCMA"]}}})
        );
        assert!(!settings.is_enabled());
        assert_eq!(settings.webhook()["phone_number_settings"]["phone_number_id"], "1");
    }

    #[test]
    fn the_sip_password_is_shown_on_demand_and_changes_when_the_servers_are_cleared() {
        let (mut settings, mut dice) = (Settings::new("1"), Dice::new(1));
        let on = json!({"calling": {"sip": {"status": "ENABLED", "servers": [{"hostname": "sip.example.com"}]}}});
        let off = json!({"calling": {"sip": {"status": "DISABLED", "servers": []}}});
        let password =
            |settings: &Settings| settings.shown(true)["calling"]["sip"]["servers"][0]["sip_user_password"].clone();
        settings.change(&on, &mut dice).unwrap();
        let first = password(&settings);
        assert!(first.is_string() && settings.is_sip());
        assert!(!settings.shown(false).to_string().contains("sip_user_password"));
        settings.change(&on, &mut dice).unwrap();
        assert_eq!(password(&settings), first);
        settings.change(&off, &mut dice).unwrap();
        settings.change(&on, &mut dice).unwrap();
        assert_ne!(password(&settings), first);
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        let (mut settings, mut dice) = (Settings::new("1"), Dice::new(1));
        for body in
            [json!({}), json!({"calling": 1}), json!({"calling": {"x": 1}}), json!({"calling": {"status": "ON"}})]
        {
            assert!(settings.change(&body, &mut dice).is_err(), "{body}");
        }
    }
}
