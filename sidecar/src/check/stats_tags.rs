//! What Envoy's `stats_tags` take out of the names of clusters' times: the sidecar knows a time's service by the label of
//! the cluster and what is left of the name.

use super::at::At;
use super::envoy::Envoy;
use regex::Regex;
use std::ops::Range;

/// The tag of the cluster, as `stats_tags` name it.
pub(super) const CLUSTER: &str = "envoy.cluster_name";

/// A cluster's times are named after it, between these two.
const PREFIX: &str = "cluster.";
pub(super) const SUFFIX: &str = "upstream_rq_time";

/// Envoy's name for the times of a cluster.
pub(super) fn time_of(cluster: &str) -> String {
    format!("{PREFIX}{cluster}.{SUFFIX}")
}

/// A tag with a regular expression. Its first group is taken out of a name; the second, or else the first, is the label.
pub(super) struct Rule<'a> {
    pub(super) at: At<'a>,
    regex: Regex,
}

/// Where the label of the cluster comes from.
pub(super) enum ClusterLabel<'a> {
    /// Envoy's default rule, which takes the first word of a cluster's name.
    Default,
    /// The first of these rules that matches.
    Rules(Vec<Rule<'a>>),
    /// Nowhere: this switches off the default rules, and there is no other.
    Missing(At<'a>),
}

/// The part of a name that a rule takes out, and the label it makes.
struct Taken<'t> {
    range: Range<usize>,
    label: &'t str,
}

/// The expression of a tag, where it is. `None`: it has none.
fn expression<'a>(tag: &At<'a>) -> Option<Result<Rule<'a>, regex::Error>> {
    let at = tag.get("regex").filter(|at| at.text() != Some(""))?;
    let regex = Regex::new(at.text()?);
    Some(regex.map(|regex| Rule { at, regex }))
}

fn is_for_cluster(tag: &At<'_>) -> bool {
    tag.text_at("tag_name") == Some(CLUSTER)
}

/// The tags that give all clusters the same fixed name.
pub(super) fn fixed_cluster_names<'a>(envoy: &Envoy<'a>) -> Vec<At<'a>> {
    let tags = envoy.list("stats_config.stats_tags").into_iter();
    tags.filter(is_for_cluster)
        .filter_map(|tag| tag.get("fixed_value"))
        .collect()
}

/// The rules of other tags. Expressions that this dialect can't read count as harmless: Envoy has another one.
pub(super) fn other_rules<'a>(envoy: &Envoy<'a>) -> Vec<Rule<'a>> {
    let tags = envoy.list("stats_config.stats_tags").into_iter();
    tags.filter(|tag| !is_for_cluster(tag) && tag.get("fixed_value").is_none())
        .filter_map(|tag| expression(&tag)?.ok())
        .collect()
}

impl<'a> ClusterLabel<'a> {
    /// Fails if Envoy's dialect of regular expressions has something that this one lacks.
    pub(super) fn read(envoy: &Envoy<'a>) -> Result<Self, regex::Error> {
        let tags = envoy.list("stats_config.stats_tags").into_iter();
        let own = tags.filter(|tag| is_for_cluster(tag) && tag.get("fixed_value").is_none());
        // `None`: Envoy's default rule for the tag, which goes before others of it.
        let expressions: Vec<Option<Rule<'a>>> = own
            .map(|tag| expression(&tag).transpose())
            .collect::<Result<_, _>>()?;
        let switch = envoy.find("stats_config.use_all_default_tags");
        let Some(switch) = switch.filter(|at| at.text() == Some("false")) else {
            return Ok(Self::Default);
        };
        if expressions.is_empty() {
            return Ok(Self::Missing(switch));
        }
        let rules: Option<Vec<Rule<'a>>> = expressions.into_iter().collect();
        Ok(rules.map_or(Self::Default, Self::Rules))
    }

    pub(super) fn rules(&self) -> &[Rule<'a>] {
        match self {
            Self::Rules(rules) => rules,
            Self::Default | Self::Missing(_) => &[],
        }
    }

    /// The first of these clusters whose whole name the sidecar can't tell from its time, which `other` may change too.
    pub(super) fn first_unknown<'c>(
        &self,
        clusters: &[&'c str],
        other: Option<&Rule<'_>>,
    ) -> Option<&'c str> {
        let mut clusters = clusters.iter().copied();
        clusters.find(|cluster| !self.is_known(cluster, other))
    }

    fn is_known(&self, cluster: &str, other: Option<&Rule<'_>>) -> bool {
        let time = time_of(cluster);
        let Some(own) = self.taken(cluster, &time) else {
            return false;
        };
        let other = other.and_then(|rule| rule.regex.captures(&time)?.get(1));
        let other = other.map_or(0..0, |group| group.range());
        let is_left = |place: &usize| !own.range.contains(place) && !other.contains(place);
        let left = time.char_indices().filter(|(place, _)| is_left(place));
        let left: String = left.map(|(_, char)| char).collect();
        // The sidecar joins the label and the rest of the cluster's name in the metric's name.
        match cluster.strip_prefix(own.label) {
            Some("") => left == format!("{PREFIX}{SUFFIX}"),
            Some(rest) => rest
                .strip_prefix('.')
                .is_some_and(|rest| left == time_of(rest)),
            None => false,
        }
    }

    /// `None`: the time gets no label.
    fn taken<'t>(&self, cluster: &'t str, time: &'t str) -> Option<Taken<'t>> {
        match self {
            Self::Default => {
                let label = cluster.split('.').next().unwrap_or_default();
                let start = PREFIX.len();
                let range = start..start + label.len() + 1;
                Some(Taken { range, label })
            }
            Self::Rules(rules) => {
                let groups = rules.iter().find_map(|rule| rule.regex.captures(time))?;
                let taken = groups.get(1)?;
                let label = groups.get(2).unwrap_or(taken).as_str();
                let range = taken.range();
                Some(Taken { range, label })
            }
            Self::Missing(_) => None,
        }
    }
}
