use riklet_api::{Check, PlanDocument, ReportDocument, Unsettled};

/// Returns the steps and the obstacles of a plan, a line each.
pub(crate) fn plan(plan: &PlanDocument) -> String {
    planned(&plan.steps, &plan.blocked)
}

/// Returns the steps of a report, a line each.
pub(crate) fn steps(report: &ReportDocument) -> String {
    planned(&report.steps, &[])
}

/// Returns the differences of the firewall, the steps and obstacles of a repair, and what was interrupted or lost, a line
/// each.
pub(crate) fn check(check: &Check) -> String {
    let firewall = check.firewall.iter().map(|line| format!("! firewall: {line}\n"));
    let unsettled = check.unsettled.iter();
    let unsettled =
        unsettled.map(|Unsettled { name, phase }| format!("! record {name}: still {phase}\n"));
    let lost = check.lost.iter().map(|name| format!("! run {name}: its supervisor died\n"));
    let steps = planned(&check.steps, &check.blocked);
    firewall.chain([steps]).chain(unsettled).chain(lost).collect()
}

fn planned(steps: &[String], blocked: &[String]) -> String {
    let steps = steps.iter().map(|step| format!("{step}\n"));
    steps.chain(blocked.iter().map(|why| format!("! {why}\n"))).collect()
}
