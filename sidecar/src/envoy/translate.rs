//! Translates Envoy's metrics page into what Levee shows: the filter's metrics, and durations by service in seconds.

use super::cluster_names::{Names, wholes_of};
use super::families::{FAMILIES, Family};
use super::histogram::Histogram;
use super::text::{self, Labels, Line, read_number};
use levee_filter::metrics as filter;
use std::collections::{BTreeMap, HashSet};

/// The metrics that Envoy is asked for, by their names before tags are extracted: about 4 kB per service, a quarter of
/// all. An expression for the end of a name is fast; one that begins at the cluster takes Envoy three times as long.
/// Without `usedonly`, since a counter must be seen at 0 for its first increase to count.
pub const FILTER: &str =
    r"^wasmcustom\.(circuit_breaker_|proxy_request_timeout_total)|\.upstream_rq_time$";

/// Envoy's label for the cluster.
const CLUSTER: &str = "envoy_cluster_name";

/// Levee's label for the service.
pub const SERVICE: &str = "service";

/// Levee's label for the part of a service that has a breaker of its own.
pub const SCOPE: &str = "scope";

/// Envoy's milliseconds per second.
const MILLIS: f64 = 1000.0;

/// Envoy's metrics in Levee's names and units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// By the name of a family in [`FAMILIES`], then by labels.
    pub values: BTreeMap<&'static str, BTreeMap<Labels, f64>>,
    /// Durations of requests in seconds, by labels.
    pub durations: BTreeMap<Labels, Histogram>,
}

impl Gateway {
    /// Reads Envoy's page. `aliases` map clusters to services, as the filter's do.
    pub fn read(page: &str, aliases: &BTreeMap<String, String>) -> Self {
        let mut gateway = Self::default();
        let mut times = Times::new();
        for line in text::lines(page) {
            if let Some(family) = FAMILIES.iter().find(|family| family.name == line.name) {
                gateway.read_value(family, &line);
            } else if let Some((rest, part)) = time_of_cluster(line.name) {
                read_time(&mut times, rest, part, &line);
            }
        }
        let names = Names::new(aliases, gateway.services());
        drop_subsets(&mut times, &names);
        gateway.durations = durations_of(times, &names);
        gateway
    }

    fn read_value(&mut self, family: &Family, line: &Line<'_>) {
        let Some((labels, value)) = line.read() else {
            return;
        };
        if value.is_finite() && value >= 0.0 {
            let series = self.values.entry(family.name).or_default();
            series.entry(labels).or_insert(value);
        }
    }

    /// The services that the filter has met.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let states = self.values.get(filter::STATE);
        let labels = states.into_iter().flat_map(BTreeMap::keys);
        let of_services = labels.filter(|labels| !labels.contains_key(SCOPE));
        of_services.filter_map(|labels| labels.get(SERVICE).map(String::as_str))
    }
}

/// Splits the name of a cluster's times into the rest of the cluster's name and the part of a histogram: those of
/// `auth.default.svc` are `envoy_cluster_default_svc_upstream_rq_time{envoy_cluster_name="auth"}`.
fn time_of_cluster(name: &str) -> Option<(&str, &str)> {
    let (rest, part) = name
        .strip_prefix("envoy_cluster_")?
        .rsplit_once("upstream_rq_time_")?;
    let rest = if rest.is_empty() {
        rest
    } else {
        rest.strip_suffix('_')?
    };
    Some((rest, part))
}

/// Histograms by the rest of the cluster's name in the metric's name, and by labels.
type Times = BTreeMap<(String, Labels), HistogramLines>;

/// Removes the times of subsets of a cluster's requests, which are also in the cluster's own.
fn drop_subsets(times: &mut Times, names: &Names<'_>) {
    let is_subset = |(rest, labels): &(String, Labels)| {
        let is_there = |whole: &str| times.contains_key(&(whole.to_owned(), labels.clone()));
        let is_known = labels
            .get(CLUSTER)
            .is_some_and(|cluster| names.knows(cluster, rest));
        !is_known && wholes_of(rest).any(is_there)
    };
    let subsets: HashSet<(String, Labels)> =
        times.keys().filter(|key| is_subset(key)).cloned().collect();
    times.retain(|key, _| !subsets.contains(key));
}

/// Sums the times of the clusters of each service.
fn durations_of(times: Times, names: &Names<'_>) -> BTreeMap<Labels, Histogram> {
    let mut durations: BTreeMap<Labels, Histogram> = BTreeMap::new();
    for ((rest, mut labels), lines) in times {
        let (Some(cluster), Some(histogram)) = (labels.remove(CLUSTER), lines.histogram()) else {
            continue;
        };
        let service = names.service(&cluster, &rest);
        labels.insert(SERVICE.to_owned(), service);
        durations
            .entry(labels)
            .and_modify(|sum| sum.add(&histogram))
            .or_insert(histogram);
    }
    durations
}

/// A histogram under construction, line by line.
#[derive(Debug, Default)]
struct HistogramLines {
    /// Bounds in milliseconds, with their counts.
    buckets: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

fn read_time(times: &mut Times, rest: &str, part: &str, line: &Line<'_>) {
    let Some((mut labels, value)) = line.read() else {
        return;
    };
    let bound = match part {
        "bucket" => match labels.remove("le").as_deref().and_then(read_number) {
            Some(bound) => bound,
            None => return,
        },
        _ => 0.0,
    };
    let lines = times.entry((rest.to_owned(), labels)).or_default();
    match part {
        "bucket" => lines.buckets.push((bound, value)),
        "sum" => lines.sum = value,
        "count" => lines.count = value,
        _ => {}
    }
}

impl HistogramLines {
    /// In seconds. `None`: not a histogram, since counts decrease or are not whole.
    fn histogram(mut self) -> Option<Histogram> {
        self.buckets
            .sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let count = whole(self.count)?;
        let (mut buckets, mut last) = (Vec::with_capacity(self.buckets.len()), 0);
        for (bound, value) in self.buckets {
            let value = whole(value)?;
            if value < last || value > count || bound.is_nan() {
                return None;
            }
            last = value;
            // The bucket without a bound is the count.
            if bound.is_finite()
                && buckets
                    .last()
                    .is_none_or(|(last, _)| *last < bound / MILLIS)
            {
                buckets.push((bound / MILLIS, value));
            }
        }
        let sum = self.sum / MILLIS;
        sum.is_finite().then_some(Histogram {
            buckets,
            sum,
            count,
        })
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked to be one
fn whole(value: f64) -> Option<u64> {
    /// Above it, not every integer has a floating-point number.
    const LARGEST: f64 = 9_007_199_254_740_992.0;
    (value.fract() == 0.0 && (0.0..=LARGEST).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use levee_filter::label::label;
    use proptest::prelude::*;
    use std::fmt::Write as _;

    fn aliases<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs
            .map(|(cluster, service)| (cluster.to_owned(), service.to_owned()))
            .into()
    }

    fn service(name: &str) -> Labels {
        aliases([(SERVICE, name)])
    }

    /// A histogram as Envoy writes it.
    fn times(rest: &str, cluster: &str, buckets: &[(&str, u32)], sum: f64) -> String {
        let name = format!("envoy_cluster_{rest}upstream_rq_time");
        let mut page = format!("# TYPE {name} histogram\n");
        for (bound, count) in buckets {
            let _ = writeln!(
                page,
                "{name}_bucket{{{CLUSTER}=\"{cluster}\",le=\"{bound}\"}} {count}"
            );
        }
        let count = buckets.last().map_or(0, |(_, count)| *count);
        let _ = writeln!(page, "{name}_sum{{{CLUSTER}=\"{cluster}\"}} {sum}");
        let _ = writeln!(page, "{name}_count{{{CLUSTER}=\"{cluster}\"}} {count}\n");
        page
    }

    const FEW: [(&str, u32); 4] = [("0.5", 1), ("25", 2), ("3600000", 3), ("+Inf", 4)];

    fn few(times: u64, sum: f64) -> Histogram {
        Histogram {
            buckets: vec![(0.0005, times), (0.025, 2 * times), (3600.0, 3 * times)],
            sum,
            count: 4 * times,
        }
    }

    #[test]
    fn the_filters_metrics_keep_their_names_and_labels() {
        let page = "# TYPE circuit_breaker_state gauge\ncircuit_breaker_state{service=\"auth\"} 2\n\
             circuit_breaker_requests_total{outcome=\"failure\",service=\"a|b.c\",zone=\"x\"} 7\n\
             circuit_breaker_failures_total{service=\"auth\"} NaN\n\
             circuit_breaker_failures_total{service=\"chat\"} -1\n\
             circuit_breaker_state_service_auth{} 1\nenvoy_server_live{} 1\nbroken{ 1\n";
        let gateway = Gateway::read(page, &aliases([]));
        let state = &gateway.values[filter::STATE];
        assert_eq!(*state, [(service("auth"), 2.0)].into());
        let labels = aliases([("outcome", "failure"), (SERVICE, "a|b.c"), ("zone", "x")]);
        assert_eq!(gateway.values[filter::REQUESTS], [(labels, 7.0)].into());
        assert_eq!(gateway.values.len(), 2, "{gateway:?}");
        assert_eq!(gateway.durations, BTreeMap::new());
    }

    #[test]
    fn durations_are_envoys_own_in_seconds() {
        let page = times("", "auth", &FEW, 61.5);
        let gateway = Gateway::read(&page, &aliases([]));
        assert_eq!(
            gateway.durations,
            [(service("auth"), few(1, 0.0615))].into()
        );
    }

    #[test]
    fn parts_of_a_clusters_requests_are_not_counted_twice() {
        let parts = [
            "external_",
            "internal_",
            "canary_",
            "zone_a_b_",
            "default_svc_",
            "default_svc_external_",
            "default_svc_zone_eu_1_eu_2_",
        ];
        let page = parts.map(|rest| times(rest, "auth", &FEW, 1000.0)).concat()
            + &times("", "auth", &FEW, 1000.0);
        let gateway = Gateway::read(&page, &aliases([]));
        let wanted = [
            (service("auth"), few(1, 1.0)),
            (service("auth.default_svc"), few(1, 1.0)),
        ];
        assert_eq!(gateway.durations, wanted.into());
    }

    #[test]
    fn a_clusters_own_name_may_end_like_a_part() {
        let page = times("prod_internal_", "auth", &FEW, 1000.0)
            + &times("zone_one_", "chat", &FEW, 1000.0)
            + &times("", "video", &FEW, 1000.0)
            + &times("canary_", "video", &FEW, 1000.0);
        let known = "circuit_breaker_state{service=\"video.canary\"} 0\n";
        let gateway = Gateway::read(&(page + known), &aliases([]));
        let names: Vec<&str> = gateway
            .durations
            .keys()
            .map(|labels| labels[SERVICE].as_str())
            .collect();
        let wanted = [
            "auth.prod_internal",
            "chat.zone_one",
            "video",
            "video.canary",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn clusters_that_are_one_service_are_one_histogram() {
        let page = times("", "auth-a", &FEW, 1000.0)
            + &times("", "auth-b", &FEW, 500.0)
            + &times("", "chat", &FEW, 250.0);
        let aliases = aliases([("auth-a", "auth"), ("auth-b", "auth")]);
        let gateway = Gateway::read(&page, &aliases);
        let wanted = [
            (service("auth"), few(2, 1.5)),
            (service("chat"), few(1, 0.25)),
        ];
        assert_eq!(gateway.durations, wanted.into());
    }

    #[test]
    fn a_name_with_dots_is_put_together_by_what_is_known() {
        let named = |page: &str, aliases: &BTreeMap<String, String>| {
            let gateway = Gateway::read(page, aliases);
            let (labels, _) = gateway.durations.into_iter().next().unwrap();
            labels[SERVICE].clone()
        };
        let page = times("default_svc_my_domain_", "outbound|80||auth", &FEW, 1.0);
        assert_eq!(
            named(&page, &aliases([])),
            "outbound|80||auth.default_svc_my_domain",
            "nobody knows better"
        );
        let met = "circuit_breaker_state{service=\"outbound|80||auth.default.svc.my-domain\"} 0\n";
        assert_eq!(
            named(&format!("{met}{page}"), &aliases([])),
            "outbound|80||auth.default.svc.my-domain"
        );
        let alias = aliases([("outbound|80||auth.default.svc.my-domain", "auth")]);
        assert_eq!(named(&page, &alias), "auth");
        // Where stats_tags give the whole name to the label.
        let page = times("", "outbound|80||auth.default.svc.my-domain", &FEW, 1.0);
        assert_eq!(named(&page, &alias), "auth");
    }

    #[test]
    fn a_label_is_made_as_the_filter_makes_it() {
        let page = times("", "a b", &FEW, 1.0);
        let gateway = Gateway::read(&page, &aliases([]));
        let wanted = label("a b");
        assert!(wanted.starts_with("a_b_"), "{wanted}");
        assert!(gateway.durations.contains_key(&service(&wanted)));
    }

    #[test]
    fn what_is_no_histogram_is_left_out() {
        for buckets in [
            &[("1", 5), ("2", 3), ("+Inf", 5)][..],
            &[("1", 5), ("+Inf", 4)],
            &[("nan", 1), ("+Inf", 1)],
        ] {
            let page = times("", "auth", buckets, 1.0);
            let gateway = Gateway::read(&page, &aliases([]));
            assert!(gateway.durations.is_empty(), "{buckets:?}");
        }
        let page = times("", "auth", &FEW, f64::NAN);
        assert!(Gateway::read(&page, &aliases([])).durations.is_empty());
        let lone = "envoy_cluster_upstream_rq_time_bucket{le=\"1\"} 1\n";
        assert_eq!(Gateway::read(lone, &aliases([])), Gateway::default());
    }

    proptest! {
        #[test]
        fn no_input_is_a_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let page = String::from_utf8_lossy(&bytes).into_owned();
            let _ = Gateway::read(&page, &aliases([]));
        }

        /// Bytes that look more like a page than chance would have it.
        #[test]
        fn nor_is_one_of_the_right_words_in_a_wrong_order(
            words in proptest::collection::vec(prop_oneof![
                Just("circuit_breaker_state"), Just("envoy_cluster_"), Just("upstream_rq_time_"), Just("bucket"),
                Just("sum"), Just("count"), Just("external_"), Just("{"), Just("}"), Just("envoy_cluster_name="),
                Just("service="), Just("le="), Just("\"a\""), Just("\""), Just("\\"), Just(","), Just(" "), Just("\n"),
                Just("1"), Just("+Inf"), Just("NaN"), Just("-1"), Just("1e308"), Just("\u{e9}"), Just("."),
            ], 0..60),
        ) {
            let _ = Gateway::read(&words.concat(), &aliases([("a", "b"), ("a.b", "c")]));
        }
    }
}
