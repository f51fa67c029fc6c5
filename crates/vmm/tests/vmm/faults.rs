//! The drivers' errors if a VMM misbehaves at any of its calls.

use std::{thread, time::Duration};

use riklet_http::Client;
use riklet_vmm::{
    api::VmmApiError, cloud_hypervisor, firecracker, machine::Machine, version::Version,
};

use crate::{
    directory::Directory,
    http::chain,
    machine::machine,
    played::{CloudHypervisor, Firecracker, Until},
    server::{LONG, Reply, Server},
};

type Start = fn(&Client, &Machine) -> Result<Version, VmmApiError>;

/// Starts a machine in a VMM that gives this reply to this request. Returns the text of the error and the error.
fn start(line: &'static str, reply: Reply, timeout: Duration) -> (String, VmmApiError) {
    let directory = Directory::new();
    let (server, start): (_, Start) = if line.contains("/api/v1/") {
        let player = CloudHypervisor::new("51.1.0");
        (Server::start(Until { player, line, reply }), cloud_hypervisor::start)
    } else {
        let player = Firecracker::new("1.17.0");
        (Server::start(Until { player, line, reply }), firecracker::start)
    };
    let error = start(&Client::new(server.socket(), timeout), &machine(&directory)).unwrap_err();
    assert_eq!(server.lines().last().unwrap(), line);
    (chain(&error), error)
}

const CALLS: [&str; 9] = [
    "GET /",
    "PUT /machine-config",
    "PUT /boot-source",
    "PUT /drives/rootfs",
    "PUT /network-interfaces/eth0",
    "PUT /actions",
    "GET /api/v1/vmm.ping",
    "PUT /api/v1/vm.create",
    "PUT /api/v1/vm.boot",
];

#[test]
fn closed_connection_error_names_the_call() {
    for line in CALLS {
        let (text, _) = start(line, Reply::SendAndClose(b"HTTP/1.1 20".to_vec()), LONG);
        assert!(text.contains(&format!(" did not answer: {line} over /")), "{text}");
        assert!(text.ends_with(": the connection ended before the answer was whole"), "{text}");
    }
}

#[test]
fn malformed_answer_error_names_the_call() {
    for line in CALLS {
        let (text, _) = start(line, Reply::Send(b"\x7fELF\x02\x01\x01\0\r\n\r\n".to_vec()), LONG);
        assert!(text.contains(&format!(" did not answer: {line} over /")), "{text}");
        assert!(text.contains(": the answer is not HTTP that is understood: "), "{text}");
    }
}

#[test]
fn missing_answer_is_an_error_at_the_deadline() {
    let wait = |line| {
        // Even a busy machine makes the earlier calls within this time.
        let (text, _) = start(line, Reply::Silence, Duration::from_secs(5));
        assert!(text.contains(&format!(" did not answer: {line} over /")), "{text}");
        assert!(text.ends_with(": there was no whole answer within 5s"), "{text}");
    };
    thread::scope(|scope| {
        for line in CALLS {
            scope.spawn(move || wait(line));
        }
    });
}

#[test]
fn answer_of_another_type_is_an_error() {
    let json = |body: &str| {
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        Reply::Send(answer.into_bytes())
    };
    for line in ["GET /", "GET /api/v1/vmm.ping"] {
        for body in ["", "[]", "{}", r#"{"vmm_version":1,"version":1,"state":"x"}"#] {
            let (text, error) = start(line, json(body), LONG);
            let expected = format!(" answered {line} with what its API does not have: ");
            assert!(text.contains(&expected), "{text}");
            assert!(matches!(error, VmmApiError::Answer { .. }), "{error:?}");
        }
        let strange = r#"{"vmm_version":"dev","version":"dev","state":"Not started"}"#;
        let (text, _) = start(line, json(strange), LONG);
        let expected = " is unknown: \"dev\" is no version: it begins with no number";
        assert!(text.ends_with(expected), "{text}");
    }
}

#[test]
fn missing_vmm_is_an_error() {
    let directory = Directory::new();
    let client = Client::new(directory.path("api.sock"), LONG);
    let drivers: [(&str, Start); 2] =
        [("firecracker", firecracker::start), ("cloud-hypervisor", cloud_hypervisor::start)];
    for (vmm, start) in drivers {
        let files = Directory::new();
        let error = chain(&start(&client, &machine(&files)).unwrap_err());
        assert!(error.starts_with(&format!("{vmm} did not answer: GET /")), "{error}");
        assert!(error.ends_with(": No such file or directory (os error 2)"), "{error}");
    }
    let error = chain(&firecracker::press_ctrl_alt_del(&client).unwrap_err());
    assert!(error.contains("PUT /actions over "), "{error}");
    let error = chain(&cloud_hypervisor::press_power_button(&client).unwrap_err());
    assert!(error.contains("PUT /api/v1/vm.power-button over "), "{error}");
    let error = chain(&cloud_hypervisor::shut_down(&client).unwrap_err());
    assert!(error.contains("PUT /api/v1/vmm.shutdown over "), "{error}");
}
