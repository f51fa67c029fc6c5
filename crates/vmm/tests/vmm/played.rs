//! Simulated servers of Firecracker's and Cloud Hypervisor's API. Each checks a request against the description of its
//! API, then against its own state, and refuses in the words of the real server.

use std::{fs::File, io};

use riklet_vmm::version::Version;
use serde_json::{Value, json};

use crate::{
    description::{Description, Refusal},
    server::{HttpRequest, Play, Reply, answer},
};

pub(crate) struct Firecracker {
    description: Description,
    version: &'static str,
    has_kernel: bool,
    started: bool,
}

impl Firecracker {
    pub(crate) fn new(version: &'static str) -> Self {
        let mut description = Description::firecracker();
        if version.parse::<Version>().unwrap() < Version::new(1, 16, 0) {
            description = description.without("NetworkInterface", "mtu");
        }
        Self { description, version, has_kernel: false, started: false }
    }

    fn handle(&mut self, request: &HttpRequest) -> Result<Option<Value>, String> {
        let HttpRequest { method, path, body } = request;
        let checked = self.description.check(method, path, body.as_ref());
        let id = checked.map_err(|refusal| match refusal {
            Refusal::Operation => format!("Invalid request method and/or path: {method} {path}."),
            Refusal::Body if method == "GET" => "GET request cannot have a body.".to_owned(),
            Refusal::Body => format!("Empty {method} request."),
            Refusal::Type(words) => {
                format!("An error occurred when deserializing the json body of a request: {words}.")
            }
        })?;
        let Some(body) = body else { return Ok(Some(self.tell(path))) };
        let own = ["drive_id", "iface_id"].iter().find_map(|name| body[name].as_str());
        if own.unwrap_or_default() != id {
            return Err("The id from the path does not match the id from the body!".to_owned());
        }
        if path == "/actions" {
            return self.act(&body["action_type"]).map(|()| None);
        }
        if self.started {
            return Err(AFTER.to_owned());
        }
        match &**path {
            "/boot-source" => {
                open(&body["kernel_image_path"])
                    .map_err(|e| format!("Boot source error: The kernel file cannot be opened: {e}"))?;
                open(&body["initrd_path"]).map_err(|e| {
                    format!("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. {e}")
                })?;
                self.has_kernel = true;
            }
            "/drives/rootfs" => open(&body["path_on_host"]).map_err(|e| {
                let path = body["path_on_host"].as_str().unwrap_or_default();
                format!("Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: {e} {path}")
            })?,
            _ => {}
        }
        Ok(None)
    }

    fn tell(&self, path: &str) -> Value {
        let state = if self.started { "Running" } else { "Not started" };
        if path == "/version" {
            json!({ "firecracker_version": self.version })
        } else {
            let version = self.version;
            json!({ "id": "x", "app_name": "Firecracker", "vmm_version": version, "state": state })
        }
    }

    fn act(&mut self, action: &Value) -> Result<(), String> {
        match (action.as_str(), self.started) {
            (Some("InstanceStart"), true) => Err(AFTER.to_owned()),
            (Some("InstanceStart"), false) if !self.has_kernel => {
                Err("Cannot start microvm without kernel configuration.".to_owned())
            }
            (Some("InstanceStart"), false) => {
                self.started = true;
                Ok(())
            }
            (Some("SendCtrlAltDel"), false) => {
                Err("The requested operation is not supported before starting the microVM."
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}

const AFTER: &str = "The requested operation is not supported after starting the microVM.";

/// Opens the file of this name, if there is a name.
fn open(path: &Value) -> io::Result<()> {
    path.as_str().map_or(Ok(()), |path| File::open(path).map(drop))
}

impl Play for Firecracker {
    fn answer(&mut self, request: &HttpRequest) -> Reply {
        match self.handle(request) {
            Ok(None) => answer(204, None),
            Ok(Some(body)) => answer(200, Some(&body)),
            Err(words) => answer(400, Some(&json!({ "fault_message": words }))),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guest {
    None,
    Created,
    Running,
}

pub(crate) struct CloudHypervisor {
    description: Description,
    version: &'static str,
    guest: Guest,
}

impl CloudHypervisor {
    pub(crate) fn new(version: &'static str) -> Self {
        Self { description: Description::cloud_hypervisor(), version, guest: Guest::None }
    }

    fn handle(&mut self, request: &HttpRequest) -> Result<Option<Value>, (u16, Vec<String>)> {
        let HttpRequest { method, path, body } = request;
        let refused = |status, words: &[&str]| {
            Err((status, words.iter().map(|&word| word.to_owned()).collect()))
        };
        match self.description.check(method, path, body.as_ref()) {
            Ok(_) => {}
            Err(Refusal::Operation) => return refused(404, &["Not Found"]),
            Err(Refusal::Body) => return refused(400, &["Bad HttpRequest"]),
            // The real server ignores an unknown field.
            Err(Refusal::Type(words)) => {
                return refused(400, &["Failed to deserialize JSON", &words]);
            }
        }
        match (path.trim_start_matches("/api/v1/"), self.guest) {
            ("vmm.ping", _) => {
                let version = self.version;
                return Ok(Some(json!({ "version": version, "pid": 1, "features": ["kvm"] })));
            }
            ("vm.create", Guest::None) => {
                let payload = &body.as_ref().unwrap_or(&Value::Null)["payload"];
                for image in [&payload["kernel"], &payload["initramfs"]] {
                    if let Err(error) = open(image) {
                        let words =
                            ["Error from API", "The VM could not be created", &error.to_string()];
                        return refused(500, &words);
                    }
                }
                self.guest = Guest::Created;
            }
            ("vm.create", _) => {
                return refused(500, &["Error from API", "VM is already created"]);
            }
            ("vm.boot", Guest::None) => {
                let words = ["Error from API", "The VM could not boot", "VM is not created"];
                return refused(404, &words);
            }
            ("vm.boot", Guest::Running) => {
                return refused(
                    500,
                    &["Error from API", "The VM could not boot", "VM is already running"],
                );
            }
            ("vm.boot", Guest::Created) => self.guest = Guest::Running,
            ("vm.power-button", Guest::None) => {
                return refused(404, &["Error from API", "VM is not created"]);
            }
            ("vm.power-button", Guest::Created) => {
                return refused(405, &["Error from API", "VM is not running"]);
            }
            ("vmm.shutdown", _) => self.guest = Guest::None,
            _ => {}
        }
        Ok(None)
    }
}

impl Play for CloudHypervisor {
    fn answer(&mut self, request: &HttpRequest) -> Reply {
        match self.handle(request) {
            // The real server answers this with 200 and no body, and in older versions without a length.
            Ok(None) if request.path.ends_with("vmm.shutdown") => answer(200, None),
            Ok(None) => answer(204, None),
            Ok(Some(body)) => answer(200, Some(&body)),
            Err((status, words)) => answer(status, Some(&json!(words))),
        }
    }
}

/// A server that behaves as `player` until a given request, to which it gives `reply`.
pub(crate) struct Until<P> {
    pub(crate) player: P,
    /// The method and path of the request.
    pub(crate) line: &'static str,
    pub(crate) reply: Reply,
}

impl<P: Play> Play for Until<P> {
    fn answer(&mut self, request: &HttpRequest) -> Reply {
        if request.line() == self.line { self.reply.clone() } else { self.player.answer(request) }
    }
}
