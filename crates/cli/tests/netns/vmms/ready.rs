//! When functions are ready, and how long they are waited for.

use super::*;

#[test]
fn vmms_start_together() {
    for more in [&["--detach"][..], &[]] {
        let world = &World::new(Firewall::Nftables);
        let before = SystemState::take(&world.node);
        let first = Program::install(world, "firecracker", "");
        let second = Program::install(world, "cloud-hypervisor", "");
        let arguments = [&["run", "--no-wait", "--ready-timeout", "30"], more, &["-"]].concat();
        let mut running = world.riklet_with_kvm(&arguments, &two(world).to_string());
        // The first does not even listen before the second has its machine.
        let other = second.serve(CloudHypervisor::new("v51.1.0"));
        told(&other, "PUT /api/v1/vm.boot");
        let one = first.serve(Firecracker::new(LATEST));
        told(&one, "PUT /actions");
        // Nothing answers at their ports, and nobody waits for that.
        running.wait_for_line("started in");
        assert_eq!(world.state_of("hello").0, "running");
        if more.is_empty() {
            running.signal(Signal::TERM);
        } else {
            world.riklet(&["stop", "--all"], "").success();
        }
        running.wait().success();
        drop((one, other));
        assert_nothing_left(world, &before, Some(&first));
        assert!(!is_alive(second.pid()), "the VMM runs on");
    }
}

#[test]
fn a_silent_vmm_is_given_up_at_the_ready_timeout() {
    let world = World::new(Firewall::Nftables);
    let before = SystemState::take(&world.node);
    let program = Program::install(&world, "firecracker", "");
    let arguments = ["run", "--detach", "--ready-timeout", "5", "-"];
    let definition = hello(&world, "firecracker").to_string();
    // It never listens.
    let complaint = world.riklet_with_kvm(&arguments, &definition).wait().failure(1);
    assert!(complaint.contains("/api.sock after 5."), "{complaint}");
    assert_nothing_left(&world, &before, Some(&program));
    program.forget_start();
    // It does not answer one of its calls.
    let running = world.riklet_with_kvm(&arguments, &definition);
    let (player, line) = (Firecracker::new(LATEST), "PUT /boot-source");
    let _server = program.serve(Until { player, line, reply: Reply::Silence });
    let complaint = running.wait().failure(1);
    assert!(complaint.contains("there was no whole answer within 5s"), "{complaint}");
    assert_nothing_left(&world, &before, Some(&program));
}

/// Runs `hello` with these exposures, while its guest listens on port 3000 alone. Returns the outcome.
fn with_exposures(world: &World, exposures: Value) -> Output {
    let program = Program::install(world, "firecracker", "");
    let mut definition = hello(world, "firecracker");
    definition["spec"]["function"]["exposure"] = exposures;
    let arguments = ["run", "--detach", "--ready-timeout", "5", "-"];
    let running = world.riklet_with_kvm(&arguments, &definition.to_string());
    let server = program.serve(Firecracker::new(LATEST));
    let interface = told(&server, "PUT /network-interfaces/eth0");
    let source = told(&server, "PUT /boot-source");
    let [tap, mac] = [&interface["host_dev_name"], &interface["guest_mac"]];
    let guest = boot(world, tap, mac, &source["boot_args"]);
    let output = running.wait();
    drop(guest);
    world.riklet(&["stop", "--timeout", "1", "hello"], "").success();
    output
}

#[test]
fn each_exposure_says_what_is_waited_for() {
    let ready = |sign: &str, port: u16| {
        let mut exposure = exposure(Tcp, port, 4000);
        exposure["ready"] = sign.into();
        exposure
    };
    // Nothing listens on port 4000.
    let world = World::new(Firewall::Nftables);
    let exposures = json!([exposure(Tcp, 8080, 3000), ready("none", 9000), ready("carrier", 9001)]);
    let printed = with_exposures(&world, exposures).success();
    assert!(printed.contains("ready in"), "{printed}");

    let world = World::new(Firewall::Nftables);
    let exposures = json!([exposure(Tcp, 8080, 3000), ready("tcp", 9000)]);
    let complaint = with_exposures(&world, exposures).failure(1);
    let first = "error: not ready after 5 s: hello (tcp 9000 -> 4000): the guest refuses";
    assert!(complaint.starts_with(first), "{complaint}");
    // The end of the console is shown, and where the rest is.
    let console =
        "\nthe console of hello ends with:\n  firecracker begins\nhint: `riklet-sdn logs hello`";
    assert!(complaint.contains(console), "{complaint}");
}

#[test]
fn every_port_of_a_range_is_waited_for() {
    let world = World::new(Firewall::Nftables);
    let range = json!([exposure(Tcp, "8080-8081", "3000-3001")]);
    let complaint = with_exposures(&world, range).failure(1);
    let first = "error: not ready after 5 s: hello (tcp 8080-8081 -> 3000-3001, port 8081): \
                 the guest refuses connections to its port\n";
    assert!(complaint.starts_with(first), "{complaint}");
}
