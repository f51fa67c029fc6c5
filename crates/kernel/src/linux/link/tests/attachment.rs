//! Tests of attaching to a TAP: the users who may, and the number of queues.

use super::*;

#[test]
fn creation_fails_if_the_tap_is_opened_before_it_has_its_owner() {
    isolated(|| {
        let several = Tap { owner: Some(0), group: None, multi_queue: true };
        let (mut route, spec) = (route(), LinkSpec { device: Device::Tap(several), ..spec(1) });
        let before = ip("-j link");
        let new = NewTap::create(&spec.name, true, 77).unwrap();
        let stranger = tap::open().unwrap();
        tap::set_interface(&stranger, &spec.name, 0x0100).unwrap();
        assert_eq!(route.queues(&spec.name), Ok(2));
        let refused = route.furnish(new, &spec, several).unwrap_err();
        assert_eq!(refused.refusal().errno, Some(Refusal::EBUSY), "{refused}");
        assert_eq!(ip("-j link"), before, "nobody keeps it");
        route.create_link(&spec).unwrap();
        assert_eq!(differences(&mut route, &spec), [""; 0]);
    });
}

#[test]
fn attaching_gives_carrier_and_needs_a_persistent_tap() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(1));
        let missing = tap::attach(&spec.name).unwrap_err();
        assert_eq!(missing.errno, Some(Refusal::ENODEV));
        assert_eq!(route.link(&spec.name).unwrap(), None, "nothing was made");

        route.create_link(&spec).unwrap();
        let carrier = |route: &mut Route| route.link(&spec.name).unwrap().unwrap().carrier;
        assert!(!carrier(&mut route));
        let guest = attach(&spec);
        assert!(carrier(&mut route));
        assert_eq!(tap::attach(&spec.name).unwrap_err().errno, Some(Refusal::EBUSY));
        drop(guest);
        assert!(!carrier(&mut route));
        assert_eq!(differences(&mut route, &spec), [""; 0], "the TAP survives its guest");
        assert!(ip("-d link show dev rik1").contains("vnet_hdr on"));
    });
}

/// Runs a job as this user and group, without any capability. The calling thread keeps its own user.
fn as_user<T: Send>(user: u32, group: u32, job: impl FnOnce() -> T + Send) -> T {
    use rustix::{process, thread};
    let inside = || {
        let (user, group) = (process::Uid::from_raw(user), process::Gid::from_raw(group));
        thread::set_thread_groups(&[]).unwrap();
        thread::set_thread_res_gid(group, group, group).unwrap();
        thread::set_thread_res_uid(user, user, user).unwrap();
        job()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
}

#[test]
fn only_its_owner_and_group_can_attach_to_a_tap() {
    isolated(|| {
        let mut route = route();
        let owned = Tap { owner: Some(4321), group: Some(8765), multi_queue: false };
        let taps = [(1, Tap::default()), (2, owned), (3, Tap { group: None, ..owned })];
        for (number, tap) in taps {
            let spec = LinkSpec { device: Device::Tap(tap), ..spec(number) };
            route.create_link(&spec).unwrap();
            assert_eq!(differences(&mut route, &spec), [""; 0]);
            assert_eq!(route.link(&spec.name).unwrap().unwrap().tap, Some(tap));
        }
        // Only the administrator may be allowed to open the device, so it is opened before the change of user.
        let attach = |user, group, number| {
            let device = tap::open().unwrap();
            as_user(user, group, || tap::set_interface(&device, &spec(number).name, 0))
        };
        for (user, group, number) in [(9, 9, 1), (4321, 8765, 2), (4321, 9, 3)] {
            assert_eq!(attach(user, group, number), Ok(()), "{user}:{group} and rik{number}");
        }
        for (user, group, number) in [(9, 8765, 2), (4321, 9, 2), (9, 9, 3)] {
            let refused = attach(user, group, number);
            assert_eq!(refused, Err(Errno::PERM), "{user}:{group} and rik{number}");
        }
    });
}

#[test]
fn a_tap_changes_its_owner_while_it_is_not_open() {
    isolated(|| {
        let (mut route, spec) = (route(), spec(1));
        route.create_link(&spec).unwrap();
        let tap = Tap { owner: Some(0), group: Some(8765), multi_queue: false };
        let given = LinkSpec { device: Device::Tap(tap), ..spec.clone() };
        let state = route.link(&spec.name).unwrap().unwrap();
        let found = given.differences(&state);
        assert!(
            found.iter().all(|difference| difference.remedy() == Remedy::SetOwner),
            "{found:?}"
        );
        assert_eq!(differences(&mut route, &given), ["owner 0", "owning group 8765"]);

        let guest = attach(&spec);
        let (kind, refused) = tap::set_owner(&given.name, &tap).unwrap_err();
        assert_eq!((kind, refused.errno), (AccountKind::User, Some(Refusal::EBUSY)));
        drop(guest);
        tap::set_owner(&given.name, &tap).unwrap();
        assert_eq!(differences(&mut route, &given), [""; 0]);
        assert!(ip("-d link show dev rik1").contains("vnet_hdr on"));

        // An owner cannot be removed: the kernel has no number that stands for none.
        let nobody = Tap { owner: Some(u32::MAX), ..tap };
        let (_, refused) = tap::set_owner(&given.name, &nobody).unwrap_err();
        assert_eq!(refused.errno, Some(Errno::INVAL.raw_os_error()));
        let state = route.link(&spec.name).unwrap().unwrap();
        let found = spec.differences(&state);
        assert!(found.iter().all(|difference| difference.remedy() == Remedy::Replace), "{found:?}");
        assert_eq!(differences(&mut route, &spec), ["no owner", "no owning group"]);

        let (_, missing) = tap::set_owner(&self::spec(2).name, &tap).unwrap_err();
        assert_eq!(missing.errno, Some(Refusal::ENODEV));
    });
}

#[test]
fn a_tap_must_be_replaced_to_change_its_number_of_queues() {
    isolated(|| {
        let (mut route, one) = (route(), spec(1));
        let multi_queue = Tap { multi_queue: true, ..Tap::default() };
        let several = LinkSpec { device: Device::Tap(multi_queue), ..one.clone() };
        for (made, wanted, difference) in
            [(&one, &several, "several queues"), (&several, &one, "one queue")]
        {
            route.create_link(made).unwrap();
            assert_eq!(differences(&mut route, made), [""; 0]);
            assert_eq!(differences(&mut route, wanted), [difference]);
            let state = route.link(&made.name).unwrap().unwrap();
            assert_eq!(wanted.differences(&state)[0].remedy(), Remedy::Replace);
            let guest = attach(made);
            assert_eq!(tap::attach(&made.name).is_ok(), made.tap().unwrap().multi_queue);
            assert!(route.link(&made.name).unwrap().unwrap().carrier);
            drop(guest);
            route.delete_link(&made.name).unwrap();
            assert_eq!(route.link(&made.name).unwrap(), None);
            route.delete_link(&made.name).unwrap();
        }
    });
}

#[test]
fn an_open_tap_is_detected_while_it_is_down() {
    isolated(|| {
        let mut route = route();
        let spec = spec(3);
        route.create_link(&spec).unwrap();
        ip("link set rik3 down");
        let open = |route: &mut Route| {
            let link = route.link(&spec.name).unwrap().unwrap();
            assert!(!link.carrier);
            link.open
        };
        assert!(!open(&mut route));
        let guest = attach(&spec);
        assert!(open(&mut route));
        drop(guest);
        assert!(!open(&mut route));
    });
}
