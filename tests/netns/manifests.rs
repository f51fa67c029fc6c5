//! Definition files as the desired state.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{
    Firewall, NODE_LAN, World,
    daemon::Daemon,
    function::{Function, exposure, function},
    traffic::tcp_ask,
    transport::Transport,
    wait_for,
};

const SOON: Duration = Duration::from_secs(10);

/// A node whose daemon follows a directory.
struct Scene<'a> {
    world: &'a World,
    directory: PathBuf,
}

impl<'a> Scene<'a> {
    fn new(world: &'a World) -> Self {
        let directory = world.directory.path().join("functions.d");
        fs::create_dir(&directory).expect("a directory");
        Self { world, directory }
    }

    #[track_caller]
    fn daemon(&self) -> Daemon {
        self.world.daemon(&["--manifests", self.directory.to_str().expect("UTF-8")])
    }

    /// Writes a file beside, and gives it its name.
    fn put(&self, file: &str, text: &str) {
        let new = self.directory.join(".new");
        self.world.program("tee", &[new.to_str().expect("UTF-8")], text).success();
        fs::rename(new, self.directory.join(file)).expect("one file system");
    }

    fn remove(&self, file: &str) {
        self.world
            .program("rm", &[self.directory.join(file).to_str().expect("UTF-8")], "")
            .success();
    }
}

fn definition(name: &str, port: u16) -> String {
    function(name, &[exposure(Transport::Tcp, port, 3000)]).to_string()
}

/// Waits until these are the functions, each with its port.
#[track_caller]
fn assert_functions(daemon: &Daemon, wanted: &[(&str, u16)]) {
    let mut found = Vec::new();
    let found_text = |listed: &Value| {
        let port = listed["exposures"][0]["port"].as_u64().expect("a port");
        (listed["name"].as_str().expect("a name").to_owned(), u16::try_from(port).expect("a port"))
    };
    let wanted: Vec<_> = wanted.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
    wait_for(&format!("{wanted:?}"), SOON, || {
        let listed = daemon.get("/v1/functions");
        found = listed.as_array().expect("a list").iter().map(found_text).collect();
        (found == wanted).then_some(())
    });
}

#[track_caller]
fn assert_said(daemon: &Daemon, words: &str) {
    wait_for(words, SOON, || daemon.events().contains(words).then_some(()));
}

#[test]
fn functions_come_and_go_with_their_files() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    scene.put("web.json", &definition("web", 8080));
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("web", 8080)]);
    let nic = world.up(&[function("web", &[exposure(Transport::Tcp, 8080, 3000)])]).remove(0);
    let _web = Function::start(world, nic, &[(Transport::Tcp, 3000)]);
    tcp_ask(&world.client, (NODE_LAN, 8080)).expect("it is reached");

    scene.put("web.json", &definition("web", 8081));
    assert_functions(&daemon, &[("web", 8081)]);
    tcp_ask(&world.client, (NODE_LAN, 8081)).expect("it is reached by its new port");

    // What is wrong is named, and what was right stays.
    scene.put("web.json", "{\n  \"apiVersion\": \"v1\",\n  \"kin\": 1\n}");
    assert_said(&daemon, "web.json:3:3");
    assert_functions(&daemon, &[("web", 8081)]);
    tcp_ask(&world.client, (NODE_LAN, 8081)).expect("it is still reached");

    scene.put("more.yaml", &definition("more", 9000));
    assert_functions(&daemon, &[("more", 9000), ("web", 8081)]);
    scene.put("ignored.txt", &definition("ignored", 9001));
    scene.remove("web.json");
    assert_functions(&daemon, &[("more", 9000)]);
}

#[test]
fn what_went_while_the_daemon_was_away_goes() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    scene.put("web.json", &definition("web", 8080));
    let daemon = scene.daemon();
    let theirs = daemon.ask("PUT", "/v1/functions/theirs", &definition("theirs", 8082));
    assert_eq!(theirs.status, 200, "{theirs:?}");
    assert_functions(&daemon, &[("theirs", 8082), ("web", 8080)]);
    daemon.end(Signal::KILL);
    scene.remove("web.json");
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("theirs", 8082)]);
}

#[test]
fn what_is_another_s_is_left_alone() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    let daemon = scene.daemon();
    assert_eq!(daemon.ask("PUT", "/v1/functions/web", &definition("web", 8080)).status, 200);
    scene.put("a.json", &definition("web", 9000));
    assert_said(&daemon, "web was brought up by somebody else");
    scene.put("b.json", &definition("one", 9001));
    assert_functions(&daemon, &[("one", 9001), ("web", 8080)]);
    scene.put("c.json", &definition("one", 9002));
    assert_said(&daemon, "one is defined in b.json as well");
    scene.put("d.json", &definition("late", 8080));
    assert_said(&daemon, "web has tcp 8080");
    assert_functions(&daemon, &[("one", 9001), ("web", 8080)]);
    // Once the port is free, any change has it tried again.
    assert_eq!(daemon.ask("DELETE", "/v1/functions/web", "").status, 200);
    scene.remove("c.json");
    assert_functions(&daemon, &[("late", 8080), ("one", 9001), ("web", 9000)]);
}

#[test]
fn a_directory_that_is_swapped_as_a_whole_is_followed() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    // As Kubernetes mounts a ConfigMap: the files are links by way of a link to a directory.
    let version = |name: &str, port: u16| {
        let path = scene.directory.join(name);
        fs::create_dir(&path).expect("a directory");
        let file = path.join("web.json");
        let file = file.to_str().expect("UTF-8");
        world.program("tee", &[file], &definition("web", port)).success();
        symlink(name, scene.directory.join("..new")).expect("a link");
        fs::rename(scene.directory.join("..new"), scene.directory.join("..data")).expect("a swap");
    };
    version("..1", 8080);
    symlink("..data/web.json", scene.directory.join("web.json")).expect("a link");
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("web", 8080)]);
    version("..2", 8081);
    assert_functions(&daemon, &[("web", 8081)]);
    fs::remove_dir_all(&scene.directory).expect("a directory");
    assert_functions(&daemon, &[]);
    fs::create_dir(&scene.directory).expect("a directory");
    scene.put("again.json", &definition("again", 8083));
    assert_functions(&daemon, &[("again", 8083)]);
}
