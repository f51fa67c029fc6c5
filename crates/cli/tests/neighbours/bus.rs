//! The D-Bus system bus, on a machine of a world.

use std::time::Duration;

use crate::world::{World, command::Running, wait_for};

/// Starts the bus, and waits until it listens.
#[track_caller]
pub(crate) fn start(world: &World) -> Running {
    let arguments = ["--system", "--nofork", "--nopidfile"];
    let bus = world.program_in_background("dbus-daemon", &arguments, "");
    wait_for("D-Bus to listen", Duration::from_secs(10), || {
        let socket = world.program("test", &["-S", "/run/dbus/system_bus_socket"], "");
        (socket.code == Some(0)).then_some(())
    });
    bus
}
