//! A second kind besides functions: `cargo test -p riklet-cli --features toy-kind --test netns kinds`.

use serde_json::{Value, json};

use crate::world::{
    NODE_LAN,
    function::{Function, exposure, function, nic},
    on_every_firewall,
    traffic::tcp_ask,
    transport::Transport::Tcp,
};

fn toy(name: &str, exposure: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Toy", "name": name, "spec": { "exposure": exposure } })
}

#[track_caller]
fn names(listed: &Value) -> Vec<&str> {
    let listed = listed.as_array().expect("a list").iter();
    listed.map(|instance| instance["name"].as_str().expect("a name")).collect()
}

on_every_firewall!(each_kind_has_its_own_paths_and_all_share_one, |world| {
    let daemon = world.daemon(&[]);
    let put = |path: &str, definition: &Value| daemon.ask("PUT", path, &definition.to_string());
    let web = function("web", &[exposure(Tcp, 8080, 3000)]);
    assert_eq!(put("/v1/functions/web", &web).status, 200);
    let top = toy("top", &exposure(Tcp, 9000, 3000));
    let reply = put("/v1/toys/top", &top);
    assert_eq!(reply.status, 200, "{reply:?}");
    // It serves like a function.
    let played = Function::start(world, nic(&reply.json()["instances"][0]), &[(Tcp, 3000)]);
    tcp_ask(&world.client, (NODE_LAN, 9000)).expect("the toy answers");
    for (collection, expected) in
        [("functions", &["web"][..]), ("toys", &["top"]), ("instances", &["top", "web"])]
    {
        assert_eq!(names(&daemon.get(&format!("/v1/{collection}"))), expected);
    }
    assert_eq!(daemon.get("/v1/instances/top")["kind"], "Toy");

    for (method, path, body, status) in [
        ("PUT", "/v1/functions/other", toy("other", &exposure(Tcp, 9001, 1)).to_string(), 422),
        ("POST", "/v1/toys", json!([function("other", &[])]).to_string(), 422),
        ("GET", "/v1/functions/top", String::new(), 404),
        ("DELETE", "/v1/functions/top", String::new(), 404),
        ("DELETE", "/v1/toys?name=web", String::new(), 404),
    ] {
        let reply = daemon.ask(method, path, &body);
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        let hint = reply.json()["hint"].as_str().expect("a hint").to_owned();
        assert!(hint.starts_with("its path is /v1/"), "{hint}");
    }
    assert_eq!(daemon.ask("DELETE", "/v1/functions?all=true", "").status, 200);
    assert_eq!(names(&daemon.get("/v1/instances")), ["top"]);

    // The command line has no collections: it lists both kinds.
    let both = json!([web, toy("bottom", &exposure(Tcp, 9002, 1))]).to_string();
    world.riklet(&["up", "-"], &both).success();
    let listed = world.riklet(&["list", "--output", "json"], "").success();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(names(&listed), ["bottom", "top", "web"]);
    drop(played);
    world.riklet(&["down", "bottom", "web"], "").success();
    assert_eq!(names(&daemon.get("/v1/instances")), ["top"]);
});
