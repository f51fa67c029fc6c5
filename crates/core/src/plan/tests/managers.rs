//! The files of other programs, and foreign chains that only their owner can change.

use super::*;
use crate::firewall::ForeignFamily;

#[test]
fn manager_files_are_written_before_interfaces_are_created() {
    let files = ManagerFile::ALL.map(|file| (file, None));
    let desired = desired([fragment(0, "hello", &[])]);
    let plan = plan(&desired, &Observed { manager_files: files.into(), ..nothing() });
    let told = plan.steps.iter().take_while(|step| matches!(step, Step::WriteManagerFile(..)));
    assert_eq!(told.count(), 2, "{plan}");
}

#[test]
fn only_files_with_our_mark_are_changed_and_only_our_own_are_removed() {
    let desired = desired([]);
    let removed = Desired { base_ruleset: None, ..desired.clone() };
    let other = Owner::new(OwnerId::new(99), "/run/other");
    let steps = |desired: &Desired, text: &str| {
        let manager_files = [(ManagerFile::Networkd, Some(text.to_owned()))].into();
        let observed = Observed { manager_files, ..after(desired) };
        let plan = plan(desired, &observed).to_string();
        let lines =
            plan.lines().filter(|line| line.contains("networkd") || line.contains("/run/systemd"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = ManagerFile::Networkd.text(&desired.owner);
    let theirs = ManagerFile::Networkd.text(&other);
    let edited = ours.replace("rik*", "eth*");
    let (written, gone) = (1, 1);
    for (text, changes, removals) in [
        (&*ours, 0, gone),
        (&edited, written, gone),
        (&theirs, written, 0),
        ("[Match]\nName=rik0\n[Network]\nDHCP=yes\n", 0, 0),
    ] {
        assert_eq!(steps(&desired, text).len(), changes, "{text}");
        assert_eq!(steps(&removed, text).len(), removals, "{text}");
    }
}

/// Returns a chain of this table that drops our traffic, and that only the owner of the table can change.
fn owned_chain(table: &str) -> ForeignChainState {
    let (table, chain) = (table.to_owned(), "forward".to_owned());
    ForeignChainState {
        foreign_chain: ForeignChain::Nftables { family: ForeignFamily::Inet, table, chain },
        drops: true,
        open: false,
        touched: false,
        owned: true,
        parts: BTreeSet::new(),
    }
}

#[test]
fn firewalld_gets_files_only_where_it_owns_its_table() {
    let desired = desired([]);
    let removed = Desired { base_ruleset: None, ..desired.clone() };
    let zone = ManagerFile::FirewalldZone;
    let steps = |desired: &Desired, chain: ForeignChainState, file: Option<String>| {
        let (foreign_chains, manager_files) = (vec![chain], [(zone, file)].into());
        let observed = Observed { foreign_chains, manager_files, ..after(desired) };
        let of_files =
            |step: &Step| matches!(step, Step::WriteManagerFile(..) | Step::RemoveManagerFile(_));
        plan(desired, &observed).steps.into_iter().filter(of_files).collect::<Vec<_>>()
    };
    let firewalld = || owned_chain("firewalld");
    let text = zone.text(&desired.owner);
    let write = [Step::WriteManagerFile(zone, text.clone())];
    assert_eq!(steps(&desired, firewalld(), None), write);
    assert_eq!(
        steps(&desired, ForeignChainState { owned: false, open: true, ..firewalld() }, None),
        []
    );
    assert_eq!(steps(&desired, owned_chain("other"), None), []);
    // The file stays, and stays ours, when firewalld no longer owns its table.
    let other = ForeignChainState { owned: false, open: true, ..firewalld() };
    assert_eq!(steps(&desired, other.clone(), Some(text.clone())), []);
    assert_eq!(steps(&desired, other, Some(text.replace("rik+", "eth+"))), write);
    // An administrator's file, or one that firewalld has written, stays.
    assert_eq!(steps(&desired, firewalld(), Some("<zone/>\n".to_owned())), []);
    assert_eq!(steps(&removed, firewalld(), Some("<zone/>\n".to_owned())), []);
    assert_eq!(steps(&removed, firewalld(), Some(text)), [Step::RemoveManagerFile(zone)]);
}

#[test]
fn a_plan_says_that_functions_are_cut_off_and_what_helps() {
    let desired = desired([]);
    let removed = Desired { base_ruleset: None, ..desired.clone() };
    let said = |desired: &Desired, chain: ForeignChainState, files: &[ManagerFile]| {
        let manager_files = files.iter().map(|&file| (file, Some(file.text(&desired.owner))));
        let manager_files = manager_files.collect();
        let observed = Observed { foreign_chains: vec![chain], manager_files, ..after(desired) };
        let plan = plan(desired, &observed);
        assert_eq!(plan.is_empty(), plan.cut_offs.is_empty(), "{plan}");
        plan.to_string()
    };
    let firewalld = || owned_chain("firewalld");
    let reload = said(&desired, firewalld(), &ManagerFile::ALL);
    assert!(reload.contains("inet firewalld forward") && reload.contains("--reload"), "{reload}");
    assert!(!reload.contains("contrib/firewalld"), "{reload}");
    let install = said(&desired, firewalld(), &[]);
    assert!(install.contains("contrib/firewalld"), "{install}");
    let other = said(&desired, owned_chain("other"), &ManagerFile::ALL);
    assert!(other.contains("have the owner accept"), "{other}");
    assert_eq!(
        said(&desired, ForeignChainState { drops: false, open: true, ..firewalld() }, &[]),
        ""
    );
    let observed = Observed { foreign_chains: vec![firewalld()], ..after(&removed) };
    assert!(plan(&removed, &observed).cut_offs.is_empty());
}
