//! The plugin's configuration.

use levee_filter::config::{ClientDeadline, Config, Fallback};
use levee_policy::breaker::{BreakerSettings, Mode};
use levee_policy::timeout::Class;
use std::time::Duration;

fn errors(json: &str) -> Vec<String> {
    let errors = Config::parse(json.as_bytes()).expect_err("a mistake");
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_a_valid_configuration() {
    for empty in ["", " \n", "{}", "null"] {
        let config = Config::parse(empty.as_bytes()).unwrap();
        assert_eq!(config.general.breaker, BreakerSettings::default());
    }
}

#[test]
fn every_key_is_read() {
    let config = Config::parse(
        br#"{
        "breaker":  {"consecutive_failures": 7.0,
                     "failure_rate": {"ratio": 0.4, "minimum_requests": 30, "window": "20s"},
                     "slow_calls": {"longer_than": "2s", "ratio": 0.9, "minimum_requests": 5},
                     "open_for": "10s", "open_for_max": "1m",
                     "open_for_unreachable": "2s", "open_for_unreachable_max": "3s",
                     "half_open": {"max_in_flight": 2, "successes_to_close": 4, "lease": "5s"},
                     "mode": "shadow"},
        "timeouts": {"class": "medium", "response_header": "3s",
                     "classes": {"short": "1s", "medium": "2s", "default": "3s", "long": "4s",
                                 "very_long": "5s"},
                     "client_deadline_header": "x-deadline-ms",
                     "rules": [{"path_prefix": "/v1/storage", "class": "long"}]},
        "services": {"auth": {"breaker": {"open_for": "20s", "mode": "enforce"},
                              "timeouts": {"class": "short"},
                              "fallback": {"status": 200, "body": "{}"}},
                     "chat": {}},
        "fallback": {"route": "maintenance"},
        "aliases":  {"outbound|8080||auth.default.svc.cluster.local": "auth"},
        "max_services": 50
    }"#,
    )
    .unwrap();
    let general = &config.general.breaker;
    assert_eq!(general.consecutive_failures, Some(7));
    assert_eq!(general.failure_rate.unwrap().minimum_requests, 30);
    assert_eq!(
        general.slow_calls.unwrap().longer_than,
        Duration::from_secs(2)
    );
    assert_eq!(general.window, Duration::from_secs(20));
    assert_eq!(general.open.base, Duration::from_secs(10));
    assert_eq!(general.open.max, Duration::from_mins(1));
    assert_eq!(general.open_unreachable.base, Duration::from_secs(2));
    assert_eq!(general.open_unreachable.max, Duration::from_secs(3));
    assert_eq!(general.half_open.max_in_flight, 2);
    assert_eq!(general.half_open.successes_to_close, 4);
    assert_eq!(general.half_open.lease, Duration::from_secs(5));
    assert_eq!(general.mode, Mode::Shadow);
    assert_eq!(
        config.client_deadline,
        Some(ClientDeadline::Millis("x-deadline-ms".into()))
    );
    // A service inherits the keys that it does not set.
    let auth = config.of_service("auth");
    assert_eq!(auth.breaker.consecutive_failures, Some(7));
    assert_eq!(auth.breaker.open.base, Duration::from_secs(20));
    assert_eq!(auth.breaker.mode, Mode::Enforce);
    assert_eq!(auth.timeouts.class, Class::Short);
    assert_eq!(auth.timeouts.classes.short, Duration::from_secs(1));
    assert_eq!(auth.timeouts.rules.len(), 1);
    assert!(matches!(
        auth.fallback,
        Fallback::Answer { status: 200, .. }
    ));
    assert_eq!(
        config.of_service("chat").fallback,
        Fallback::Route("maintenance".into())
    );
    let cluster = "outbound|8080||auth.default.svc.cluster.local";
    assert_eq!(config.service_of(cluster), "auth");
    assert_eq!(config.service_of("video"), "video");
    assert_eq!(config.max_services, 50);
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_paths() {
    let errors = errors(
        r#"{
        "breaker":  {"open_for": "30", "consecutive_failure": 5},
        "timeouts": {"class": "quick", "rules": [{"class": "long"}, {"path_prefix": 7}]},
        "services": {"auth": {"breaker": {"half_open": {"max_in_flight": 17}}}, "chat": 5},
        "aliases":  {"x": ""},
        "color": "red"
    }"#,
    );
    let expected = [
        "breaker.open_for: \"30\" is not a duration",
        "breaker.consecutive_failure: is not known here; known are: consecutive_failures,",
        "timeouts.class: is \"quick\"; it must be one of \"short\", \"medium\",",
        "timeouts.rules[0]: has no condition",
        "timeouts.rules[1].path_prefix: is 7; it must be a string",
        "timeouts.rules[1].class: is missing",
        "services.auth.breaker.half_open.max_in_flight: is 17; it must be a whole number from 1 to 16",
        "services.chat: is 5; it must be an object",
        "aliases.x: is empty",
        "color: is not known here; known are: aliases, breaker, fallback,",
    ];
    for part in expected {
        assert!(
            errors.iter().any(|error| error.starts_with(part)),
            "{part}\nnot in {errors:#?}"
        );
    }
    // The second rule has no valid condition, either.
    assert_eq!(errors.len(), expected.len() + 1, "{errors:#?}");
}

#[test]
fn each_of_these_is_a_mistake() {
    for (json, path) in [
        (r#"{"breaker": {"open_for": "0s"}}"#, "breaker.open_for"),
        (r#"{"breaker": {"open_for": 30}}"#, "breaker.open_for"),
        (r#"{"breaker": {"open_for": "25h"}}"#, "breaker.open_for"),
        (
            r#"{"breaker": {"open_for": "1m", "open_for_max": "30s"}}"#,
            "breaker.open_for_max",
        ),
        (
            r#"{"breaker": {"open_for_unreachable": "2s", "open_for_unreachable_max": "1s"}}"#,
            "breaker.open_for_unreachable_max",
        ),
        (
            r#"{"breaker": {"consecutive_failures": 2.5}}"#,
            "breaker.consecutive_failures",
        ),
        (
            r#"{"breaker": {"consecutive_failures": -1}}"#,
            "breaker.consecutive_failures",
        ),
        (
            r#"{"breaker": {"failure_rate": {"ratio": 50}}}"#,
            "breaker.failure_rate.ratio",
        ),
        (
            r#"{"breaker": {"failure_rate": 0.5}}"#,
            "breaker.failure_rate",
        ),
        (
            r#"{"breaker": {"slow_calls": {"ratio": 0.5}}}"#,
            "breaker.slow_calls.longer_than",
        ),
        (
            r#"{"breaker": {"consecutive_failures": 0, "failure_rate": {"ratio": 0}, "silence": {"ratio": 0}}}"#,
            "breaker",
        ),
        (r#"{"breaker": {"mode": "off"}}"#, "breaker.mode"),
        (
            r#"{"timeouts": {"classes": {"short": "0ms"}}}"#,
            "timeouts.classes.short",
        ),
        (
            r#"{"timeouts": {"client_deadline_header": "a b"}}"#,
            "timeouts.client_deadline_header",
        ),
        (r#"{"timeouts": {"rules": {}}}"#, "timeouts.rules"),
        (r#"{"fallback": {"status": 101}}"#, "fallback.status"),
        (
            r#"{"fallback": {"route": "a", "status": 503}}"#,
            "fallback.route",
        ),
        (r#"{"fallback": {"route": "a b"}}"#, "fallback.route"),
        (
            r#"{"fallback": {"headers": {"A B": "x"}}}"#,
            "fallback.headers.A B",
        ),
        (
            r#"{"fallback": {"headers": {"a": "x\r\ny: z"}}}"#,
            "fallback.headers.a",
        ),
        (r#"{"max_services": 0}"#, "max_services"),
        (r#"{"services": []}"#, "services"),
        ("[]", ""),
        ("{", ""),
    ] {
        let errors = Config::parse(json.as_bytes()).expect_err(json);
        assert_eq!(errors.len(), 1, "{json}: {errors:#?}");
        assert_eq!(errors[0].path, path, "{json}: {errors:#?}");
    }
}

#[test]
fn a_struct_is_read_as_envoy_encodes_it() {
    use prost::Message;
    use prost_types::{ListValue, Struct, Value, value::Kind};
    let object = |fields: Vec<(&str, Kind)>| Struct {
        fields: fields
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }))
            .collect(),
    };
    let text = |text: &str| Kind::StringValue(text.to_owned());
    let breaker = |open_for| {
        Kind::StructValue(object(vec![
            ("open_for", text(open_for)),
            ("consecutive_failures", Kind::NumberValue(7.0)),
            ("mode", Kind::NullValue(0)),
        ]))
    };
    let rule = object(vec![("path_prefix", text("/v1")), ("class", text("long"))]);
    let rules = ListValue {
        values: vec![Value {
            kind: Some(Kind::StructValue(rule)),
        }],
    };
    let timeouts = Kind::StructValue(object(vec![("rules", Kind::ListValue(rules))]));
    let encoded = object(vec![("breaker", breaker("10s")), ("timeouts", timeouts)]).encode_to_vec();
    let config = Config::parse(&encoded).unwrap();
    assert_eq!(config.general.breaker.consecutive_failures, Some(7));
    assert_eq!(config.general.breaker.open.base, Duration::from_secs(10));
    assert_eq!(config.general.timeouts.rules[0].class, Class::Long);

    let encoded = object(vec![("breaker", breaker("ten"))]).encode_to_vec();
    assert_eq!(
        Config::parse(&encoded).unwrap_err()[0].path,
        "breaker.open_for"
    );
    let cut = &encoded[..encoded.len() - 3];
    assert!(
        Config::parse(cut).unwrap_err()[0]
            .message
            .starts_with("not valid JSON")
    );
}

#[test]
fn a_fraction_may_be_a_text_because_envoys_yaml_turns_it_into_one() {
    let config = Config::parse(br#"{"breaker": {"failure_rate": {"ratio": "0.25"}}}"#).unwrap();
    let ratio = config.general.breaker.failure_rate.unwrap().ratio;
    assert_eq!(ratio, levee_policy::ratio::Ratio::percent(25));
    for bad in ["half", "1.5", "-0.1", "NaN", "inf", ""] {
        let json = format!(r#"{{"breaker": {{"failure_rate": {{"ratio": "{bad}"}}}}}}"#);
        assert_eq!(errors(&json).len(), 1, "{bad}");
    }
}

#[test]
fn a_breaker_stays_open_no_longer_for_a_service_that_can_not_be_reached() {
    let parse = |json: &str| Config::parse(json.as_bytes()).unwrap().general.breaker;
    let seconds = |breaker: BreakerSettings| {
        let open = breaker.open_unreachable;
        [open.base, open.max].map(|time| time.as_secs_f64())
    };
    for (json, expected) in [
        ("{}", [1.0, 5.0]),
        (
            r#"{"breaker": {"open_for": "500ms", "open_for_max": "2s"}}"#,
            [0.5, 2.0],
        ),
        (
            r#"{"breaker": {"open_for_unreachable": "10s"}}"#,
            [10.0, 10.0],
        ),
    ] {
        assert_eq!(seconds(parse(json)), expected, "{json}");
    }
}

#[test]
fn rules_can_be_switched_off_one_by_one() {
    let config = Config::parse(
        br#"{"breaker": {"failure_rate": {"ratio": 0}},
             "services": {"a": {"breaker": {"consecutive_failures": 0,
                                            "failure_rate": {"ratio": 0.3}}}}}"#,
    )
    .unwrap();
    assert_eq!(config.general.breaker.failure_rate, None);
    let a = config.of_service("a").breaker;
    assert_eq!(a.consecutive_failures, None);
    assert_eq!(a.failure_rate.unwrap().minimum_requests, 20);
}

#[test]
fn an_error_shows_only_the_beginning_of_a_long_value() {
    let errors = errors(&format!(
        r#"{{"breaker": {{"mode": "{}"}}}}"#,
        "x".repeat(10_000)
    ));
    assert!(errors[0].len() < 300, "{}", errors[0].len());
}
