//! A case: one operation of one library, in a loop.

use std::hint::black_box;
use std::time::{Duration, Instant};

pub struct Case {
    /// The library, with its version.
    pub library: String,
    /// The name of the operation in the table.
    pub operation: &'static str,
    /// Sets up, and repeats the operation this many times. Returns how long the repetitions took.
    pub run: Box<dyn Fn(u32) -> Duration>,
}

pub const PASS: &str = "pass";
pub const REFUSE: &str = "refuse";
pub const SUCCESS: &str = "success";
pub const FAILURE: &str = "failure";
pub const PASS_SUCCESS: &str = "pass+success";
pub const PASS_FAILURE: &str = "pass+failure";

impl Case {
    /// Runs `operation` on the result of `set_up`. The optimizer can see neither its input nor its output.
    pub fn new<S, R>(
        library: &str,
        operation: &'static str,
        set_up: impl Fn() -> S + 'static,
        does: impl Fn(&mut S) -> R + 'static,
    ) -> Self {
        Self {
            library: library.to_owned(),
            operation,
            run: Box::new(move |count| {
                let mut subject = set_up();
                let begin = Instant::now();
                for _ in 0..count {
                    black_box(does(black_box(&mut subject)));
                }
                begin.elapsed()
            }),
        }
    }

    /// The name on the command line.
    pub fn name(&self) -> String {
        format!("{}/{}", self.library, self.operation)
    }
}

/// The cost of the loop, which is part of all figures, and of reading a clock, which is part of those that say so.
pub fn floor() -> Vec<Case> {
    vec![
        Case::new("(the loop alone)", PASS, || 0_u64, |_| ()),
        Case::new("(a clock read)", PASS, || 0_u64, |_| Instant::now()),
    ]
}

/// Measures all cases in turn, `repetitions` times, so that disturbances of the machine affect all of them.
pub fn time(cases: &[Case], repetitions: usize, each: Duration) {
    let counts: Vec<u32> = cases.iter().map(|case| count_for(case, each)).collect();
    let mut nanos = vec![Vec::new(); cases.len()];
    for _ in 0..repetitions {
        for (place, case) in cases.iter().enumerate() {
            let took = (case.run)(counts[place]);
            nanos[place].push(took.as_secs_f64() * 1e9 / f64::from(counts[place]));
        }
    }
    for (case, nanos) in cases.iter().zip(nanos) {
        println!(
            "{{\"library\":\"{}\",\"operation\":\"{}\",\"nanos\":{nanos:?}}}",
            case.library, case.operation
        );
    }
}

/// The number of repetitions that take about as long as `each`.
fn count_for(case: &Case, each: Duration) -> u32 {
    let mut count = 1000;
    loop {
        let took = (case.run)(count);
        if took * 4 >= each || count > u32::MAX / 4 {
            let wanted = f64::from(count) * each.as_secs_f64() / took.as_secs_f64().max(1e-9);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within the range of u32"
            )]
            return wanted.clamp(1.0, f64::from(u32::MAX)) as u32;
        }
        count *= 2;
    }
}
