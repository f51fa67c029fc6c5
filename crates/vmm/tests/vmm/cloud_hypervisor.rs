//! The driver of Cloud Hypervisor.

use riklet_vmm::{api::VmmApiError, cloud_hypervisor, machine::Machine, version::Version};
use serde_json::json;

use crate::{
    directory::Directory,
    machine::{machine, machines},
    played::{CloudHypervisor, Until},
    server::{Reply, Server, answer},
};

fn played(version: &'static str) -> Server {
    Server::start(CloudHypervisor::new(version))
}

#[test]
fn create_boot_and_shutdown_follow_the_api() {
    let server = played("51.1.0");
    let client = server.client();
    let version = cloud_hypervisor::start(&client, &machine(server.directory())).unwrap();
    assert_eq!(version, Version::new(51, 1, 0));
    cloud_hypervisor::press_power_button(&client).unwrap();
    cloud_hypervisor::shut_down(&client).unwrap();
    assert_eq!(
        server.lines(),
        [
            "GET /api/v1/vmm.ping",
            "PUT /api/v1/vm.create",
            "PUT /api/v1/vm.boot",
            "PUT /api/v1/vm.power-button",
            "PUT /api/v1/vmm.shutdown",
        ]
    );
}

#[test]
fn every_machine_is_accepted_by_the_api() {
    let directory = Directory::new();
    for machine in machines(&directory) {
        let server = played("v27.0");
        let version = cloud_hypervisor::start(&server.client(), &machine).unwrap();
        assert_eq!(version, cloud_hypervisor::LEAST);
    }
}

#[test]
fn too_old_version_gets_no_further_call() {
    let server = played("v26.0");
    let machine = machine(server.directory());
    let error = cloud_hypervisor::start(&server.client(), &machine).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cloud-hypervisor 26.0.0 is too old: 27.0.0 is the least version that works"
    );
    assert_eq!(server.lines(), ["GET /api/v1/vmm.ping"]);
}

#[test]
fn error_contains_the_vmms_message() {
    let server = played("51.1.0");
    let client = server.client();
    let machine = machine(server.directory());
    let kernel = server.directory().path("missing");
    let missing = Machine { kernel, ..machine.clone() };
    assert_eq!(
        cloud_hypervisor::start(&client, &missing).unwrap_err().to_string(),
        "cloud-hypervisor refused PUT /api/v1/vm.create: Error from API: The VM could not be \
         created: No such file or directory (os error 2)"
    );
    let error = cloud_hypervisor::press_power_button(&client).unwrap_err();
    assert!(matches!(error, VmmApiError::Refused { status: 404, .. }), "{error:?}");
    cloud_hypervisor::start(&client, &machine).unwrap();
    assert_eq!(
        cloud_hypervisor::start(&client, &machine).unwrap_err().to_string(),
        "cloud-hypervisor refused PUT /api/v1/vm.create: Error from API: VM is already created"
    );
}

#[test]
fn start_stops_at_the_first_refused_call() {
    let directory = Directory::new();
    let machine = machine(&directory);
    for line in ["GET /api/v1/vmm.ping", "PUT /api/v1/vm.create", "PUT /api/v1/vm.boot"] {
        let reply = answer(500, Some(&json!(["Error from API", "no", "why"])));
        let server = Server::start(Until { player: CloudHypervisor::new("51.1.0"), line, reply });
        let error = cloud_hypervisor::start(&server.client(), &machine).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cloud-hypervisor refused {line}: Error from API: no: why")
        );
        assert_eq!(server.lines().last().unwrap(), line);
    }
}

#[test]
fn calls_out_of_order_are_refused() {
    let server = played("51.1.0");
    let client = server.client();
    let calls = cloud_hypervisor::calls(&machine(server.directory())).unwrap();
    let [create, boot] = &calls[..] else { panic!("{calls:?}") };
    let status = |call| client.exchange(call).unwrap().status;
    assert_eq!(status(boot), 404);
    assert_eq!(status(create), 204);
    assert_eq!(status(create), 500);
    let error = cloud_hypervisor::press_power_button(&client).unwrap_err();
    assert!(error.to_string().ends_with("Error from API: VM is not running"), "{error}");
    assert_eq!(status(boot), 204);
    assert_eq!(status(boot), 500);
}

#[test]
fn closing_without_an_answer_counts_as_shutdown() {
    let line = "PUT /api/v1/vmm.shutdown";
    let reply = Reply::SendAndClose(vec![]);
    let server = Server::start(Until { player: CloudHypervisor::new("51.1.0"), line, reply });
    cloud_hypervisor::shut_down(&server.client()).unwrap();
    assert_eq!(server.lines(), [line]);
}
