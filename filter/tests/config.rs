//! The plugin's configuration.

use levee_filter::config::{ClientDeadline, Config, Failures, Fallback, Question};
use levee_policy::backoff::Backoff;
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
                     "open_for_unreachable": "2s", "open_for_unreachable_max": "3s", "recover_for": "1m",
                     "half_open": {"max_in_flight": 2, "successes_to_close": 4, "lease": "5s"},
                     "mode": "shadow"},
        "timeouts": {"class": "medium", "response_header": "3s",
                     "classes": {"short": "1s", "medium": "2s", "default": "3s", "long": "4s",
                                 "very_long": "5s"},
                     "client_deadline_header": "x-deadline-ms",
                     "rules": [{"path_prefix": "/v1/storage", "class": "long"}]},
        "failures": {"http": ["500-599"], "grpc": ["UNAVAILABLE"], "retry_after": true},
        "services": {"auth": {"breaker": {"open_for": "20s", "mode": "enforce"},
                              "failures": {"http": [503, "429"]},
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
    assert_eq!(general.recover_for, Duration::from_mins(1));
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
    assert_eq!(
        auth.failures,
        failures(r#"{"http": [429, 503], "grpc": [14], "retry_after": true}"#)
    );
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
fn the_keys_of_a_health_check_are_read_and_inherited() {
    let config = Config::parse(
        br#"{
        "breaker": {"health_check": {"path": "/healthz", "host": "h", "every": "2s", "timeout": "3s",
                                     "expected_statuses": [204, "300-399"]}},
        "services": {"auth": {"breaker": {"health_check": {"path": "/ready", "every": "5s"}}},
                     "grpc": {"breaker": {"health_check": {"grpc_service": ""}}},
                     "video": {"breaker": {"health_check": {"path": ""}}}},
        "aliases": {"b": "auth", "a": "auth"}
    }"#,
    )
    .unwrap();
    let check = |service| &config.of_service(service).health_check;
    let question = |path: &str| Question::Http {
        path: path.to_owned(),
    };
    assert_eq!(check("any").question, question("/healthz"));
    assert_eq!(check("auth").question, question("/ready"));
    assert_eq!(check("video").question, Question::Off);
    let service = String::new();
    assert_eq!(check("grpc").question, Question::Grpc { service });
    assert_eq!(check("auth").host.as_deref(), Some("h"));
    assert_eq!(check("any").every, Duration::from_secs(2));
    assert_eq!(check("auth").every, Duration::from_secs(5));
    assert_eq!(check("auth").timeout, Duration::from_secs(3));
    let expected: Vec<u64> = (0..600).filter(|n| check("auth").expects(*n)).collect();
    assert_eq!(expected, [vec![204], (300..=399).collect()].concat());
    assert_eq!(config.clusters_of("auth"), ["a", "auth", "b"]);
    let default = Config::parse(b"").unwrap().general.health_check;
    assert_eq!(default.question, Question::Off);
    assert!(default.expects(200) && default.expects(299) && !default.expects(302));
}

#[test]
fn each_of_these_is_a_mistake_in_a_health_check() {
    for (json, field) in [
        (r#"{"path": "healthz"}"#, "path"),
        (r#"{"path": "/a b"}"#, "path"),
        (r#"{"path": 5}"#, "path"),
        (r#"{"path": "/a", "grpc_service": ""}"#, "grpc_service"),
        (
            r#"{"grpc_service": "", "expected_statuses": [200]}"#,
            "expected_statuses",
        ),
        (
            r#"{"path": "/a", "expected_statuses": [101]}"#,
            "expected_statuses[0]",
        ),
        (r#"{"path": "/a", "host": "a\r\nb"}"#, "host"),
        (r#"{"path": "/a", "every": "10ms"}"#, "every"),
        (r#"{"path": "/a", "timeout": "1ms"}"#, "timeout"),
        (r#"{"pth": "/a"}"#, "pth"),
    ] {
        let errors =
            Config::parse(format!(r#"{{"breaker": {{"health_check": {json}}}}}"#).as_bytes())
                .expect_err(json);
        assert_eq!(errors.len(), 1, "{json}: {errors:#?}");
        let path = format!("breaker.health_check.{field}");
        assert_eq!(errors[0].path, path, "{json}: {errors:#?}");
    }
}

fn failures(json: &str) -> Failures {
    let json = format!(r#"{{"failures": {json}}}"#);
    let config = Config::parse(json.as_bytes()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    config.of_service("any").failures
}

#[test]
fn entries_of_failures_are_codes_ranges_and_exclusions_and_the_last_that_names_a_code_wins() {
    let http = |json: &str| -> Vec<u64> {
        let failures = failures(&format!(r#"{{"http": {json}}}"#));
        (0..600).filter(|code| failures.has_http(*code)).collect()
    };
    let range = |codes: std::ops::RangeInclusive<u64>| codes.collect::<Vec<_>>();
    assert_eq!(http(r#"["500-599"]"#), range(500..=599));
    assert_eq!(http(r#"["500-503", "!501"]"#), [500, 502, 503]);
    assert_eq!(http(r#"["500-503", "!501-502"]"#), [500, 503]);
    assert_eq!(http(r#"["500-503", "!500-503", "502"]"#), [502]);
    assert_eq!(http(r#"[404, "429", 503.0]"#), [404, 429, 503]);
    assert!(http("[]").is_empty());
    let grpc = |json: &str| -> Vec<u64> {
        let failures = failures(&format!(r#"{{"grpc": {json}}}"#));
        (0..20).filter(|code| failures.has_grpc(*code)).collect()
    };
    assert_eq!(grpc(r#"["UNAVAILABLE", 2, "8"]"#), [2, 8, 14]);
    assert_eq!(grpc(r#"["1-16", "!NOT_FOUND"]"#).len(), 15);
    assert_eq!(grpc(r#"["INTERNAL-DATA_LOSS", "!14"]"#), [13, 15]);
    assert!(grpc("[]").is_empty());
}

#[test]
fn a_key_of_failures_that_is_left_out_keeps_its_default() {
    let default = Failures::default();
    assert_eq!(failures("{}"), default);
    assert_eq!(failures(r#"{"http": null}"#), default);
    assert_eq!(
        failures(r#"{"http": ["500-599", "!501", "!505"]}"#),
        default
    );
    let grpc = r#"["UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]"#;
    assert_eq!(failures(&format!(r#"{{"grpc": {grpc}}}"#)), default);
    let only_http = failures(r#"{"http": [503]}"#);
    assert!(only_http.has_grpc(2) && only_http.has_http(503) && !only_http.has_http(500));
    let status_that_is_none = [600, 999, u64::MAX];
    assert!(
        status_that_is_none
            .iter()
            .all(|code| default.has_http(*code))
    );
    assert!(
        status_that_is_none
            .iter()
            .all(|code| !only_http.has_http(*code))
    );
}

#[test]
fn all_wrong_entries_of_failures_are_reported_at_once_with_their_paths() {
    let errors = errors(
        r#"{
        "failures": {"http": ["5xx", 302, "599-500", "500-600", "!501", 503.5, true, "", "+500", "503"],
                     "grpc": ["OK", 17, "Unavailable", "UNAVAILABLE", "!14", "!14"]},
        "services": {"auth": {"failures": {"http": "503", "grcp": [], "retry_after": "yes"}}}
    }"#,
    );
    let not_http = "is not an HTTP status from 400 to 599; write 503, \"500-599\" or \"!501\"";
    let not_grpc = "is not a gRPC status from 1 to 16; write 14, \"UNAVAILABLE\",";
    let expected = [
        format!("failures.http[0]: \"5xx\" {not_http}"),
        format!("failures.http[1]: \"302\" {not_http}"),
        "failures.http[2]: \"599-500\" is no range; begin with its lower end".to_owned(),
        format!("failures.http[3]: \"500-600\" {not_http}"),
        "failures.http[4]: \"!501\" excludes nothing: no entry before it has these codes;"
            .to_owned(),
        format!("failures.http[5]: \"503.5\" {not_http}"),
        "failures.http[6]: is true; it must be a string".to_owned(),
        "failures.http[7]: is empty".to_owned(),
        format!("failures.http[8]: \"+500\" {not_http}"),
        format!("failures.grpc[0]: \"OK\" {not_grpc}"),
        format!("failures.grpc[1]: \"17\" {not_grpc}"),
        format!("failures.grpc[2]: \"Unavailable\" {not_grpc}"),
        "failures.grpc[5]: \"!14\" excludes nothing".to_owned(),
        "services.auth.failures.http: is \"503\"; it must be a list".to_owned(),
        "services.auth.failures.retry_after: is \"yes\"; it must be true or false".to_owned(),
        "services.auth.failures.grcp: is not known here; known are: grpc, http, retry_after"
            .to_owned(),
    ];
    for (error, part) in errors.iter().zip(&expected) {
        assert!(error.starts_with(part), "{part}\nnot in {errors:#?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
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
        "color: is not known here; known are: aliases, breaker, failures, fallback,",
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
fn each_of_these_is_a_mistake_in_scopes() {
    for (json, path) in [
        (r#"{"scopes": {"max": 0}}"#, "scopes.max"),
        (r#"{"scopes": {"by_route": "yes"}}"#, "scopes.by_route"),
        (
            r#"{"scopes": {"rules": [{"path_prefix": "/x"}]}}"#,
            "scopes.rules[0].name",
        ),
        (
            r#"{"scopes": {"rules": [{"name": "x"}]}}"#,
            "scopes.rules[0]",
        ),
        (r#"{"scopes": {"named": {}}}"#, "scopes.named"),
        (
            r#"{"services": {"a": {"scopes": {"named": {"b": {"timeouts": {}}}}}}}"#,
            "services.a.scopes.named.b.timeouts",
        ),
    ] {
        let errors = Config::parse(json.as_bytes()).expect_err(json);
        assert_eq!(errors.len(), 1, "{json}: {errors:#?}");
        assert_eq!(errors[0].path, path, "{json}: {errors:#?}");
    }
}

#[test]
fn scopes_are_inherited_key_by_key_and_a_services_rules_come_first() {
    let config = Config::parse(
        br#"{"scopes": {"by_route": false, "max": 7, "rules": [{"name": "a", "method": "GET"}]},
            "services": {"auth": {
                "breaker": {"consecutive_failures": 7},
                "scopes": {"by_route": true, "rules": [{"name": "b", "path_prefix": "/b"}],
                           "named": {"b": {"breaker": {"open_for": "3s"}}}}}}}"#,
    )
    .expect("it is valid");
    let scopes = &config.of_service("auth").scopes;
    assert_eq!((scopes.by_route, scopes.max), (true, 7));
    let names = scopes.rules.iter().map(|rule| rule.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["b", "a"]);
    let of = |scope| config.of_breaker("auth", scope).breaker;
    assert_eq!(of(Some("b")).consecutive_failures, Some(7));
    assert_eq!(of(Some("b")).open.base, Duration::from_secs(3));
    let (of_scope, of_service) = (of(Some("a")), of(None));
    let seconds = |open: Backoff| (open.base.as_secs(), open.max.as_secs());
    assert_eq!(seconds(of_scope.open), (1, 30));
    assert_eq!(seconds(of_service.open), (30, 300));
    let open = of_service.open;
    assert_eq!(BreakerSettings { open, ..of_scope }, of_service);
    assert!(!config.of_service("chat").scopes.by_route);
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
    let codes = ListValue {
        values: [Kind::NumberValue(404.0), text("500-599")]
            .map(|kind| Value { kind: Some(kind) })
            .into(),
    };
    let failures = Kind::StructValue(object(vec![("http", Kind::ListValue(codes))]));
    let encoded = object(vec![
        ("breaker", breaker("10s")),
        ("failures", failures),
        ("timeouts", timeouts),
    ])
    .encode_to_vec();
    let config = Config::parse(&encoded).unwrap();
    assert_eq!(config.general.breaker.consecutive_failures, Some(7));
    assert_eq!(config.general.breaker.open.base, Duration::from_secs(10));
    assert_eq!(config.general.timeouts.rules[0].class, Class::Long);
    assert!(config.general.failures.has_http(404));

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
    let millis = |breaker: BreakerSettings| {
        let open = breaker.open_unreachable;
        [open.base, open.max].map(|time| time.as_millis())
    };
    for (json, expected) in [
        ("{}", [1000, 5000]),
        (
            r#"{"breaker": {"open_for": "500ms", "open_for_max": "2s"}}"#,
            [500, 2000],
        ),
        (
            r#"{"breaker": {"open_for_unreachable": "10s"}}"#,
            [10_000, 10_000],
        ),
    ] {
        assert_eq!(millis(parse(json)), expected, "{json}");
    }
    // A service whose section says nothing of it has the general one.
    let general = r#"{"breaker": {"open_for_unreachable": "1m"}, "services": {"auth": {}}}"#;
    let config = Config::parse(general.as_bytes()).unwrap();
    let auth = config.of_service("auth").breaker;
    assert_eq!(millis(auth), [60_000, 60_000]);
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
