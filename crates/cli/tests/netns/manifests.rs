//! Files of definitions as the desired state.

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

const SOON: Duration = Duration::from_secs(20);

/// A node whose daemon follows a directory of definitions.
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

    /// Writes a file under another name, then renames it.
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

/// Waits until exactly these functions are up, each with its port.
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

    // An invalid file is reported, and its last valid contents stay.
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
fn function_of_a_file_removed_during_downtime_is_taken_down() {
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
fn manifest_cannot_claim_an_owned_name_or_port() {
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
    // Once the port is free, the next change makes the daemon try again.
    assert_eq!(daemon.ask("DELETE", "/v1/functions/web", "").status, 200);
    scene.remove("c.json");
    assert_functions(&daemon, &[("late", 8080), ("one", 9001), ("web", 9000)]);
}

#[test]
fn manifest_cannot_claim_a_name_with_an_unreadable_record() {
    let world = &World::new(Firewall::Nftables);
    world.up(&[function("web", &[])]);
    let records = world.directory.path().join("state/riklet-sdn.db");
    let damage = "UPDATE slots SET definition = '{}' WHERE workload = 'web'";
    rusqlite::Connection::open(records).unwrap().execute(damage, []).unwrap();
    let scene = Scene::new(world);
    scene.put("a.json", &definition("web", 9000));
    scene.put("b.json", &definition("one", 9001));
    let daemon = scene.daemon();
    assert_said(&daemon, "web was brought up by somebody else");
    assert_functions(&daemon, &[("one", 9001)]);
}

#[test]
fn directory_replaced_as_a_whole_is_followed() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    // Kubernetes mounts a ConfigMap like this: the files are links, by way of a link to a directory.
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

#[test]
fn first_file_keeps_a_name_whatever_the_files_are_called() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    scene.put("m.json", &definition("web", 8080));
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("web", 8080)]);
    scene.put("a.json", &definition("web", 9000));
    assert_said(&daemon, "a.json: web is defined in m.json as well");
    // No other file gets the name while the file that owns it is invalid.
    scene.put("m.json", "{");
    assert_said(&daemon, "m.json:1:");
    scene.put("z.json", &definition("end", 9009));
    assert_functions(&daemon, &[("end", 9009), ("web", 8080)]);
    // Once the owner no longer asks for the name, the other file gets it, and the function stays up.
    scene.put("m.json", &definition("other", 9001));
    assert_functions(&daemon, &[("end", 9009), ("other", 9001), ("web", 9000)]);
    assert!(!daemon.events().contains("\"kind\":\"down\""), "{}", daemon.events());
}

#[test]
fn files_can_exchange_ports_in_one_change() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    scene.put("a.json", &definition("one", 8080));
    scene.put("b.json", &definition("two", 8081));
    let daemon = scene.daemon();
    let theirs = daemon.ask("PUT", "/v1/functions/theirs", &definition("theirs", 9000));
    assert_eq!(theirs.status, 200, "{theirs:?}");
    // Both change in one go, together with a file that is refused.
    let program = "mv one a.json && mv two b.json && mv three c.json";
    for (file, name, port) in [("one", "one", 8081), ("two", "two", 8080), ("three", "three", 9000)]
    {
        scene.put(file, &definition(name, port));
    }
    let directory = scene.directory.to_str().expect("UTF-8");
    world.program("sh", &["-c", &format!("cd {directory} && {program}")], "").success();
    assert_functions(&daemon, &[("one", 8081), ("theirs", 9000), ("two", 8080)]);
    assert_said(&daemon, "c.json: ");
}

#[test]
fn dangling_link_takes_nothing_down() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    let target = world.directory.path().join("elsewhere.json");
    let target = target.to_str().expect("UTF-8");
    world.program("tee", &[target], &definition("web", 8080)).success();
    symlink(target, scene.directory.join("web.json")).expect("a link");
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("web", 8080)]);
    world.program("rm", &[target], "").success();
    scene.put("more.json", &definition("more", 8081));
    assert_said(&daemon, "web.json: ");
    assert_functions(&daemon, &[("more", 8081), ("web", 8080)]);
    scene.remove("web.json");
    assert_functions(&daemon, &[("more", 8081)]);
}

#[test]
fn directory_created_anew_is_followed() {
    let world = &World::new(Firewall::Nftables);
    let mut scene = Scene::new(world);
    let first = scene.directory.join("by").to_str().expect("UTF-8").to_owned();
    scene.directory.push("by/and/by");
    let directory = scene.directory.to_str().expect("UTF-8");
    world.program("mkdir", &["-p", directory], "").success();
    let daemon = scene.daemon();
    world.program("rm", &["-r", &first], "").success();
    world.program("mkdir", &["-p", directory], "").success();
    scene.put("web.json", &definition("web", 8080));
    assert_functions(&daemon, &[("web", 8080)]);
    let parent = scene.directory.parent().expect("a parent");
    fs::rename(parent, parent.with_file_name("away")).expect("one file system");
    assert_functions(&daemon, &[]);
    fs::rename(parent.with_file_name("away"), parent).expect("one file system");
    assert_functions(&daemon, &[("web", 8080)]);
}

#[test]
fn file_written_in_place_is_followed() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    let daemon = scene.daemon();
    let path = scene.directory.join("web.json");
    for port in [8080, 8081] {
        let text = definition("web", port);
        world.program("tee", &[path.to_str().expect("UTF-8")], &text).success();
        assert_functions(&daemon, &[("web", port)]);
    }
}

#[test]
fn function_of_a_refused_file_can_be_brought_up_by_hand() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    let daemon = scene.daemon();
    assert_eq!(daemon.ask("PUT", "/v1/functions/web", &definition("web", 8080)).status, 200);
    scene.put("late.json", &definition("late", 8080));
    assert_said(&daemon, "web has tcp 8080");
    // From now on, the function does not belong to the file.
    assert_eq!(daemon.ask("PUT", "/v1/functions/late", &definition("late", 8082)).status, 200);
    scene.put("more.json", &definition("more", 9000));
    assert_functions(&daemon, &[("late", 8082), ("more", 9000), ("web", 8080)]);
    assert_said(&daemon, "late was brought up by somebody else");
    scene.remove("late.json");
    scene.remove("more.json");
    assert_functions(&daemon, &[("late", 8082), ("web", 8080)]);
}

#[test]
fn function_run_by_hand_no_longer_belongs_to_its_file() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    let both = format!("[{}, {}]", definition("runs", 8080), definition("rests", 8081));
    scene.put("both.json", &both);
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("rests", 8081), ("runs", 8080)]);
    assert_eq!(daemon.ask("DELETE", "/v1/functions/runs", "").status, 200);
    world.detach(&[function("runs", &[exposure(Transport::Tcp, 8080, 3000)])]);
    scene.remove("both.json");
    assert_functions(&daemon, &[("runs", 8080)]);
    world.riklet(&["stop", "runs"], "").success();
    assert_functions(&daemon, &[]);
}

#[test]
fn purge_of_all_functions_forgets_their_files() {
    let world = &World::new(Firewall::Nftables);
    let scene = Scene::new(world);
    scene.put("web.json", &definition("web", 8080));
    let daemon = scene.daemon();
    assert_functions(&daemon, &[("web", 8080)]);
    let purged = daemon.ask("DELETE", "/v1/functions?all=true&purge=true", "");
    assert_eq!(purged.status, 200, "{purged:?}");
    assert_said(
        &daemon,
        "come back once a file that defines them changes, or the daemon starts anew",
    );
    // The function that has the name now belongs to someone else, and stays when the file goes.
    assert_eq!(daemon.ask("PUT", "/v1/functions/web", &definition("web", 8082)).status, 200);
    scene.put("more.json", &definition("more", 9000));
    assert_functions(&daemon, &[("more", 9000), ("web", 8082)]);
    scene.remove("web.json");
    scene.remove("more.json");
    assert_functions(&daemon, &[("web", 8082)]);
}
