//! What the definition files ask for, and what is to be done about it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{InstanceName, Workload};

/// What each file defines, by the file's name, or why that is not known.
pub(super) type Files = BTreeMap<String, Result<Vec<Workload>, String>>;

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The instances to take down: no file asks for them any more.
    pub(super) down: BTreeSet<InstanceName>,
    /// What to bring up, a file each.
    pub(super) up: BTreeMap<String, Vec<Workload>>,
    /// Which names the files ask for from now on.
    pub(super) owners: BTreeMap<InstanceName, String>,
    /// The files that are at fault, and why: what they asked for last stays.
    pub(super) complaints: BTreeMap<String, String>,
}

/// `owners`: the names that files asked for so far. `recorded`: all names that are recorded. `applied`: what was brought
/// up of each file already.
pub(super) fn decide(
    files: &Files,
    owners: &BTreeMap<InstanceName, String>,
    recorded: &BTreeSet<InstanceName>,
    applied: &BTreeMap<String, Vec<Workload>>,
) -> Decision {
    let mut decision = Decision::default();
    let mut good: BTreeMap<&String, &Vec<Workload>> = BTreeMap::new();
    let mut claimed: BTreeMap<&InstanceName, &String> = BTreeMap::new();
    for (file, found) in files {
        let refused = match found {
            Ok(workloads) => refusal(workloads, owners, recorded, &claimed),
            Err(why) => Some(why.clone()),
        };
        match (found, refused) {
            (Ok(workloads), None) => {
                claimed.extend(workloads.iter().map(|workload| (workload.name(), file)));
                good.insert(file, workloads);
            }
            (_, why) => drop(decision.complaints.insert(file.clone(), why.unwrap_or_default())),
        }
    }
    for (name, file) in owners {
        match claimed.get(name) {
            Some(file) => drop(decision.owners.insert(name.clone(), (*file).clone())),
            // Its file is there, and cannot be understood.
            None if decision.complaints.contains_key(file) => {
                decision.owners.insert(name.clone(), file.clone());
            }
            None if recorded.contains(name) => drop(decision.down.insert(name.clone())),
            None => {}
        }
    }
    for (name, file) in claimed {
        decision.owners.insert(name.clone(), file.clone());
    }
    for (file, workloads) in good {
        if applied.get(file) != Some(workloads) {
            decision.up.insert(file.clone(), workloads.clone());
        }
    }
    decision
}

/// Why a file is not applied although it can be read.
fn refusal(
    workloads: &[Workload],
    owners: &BTreeMap<InstanceName, String>,
    recorded: &BTreeSet<InstanceName>,
    claimed: &BTreeMap<&InstanceName, &String>,
) -> Option<String> {
    workloads.iter().map(Workload::name).find_map(|name| {
        if let Some(other) = claimed.get(name) {
            return Some(format!("{name} is defined in {other} as well"));
        }
        let strangers = recorded.contains(name) && !owners.contains_key(name);
        strangers.then(|| format!("{name} was brought up by somebody else: it is left alone"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{self, Source};

    fn workload(name: &str, port: u16) -> Workload {
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Function","name":"{name}","spec":{{"function":{{"exposure":{{"port":{port},"targetPort":80}}}}}}}}"#
        );
        definition::parse(&[Source { name: "x".into(), text }]).unwrap().remove(0)
    }

    fn name(text: &str) -> InstanceName {
        text.parse().unwrap()
    }

    fn owners(all: &[(&str, &str)]) -> BTreeMap<InstanceName, String> {
        all.iter().map(|(owned, file)| (name(owned), (*file).to_owned())).collect()
    }

    fn names(all: &[&str]) -> BTreeSet<InstanceName> {
        all.iter().map(|text| name(text)).collect()
    }

    fn files(all: Vec<(&str, Result<Vec<Workload>, &str>)>) -> Files {
        let file = |(file, found): (&str, Result<Vec<Workload>, &str>)| {
            (file.to_owned(), found.map_err(str::to_owned))
        };
        all.into_iter().map(file).collect()
    }

    #[test]
    fn a_file_brings_up_and_its_end_takes_down() {
        let found = files(vec![("a", Ok(vec![workload("one", 1)]))]);
        let up = decide(&found, &owners(&[]), &names(&[]), &BTreeMap::new());
        assert_eq!(up.up, [("a".to_owned(), vec![workload("one", 1)])].into());
        assert_eq!(up.owners, owners(&[("one", "a")]));
        let again = decide(&found, &up.owners, &names(&["one"]), &up.up);
        assert_eq!(again, Decision { owners: owners(&[("one", "a")]), ..Decision::default() });
        let gone = decide(&files(vec![]), &up.owners, &names(&["one", "other"]), &up.up);
        assert_eq!(gone, Decision { down: names(&["one"]), ..Decision::default() });
    }

    #[test]
    fn a_file_at_fault_leaves_what_it_asked_for() {
        let known = owners(&[("one", "a"), ("two", "b")]);
        let found = files(vec![("a", Err("a:1:2: no")), ("b", Ok(vec![workload("two", 2)]))]);
        let decision = decide(&found, &known, &names(&["one", "two"]), &BTreeMap::new());
        assert_eq!(decision.down, names(&[]));
        assert_eq!(decision.owners, known);
        assert_eq!(decision.complaints, [("a".to_owned(), "a:1:2: no".to_owned())].into());
        assert!(decision.up.contains_key("b"));
    }

    #[test]
    fn what_moves_to_another_file_stays_up() {
        let known = owners(&[("one", "a")]);
        let found = files(vec![("b", Ok(vec![workload("one", 1)]))]);
        let decision = decide(&found, &known, &names(&["one"]), &BTreeMap::new());
        assert_eq!(decision.down, names(&[]));
        assert_eq!(decision.owners, owners(&[("one", "b")]));
    }

    #[test]
    fn nobody_takes_what_is_another_s() {
        let found = files(vec![
            ("a", Ok(vec![workload("one", 1), workload("theirs", 2)])),
            ("b", Ok(vec![workload("two", 3)])),
            ("c", Ok(vec![workload("two", 4)])),
        ]);
        let decision = decide(&found, &owners(&[]), &names(&["theirs"]), &BTreeMap::new());
        assert_eq!(decision.up.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(
            decision.complaints.into_values().collect::<Vec<_>>(),
            [
                "theirs was brought up by somebody else: it is left alone",
                "two is defined in b as well"
            ]
        );
    }
}
