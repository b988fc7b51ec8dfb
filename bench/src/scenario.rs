//! The scenarios by name, each with its unit and its goal.

pub struct Scenario {
    pub name: &'static str,
    pub unit: &'static str,
    /// Rates are better when higher, times and sizes when lower.
    pub higher_is_better: bool,
    /// The ratio that is wanted; over 1 ours is better.
    pub goal: f64,
}

const fn rate(name: &'static str, unit: &'static str, goal: f64) -> Scenario {
    Scenario { name, unit, higher_is_better: true, goal }
}

const fn cost(name: &'static str, unit: &'static str, goal: f64) -> Scenario {
    Scenario { name, unit, higher_is_better: false, goal }
}

pub const SCENARIOS: [Scenario; 26] = [
    rate("small", "tx/s", 2.0),
    rate("bulk_insert", "rows/s", 3.0),
    rate("bulk_mixed", "rows/s", 2.0),
    rate("decode_limit", "tx/s", 0.8),
    cost("skip", "s", 4.0),
    cost("rebuild", "s", 30.0),
    cost("row_compare", "s", 10.0),
    // Beside those that were asked for: where nearly every page of the table changes.
    cost("rebuild_spread", "s", 1.0),
    cost("size", "s", 0.9),
    cost("fixed_cost", "s", 2.0),
    cost("plan", "ms", 2.0),
    cost("reconcile", "s", 2.0),
    rate("overhead", "tx/s", 0.98),
    rate("barrier", "tx/s", 0.99),
    cost("memory", "MB", 1.0),
    rate("rebuild_copy/1", "rows/s", 0.9),
    rate("rebuild_copy/2", "rows/s", 1.5),
    rate("rebuild_compare/0", "rows/s", 3.0),
    rate("rebuild_compare/0.1", "rows/s", 3.0),
    rate("rebuild_compare/1", "rows/s", 3.0),
    cost("rebuild_memory", "MB", 1.0),
    cost("rebuild_resume/target", "chunks", 1.0),
    cost("rebuild_resume/session", "chunks", 1.0),
    cost("node_create", "s", 1.0),
    cost("restore/1", "s", 1.0),
    cost("restore/10", "s", 1.0),
];

pub fn of(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
