//! Decides what to do about the definition files. Pure.

use std::collections::{BTreeMap, BTreeSet};

use riklet_core::model::{InstanceName, Workload};

/// The definitions of each file by its name, or the error that makes them unknown.
pub(super) type Files = BTreeMap<String, Result<Vec<Workload>, String>>;

/// A decision about the definition files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The instances to take down, since no file defines them any more.
    pub(super) down: BTreeSet<InstanceName>,
    /// The workloads to bring up, by file.
    pub(super) up: BTreeMap<String, Vec<Workload>>,
    /// The file that owns each name from now on.
    pub(super) owners: BTreeMap<InstanceName, String>,
    /// The invalid files, with the reasons. Their last valid contents stay.
    pub(super) complaints: BTreeMap<String, String>,
}

/// The file that claims each name.
type Claims<'a> = BTreeMap<&'a InstanceName, &'a String>;

/// Decides what to do about these files. `owners` has the names that files own so far, `recorded` all recorded names,
/// and `applied` the workloads of each file that were brought up.
pub(super) fn decide(
    files: &Files,
    owners: &BTreeMap<InstanceName, String>,
    recorded: &BTreeSet<InstanceName>,
    applied: &BTreeMap<String, Vec<Workload>>,
) -> Decision {
    let unread = files
        .iter()
        .filter_map(|(file, found)| found.as_ref().err().map(|why| (file.clone(), why.clone())));
    let mut decision = Decision { complaints: unread.collect(), ..Decision::default() };
    // A refused file keeps the names that it owns; so other files that claim these may have to be refused too.
    let claimed = loop {
        let known = decision.complaints.len();
        let claimed = claims(files, owners, recorded, &mut decision.complaints);
        if decision.complaints.len() == known {
            break claimed;
        }
    };
    for (name, file) in owners.iter().filter(|(name, _)| !claimed.contains_key(name)) {
        if decision.complaints.contains_key(file) {
            decision.owners.insert(name.clone(), file.clone());
        } else if recorded.contains(name) {
            decision.down.insert(name.clone());
        }
    }
    let done = |file: &String| {
        let wanted = files.get(file).and_then(|found| found.as_ref().ok());
        wanted.is_some() && applied.get(file) == wanted
    };
    for (name, file) in claimed {
        // Somebody has taken it down since. Whoever brings it up next owns it.
        if recorded.contains(name) || !done(file) {
            decision.owners.insert(name.clone(), file.clone());
        }
    }
    for (file, found) in files {
        if let Ok(workloads) = found
            && !decision.complaints.contains_key(file)
            && !done(file)
        {
            decision.up.insert(file.clone(), workloads.clone());
        }
    }
    decision
}

/// Returns the file that claims each name, among the valid files. If several files define one name, its owner keeps
/// it, and the others are refused.
fn claims<'a>(
    files: &'a Files,
    owners: &BTreeMap<InstanceName, String>,
    recorded: &BTreeSet<InstanceName>,
    complaints: &mut BTreeMap<String, String>,
) -> Claims<'a> {
    let defines = |file: &String, name: &InstanceName| {
        let found = files.get(file).and_then(|found| found.as_ref().ok());
        found.is_some_and(|workloads| workloads.iter().any(|workload| workload.name() == name))
    };
    let mut claimed = Claims::new();
    for (file, found) in files {
        let Ok(workloads) = found else { continue };
        if complaints.contains_key(file) {
            continue;
        }
        let refusal = workloads.iter().map(Workload::name).find_map(|name| {
            let owner = owners.get(name).filter(|owner| *owner != file);
            let owner = owner.filter(|o| complaints.contains_key(*o) || defines(o, name));
            if let Some(other) = owner.or_else(|| claimed.get(name).copied()) {
                return Some(format!("{name} is defined in {other} as well"));
            }
            let strangers = recorded.contains(name) && !owners.contains_key(name);
            strangers.then(|| format!("{name} was brought up by somebody else: it is left alone"))
        });
        match refusal {
            Some(why) => drop(complaints.insert(file.clone(), why)),
            None => claimed.extend(workloads.iter().map(|workload| (workload.name(), file))),
        }
    }
    claimed
}

#[cfg(test)]
mod tests {
    use super::*;
    use riklet_core::definition::{self, Source};

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
    fn functions_come_and_go_with_their_file() {
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
    fn invalid_file_keeps_its_last_valid_contents() {
        let known = owners(&[("one", "a"), ("two", "b")]);
        let found = files(vec![("a", Err("a:1:2: no")), ("b", Ok(vec![workload("two", 2)]))]);
        let decision = decide(&found, &known, &names(&["one", "two"]), &BTreeMap::new());
        assert_eq!(decision.down, names(&[]));
        assert_eq!(decision.owners, known);
        assert_eq!(decision.complaints, [("a".to_owned(), "a:1:2: no".to_owned())].into());
        assert!(decision.up.contains_key("b"));
    }

    #[test]
    fn function_moved_to_another_file_stays_up() {
        let known = owners(&[("one", "a")]);
        let found = files(vec![("b", Ok(vec![workload("one", 1)]))]);
        let decision = decide(&found, &known, &names(&["one"]), &BTreeMap::new());
        assert_eq!(decision.down, names(&[]));
        assert_eq!(decision.owners, owners(&[("one", "b")]));
    }

    #[test]
    fn manifest_cannot_claim_an_owned_name() {
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

    #[test]
    fn new_file_cannot_claim_a_name_of_another_file() {
        let known = owners(&[("one", "m"), ("two", "m")]);
        let all = names(&["one", "two"]);
        let mine = || Ok(vec![workload("one", 1), workload("two", 2)]);
        let newcomer = || Ok(vec![workload("one", 9)]);
        let complaint: BTreeMap<_, _> =
            [("a".to_owned(), "one is defined in m as well".to_owned())].into();
        let decision =
            decide(&files(vec![("a", newcomer()), ("m", mine())]), &known, &all, &BTreeMap::new());
        assert_eq!((&decision.complaints, &decision.owners), (&complaint, &known));
        assert_eq!(decision.up.keys().collect::<Vec<_>>(), ["m"]);
        // The outcome is the same if the owning file cannot be read, or no longer defines the name and is refused.
        let stranger = Ok(vec![workload("theirs", 3)]);
        for bad in [Err("m:1:1: no"), stranger] {
            let found = files(vec![("a", newcomer()), ("m", bad)]);
            let decision = decide(&found, &known, &names(&["one", "two", "theirs"]), &[].into());
            assert_eq!(decision.complaints.get("a"), complaint.get("a"));
            assert_eq!((decision.owners, decision.down), (known.clone(), names(&[])));
        }
    }

    #[test]
    fn function_taken_down_by_hand_is_not_brought_up_again() {
        let found = files(vec![("a", Ok(vec![workload("one", 1)]))]);
        let applied = BTreeMap::from([("a".to_owned(), vec![workload("one", 1)])]);
        let decision = decide(&found, &owners(&[]), &names(&[]), &applied);
        assert_eq!(decision, Decision::default());
        let decision = decide(&found, &owners(&[]), &names(&["one"]), &applied);
        assert_eq!(decision.complaints.len(), 1);
        assert_eq!(decision.up, BTreeMap::new());
    }
}
