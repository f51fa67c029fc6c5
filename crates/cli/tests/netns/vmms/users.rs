//! The users that VMMs run as, and what these can reach.

use super::*;

#[test]
fn vmm_of_another_user_has_its_own_files() {
    const USER: u32 = 54_321;
    let mut world = World::new(Firewall::Nftables);
    // The directory is made by the program itself.
    let state_dir = world.directory.path().join("made");
    let text = state_dir.to_str().expect("UTF-8").to_owned();
    world.environment.insert("RIKLET_SDN_STATE_DIR".to_owned(), text);
    let mut definition = hello(&world, "firecracker");
    definition["spec"]["function"]["execution"]["user"] = USER.into();
    definition["spec"]["function"]["execution"]["group"] = (USER + 1).into();
    let hello = Hello::with(&world, &definition, "");
    assert_eq!(hello.program.recorded("uid"), USER.to_string());
    assert_eq!(hello.program.recorded("gid"), (USER + 1).to_string());
    assert!(hello.program.can_write_home(), "it cannot make its socket");
    let tap = world.node.tool(&["ip", "-d", "link", "show", "rik0"]);
    assert!(tap.contains(&format!("user {USER} group {}", USER + 1)), "{tap}");
    // The VMM's directory belongs to its user, and nobody else can read it. The logs, which root reads, are not in it.
    let home = PathBuf::from(hello.program.recorded("pwd"));
    let state = |path: &Path| fs::symlink_metadata(path).expect("a file");
    assert_eq!((state(&home).uid(), state(&home).permissions().mode() & 0o777), (USER, 0o700));
    let run = state_dir.join("machines/hello");
    assert_eq!((state(&run).uid(), state(&run).permissions().mode() & 0o777), (0, 0o711));
    for log in ["console.log", "supervisor.log"] {
        let log = state(&run.join(log));
        assert_eq!((log.uid(), log.permissions().mode() & 0o777), (0, 0o600));
    }
    // The VMM's user can pass through the state directory, but cannot list it.
    assert_eq!(state(&state_dir).permissions().mode() & 0o777, 0o711);
    world.riklet(&["stop", "hello"], "").success();
    // The next run may have another user, and finds nothing of the first one.
    drop((hello.server, hello.guest));
    fs::remove_dir_all(world.directory.path().join("played-firecracker")).expect("a directory");
    definition["spec"]["function"]["execution"]["user"] = (USER + 2).into();
    let hello = Hello::with(&world, &definition, "");
    assert_eq!(hello.program.recorded("uid"), (USER + 2).to_string());
    assert!(hello.program.can_write_home(), "it cannot make its socket");
    world.riklet(&["stop", "hello"], "").success();
}

#[test]
fn each_vmm_has_a_user_of_its_own() {
    let world = World::new(Firewall::Nftables);
    // The first of the users and groups of slots is the group of images.
    let slots = world.directory.users();
    let before = SystemState::take(&world.node);
    let first = Program::install(&world, "firecracker", "echo groups $(id -G)");
    let second = Program::install(&world, "cloud-hypervisor", "");
    let arguments = ["run", "--detach", "--no-wait", "-"];
    let running = world.riklet_with_kvm(&arguments, &two(&world).to_string());
    let (one, other) =
        (first.serve(Firecracker::new(LATEST)), second.serve(CloudHypervisor::new("v51.1.0")));
    running.wait().success();
    let user = |program: &Program| program.recorded("uid").parse::<u32>().expect("a number");
    let users = [user(&first), user(&second)];
    assert!(users == [slots + 1, slots + 2] || users == [slots + 2, slots + 1], "{users:?}");
    for (name, uid, program) in [("hello", users[0], &first), ("second", users[1], &second)] {
        let interface = world.riklet(&["--output", "json", "inspect", name], "").success();
        let inspected: Value = serde_json::from_str(&interface).unwrap();
        let tap = inspected["interface"].as_str().expect("a name");
        assert_eq!(tap, format!("rik{}", uid - slots - 1));
        let shown = world.node.tool(&["ip", "-d", "link", "show", tap]);
        assert!(shown.contains(&format!("user {uid} ")), "{shown}");
        assert_eq!(program.recorded("gid"), uid.to_string());
        let home = fs::metadata(program.recorded("pwd")).expect("a directory");
        assert_eq!((home.uid(), home.permissions().mode() & 0o777), (uid, 0o700));
    }
    // Images are shared through a group, which owns nothing else.
    let logs = world.riklet(&["logs", "hello"], "").success();
    assert!(logs.starts_with(&format!("groups {} {slots}\n", users[0])), "{logs}");
    world.riklet(&["check"], "").success();
    world.riklet(&["stop", "--all"], "").success();
    drop((one, other));
    assert_nothing_left(&world, &before, Some(&first));
}

#[test]
fn a_guest_writes_to_a_copy() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let mut definition = hello(&world, "firecracker");
    let rootfs = world.directory.path().join("rootfs.ext4");
    let vmlinux = world.directory.path().join("vmlinux");
    for path in [&rootfs, &vmlinux] {
        OpenOptions::new().write(true).open(path).unwrap().write_all(b"original\n").unwrap();
        // Only root can read them.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    definition["spec"]["function"]["execution"]["readOnly"] = false.into();
    let hello = Hello::with(&world, &definition, "");
    let copies = world.directory.path().join("images/private/hello");
    let path = |value: &Value| PathBuf::from(value.as_str().expect("a path"));
    assert_eq!(
        path(&told(&hello.server, "PUT /drives/rootfs")["path_on_host"]),
        copies.join("rootfs")
    );
    assert_eq!(
        path(&told(&hello.server, "PUT /boot-source")["kernel_image_path"]),
        copies.join("kernel")
    );
    hello.program.order(&format!(
        "cat {0}/kernel; echo changed >>{0}/rootfs; cat {0}/rootfs; echo done",
        copies.display()
    ));
    let logs = || world.riklet(&["logs", "hello"], "").success();
    wait_for("the guest to write", START_TIMEOUT, || logs().ends_with("done\n").then_some(()));
    assert_eq!(logs(), "firecracker begins\noriginal\noriginal\nchanged\ndone\n");
    let copy = fs::metadata(copies.join("rootfs")).unwrap();
    assert_eq!(
        (copy.uid(), copy.permissions().mode() & 0o777),
        (world.directory.users() + 1, 0o600)
    );
    let mut original = String::new();
    fs::File::open(&rootfs).unwrap().read_to_string(&mut original).unwrap();
    assert_eq!(original, "original\n");
    world.riklet(&["stop", "hello"], "").success();
    assert!(!copies.exists(), "the copies stay");
    drop(hello.guest);
    assert_nothing_left(&world, &before, Some(&hello.program));
}

#[test]
fn two_functions_share_a_user_only_if_both_say_so() {
    for shared in [false, true] {
        let world = &World::new(Firewall::Nftables);
        let first = Program::install(world, "firecracker", "");
        let second = Program::install(world, "cloud-hypervisor", "");
        let mut both = two(world);
        for definition in both.as_array_mut().unwrap() {
            let execution = &mut definition["spec"]["function"]["execution"];
            execution["user"] = 54_321.into();
            execution["sharedUser"] = shared.into();
        }
        let arguments = ["run", "--detach", "--no-wait", "-"];
        let running = world.riklet_with_kvm(&arguments, &both[0].to_string());
        let _one = first.serve(Firecracker::new(LATEST));
        running.wait().success();
        let running = world.riklet_with_kvm(&arguments, &both[1].to_string());
        if shared {
            let _other = second.serve(CloudHypervisor::new("v51.1.0"));
            running.wait().success();
            assert_eq!(second.recorded("uid"), "54321");
        } else {
            let complaint = running.wait().failure(2);
            let expected = "error: second cannot be run: hello runs as user 54321 already\nhint: ";
            assert!(complaint.starts_with(expected), "{complaint}");
        }
        world.riklet(&["stop", "--all", "--timeout", "1"], "").success();
        // The user is free again.
        if !shared {
            let running = world.riklet_with_kvm(&arguments, &both[1].to_string());
            let _other = second.serve(CloudHypervisor::new("v51.1.0"));
            running.wait().success();
            world.riklet(&["stop", "--all", "--timeout", "1"], "").success();
        }
    }
}

#[test]
fn a_vmm_finds_nothing_of_an_earlier_one() {
    let world = World::new(Firewall::Nftables);
    let shows = "ls -A | sed 's/^/left: /'";
    let program = Program::install(&world, "firecracker", shows);
    let secret = file(&world, "secret");
    let logs = || world.riklet(&["logs", "hello"], "").success();
    for _ in 0..2 {
        let arguments = ["run", "--detach", "--no-wait", "-"];
        let definition = hello(&world, "firecracker").to_string();
        let running = world.riklet_with_kvm(&arguments, &definition);
        let server = program.serve(Firecracker::new(LATEST));
        running.wait().success();
        // A trap for the next one: a link where it would write, and a directory that is not empty.
        program.order(&format!(
            "ln -s {} trap; mkdir -p full/of; touch full/of/files",
            secret.display()
        ));
        program.order("echo trapped");
        wait_for("the trap", START_TIMEOUT, || logs().contains("trapped").then_some(()));
        world.riklet(&["stop", "hello"], "").success();
        drop(server);
        assert_eq!(logs(), "firecracker begins\ntrapped\n");
        program.forget_start();
    }
    assert!(secret.exists(), "what a link leads to is another's");
}

#[test]
fn a_socket_that_leads_elsewhere_is_not_spoken_to() {
    let world = World::new(Firewall::Nftables);
    let program = Program::install(&world, "firecracker", "");
    let mut definition = hello(&world, "firecracker");
    definition["spec"]["function"]["execution"]["user"] = 54_321.into();
    let arguments = ["run", "--detach", "--ready-timeout", "60", "-"];
    let running = world.riklet_with_kvm(&arguments, &definition.to_string());
    // A service of root, as a container engine has one; the VMM puts a link to it in place of its own socket.
    let elsewhere = Server::at(world.directory.path().join("api.sock"), Firecracker::new(LATEST));
    program.recorded("pid");
    program.order(&format!("ln -s {} api.sock", elsewhere.socket().display()));
    let complaint = running.wait().failure(1);
    assert!(complaint.contains("it is no socket"), "{complaint}");
    assert_eq!(elsewhere.lines(), Vec::<String>::new());
}
