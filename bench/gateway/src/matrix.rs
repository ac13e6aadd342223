//! Which combinations are measured: the informative ones, in a quarter of an hour on two CPUs.

use crate::backend::Backend;
use crate::client::Protocol;
use crate::measure::{Case, Expected, Plan, Proxies};
use crate::part::Part;
use crate::report::Report;
use crate::tools::Tools;
use crate::variant::{Place, Variant};
use anyhow::{Context, Result};
use levee_harness::processor;
use std::path::{Path, PathBuf};

/// What all measurements share.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    pub tools: &'a Tools,
    /// The folder for the proxies' files.
    pub folder: &'a Path,
    /// Other builds of the filter.
    pub also: &'a [(String, PathBuf)],
    /// Overrides the number of rounds.
    pub rounds: Option<usize>,
}

/// The CPUs for a proxy with this many workers, and those for the load and the service. They are disjoint if there are
/// enough.
pub fn share_cpus(workers: usize) -> (Vec<usize>, Vec<usize>) {
    let all = processor::allowed_cpus();
    if all.len() > workers {
        let (proxy, load) = all.split_at(workers);
        (proxy.to_vec(), load.to_vec())
    } else {
        (all.clone(), all)
    }
}

/// All that is compared with one number of workers.
const EACH: [Variant; 7] = [
    Variant::Bare,
    Variant::Levee,
    Variant::Floor,
    Variant::Lua,
    Variant::AdmissionControl,
    Variant::Go,
    Variant::Nginx,
];

const COMBINATIONS: [(Protocol, &str); 4] = [
    (Protocol::Http1, "small"),
    (Protocol::Http1, "large"),
    (Protocol::Http2, "small"),
    (Protocol::Http2, "large"),
];

impl Bench<'_> {
    /// Bare Envoy, Levee, the floor, Lua, and other builds.
    pub fn quick(&self, report: &mut Report) -> Result<()> {
        let mut variants = vec![Variant::Bare, Variant::Levee, Variant::Floor, Variant::Lua];
        variants.extend(self.builds());
        self.with(1, &variants, |plan, proxies| {
            let cases: Vec<Case> = variants.iter().cloned().map(Case::good).collect();
            let plan = plan.lasting(20, 6_000, self.rounds);
            report.cpu.push(plan.cpu("Good requests", &cases, proxies));
            Ok(())
        })
    }

    /// All measurements with one worker.
    pub fn one_worker(&self, parts: &[Part], report: &mut Report) -> Result<()> {
        let mut variants = EACH.to_vec();
        variants.extend([
            Variant::LeveeDefaults,
            Variant::RecommendedWithout,
            Variant::Recommended,
        ]);
        variants.extend(self.builds());
        let has = |part| parts.contains(&part);
        if !has(Part::Cpu) && !has(Part::Failure) && !has(Part::Latency) {
            return Ok(());
        }
        self.with(1, &variants, |plan, proxies| {
            if has(Part::Cpu) {
                let cases = all_good(&variants);
                let plan = plan.lasting(15, 6_000, self.rounds);
                report.cpu.push(plan.cpu("Good requests", &cases, proxies));
                self.other_combinations(plan, report, proxies);
            }
            if has(Part::Failure) {
                let plan = plan.lasting(9, 6_000, self.rounds);
                report
                    .cpu
                    .push(plan.cpu("While a service fails", &failing(), proxies));
            }
            if has(Part::Latency) {
                let plan = plan.lasting(5, 0, self.rounds);
                // Before they become cases, which refer to each other by index.
                let variants: Vec<Variant> = variants
                    .iter()
                    .filter(|variant| **variant != Variant::LeveeDefaults)
                    .cloned()
                    .collect();
                let cases = all_good(&variants);
                report
                    .latency
                    .push(plan.latency("Latency of good requests", &cases, proxies)?);
                let plan = Plan {
                    protocol: Protocol::Http2,
                    ..plan
                };
                let cases = all_good(&EACH);
                report
                    .latency
                    .push(plan.latency("Latency of good requests", &cases, proxies)?);
            }
            Ok(())
        })
    }

    /// All measurements with two workers.
    pub fn two_workers(&self, report: &mut Report) -> Result<()> {
        self.with(2, &EACH, |plan, proxies| {
            let plan = plan.lasting(7, 6_000, self.rounds);
            let cases = all_good(&EACH);
            report.cpu.push(plan.cpu("Good requests", &cases, proxies));
            self.other_combinations(plan, report, proxies);
            let plan = plan.lasting(3, 0, self.rounds);
            report
                .latency
                .push(plan.latency("Latency of good requests", &cases, proxies)?);
            Ok(())
        })
    }

    fn other_combinations(&self, plan: Plan, report: &mut Report, proxies: &Proxies) {
        for (protocol, answer) in &COMBINATIONS[1..] {
            let plan = Plan {
                protocol: *protocol,
                answer,
                ..plan
            }
            .lasting(7, 4_000, self.rounds);
            report
                .cpu
                .push(plan.cpu("Good requests", &all_good(&EACH), proxies));
        }
    }

    fn builds(&self) -> impl Iterator<Item = Variant> {
        self.also
            .iter()
            .map(|(name, file)| Variant::Build(name.clone(), file.clone()))
    }

    /// Starts the proxies with this many workers, and measures them.
    fn with(
        &self,
        workers: usize,
        variants: &[Variant],
        measure: impl FnOnce(Plan, &Proxies) -> Result<()>,
    ) -> Result<()> {
        let (cpus, load_cpus) = share_cpus(workers);
        let backend = Backend::start(&load_cpus)?;
        let place = Place {
            tools: self.tools,
            backend: &backend,
            folder: self.folder,
            workers,
            cpus: &cpus,
        };
        let mut proxies = Proxies::new();
        for variant in variants {
            if *variant == Variant::Nginx && self.tools.nginx.is_none() {
                continue;
            }
            let running = place
                .start(variant)
                .with_context(|| variant.name().to_owned())?;
            proxies.insert(variant.clone(), running);
        }
        let plan = Plan {
            place,
            load_cpus: &load_cpus,
            protocol: Protocol::Http1,
            answer: "small",
            rounds: 1,
            requests: 0,
            services: &[],
        };
        measure(plan, &proxies)
    }
}

impl Plan<'_> {
    /// With this many rounds, unless overridden, and requests.
    pub fn lasting(self, rounds: usize, requests: u64, asked_for: Option<usize>) -> Self {
        Self {
            rounds: asked_for.unwrap_or(rounds),
            requests,
            ..self
        }
    }
}

/// Good requests to each. The recommended configuration is compared with itself without the filter.
fn all_good(variants: &[Variant]) -> Vec<Case> {
    let without = variants
        .iter()
        .position(|variant| *variant == Variant::RecommendedWithout);
    let case = |variant: &Variant| match (variant, without) {
        (Variant::Recommended, Some(baseline)) => Case {
            baseline,
            ..Case::good(variant.clone())
        },
        _ => Case::good(variant.clone()),
    };
    variants.iter().map(case).collect()
}

/// Active breakers, compared with bare Envoy, which passes everything on.
fn failing() -> Vec<Case> {
    use Expected::{Good, Refused, SomeRefused, TenthFailed};
    let of = |variant, note, service, expected| Case::good(variant).with(note, service, expected);
    vec![
        Case::good(Variant::Bare),
        of(Variant::Bare, "a direct_response", "direct", Refused),
        of(Variant::Floor, "open", "failing", Refused),
        of(Variant::Levee, "open", "failing", Refused),
        of(Variant::Lua, "open", "failing", Refused),
        of(Variant::Go, "open", "failing", Refused),
        of(Variant::Levee, "half-open", "switched", SomeRefused),
        Case {
            clients: 3,
            ..of(Variant::Bare, "3 clients", "service", Good)
        },
        Case {
            clients: 3,
            baseline: 7,
            ..of(
                Variant::Levee,
                "probes only, 3 clients",
                "switched",
                SomeRefused,
            )
        },
        of(Variant::Bare, "10 % errors", "tenth", TenthFailed),
        Case {
            baseline: 9,
            ..of(
                Variant::Levee,
                "10 % errors, stays closed",
                "tenth",
                TenthFailed,
            )
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakers_at_work_are_compared_with_bare_envoy_under_the_same_load() {
        let cases = failing();
        for case in cases.iter().filter(|case| case.variant != Variant::Bare) {
            let baseline = &cases[case.baseline];
            let fails = |case: &Case| case.expected == Expected::TenthFailed;
            assert_eq!(baseline.variant, Variant::Bare, "{case:?}");
            assert_eq!(baseline.clients, case.clients, "{case:?}");
            assert_eq!(fails(baseline), fails(case), "{case:?}");
        }
    }

    #[test]
    fn the_recommended_configuration_is_compared_with_itself_without_the_filter() {
        let cases = all_good(&[
            Variant::Bare,
            Variant::RecommendedWithout,
            Variant::Recommended,
        ]);
        let baselines: Vec<usize> = cases.iter().map(|case| case.baseline).collect();
        assert_eq!(baselines, [0, 0, 1]);
    }
}
