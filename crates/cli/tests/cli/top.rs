//! `top`: once, with real traffic; and in a terminal, which it restores.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::Value;

use crate::{
    daemon::Daemon,
    environment::{Environment, HELLO},
};

/// Runs this while a client sends requests to `hello`. Returns its result, and the number of answers meanwhile.
fn with_traffic<T>(work: impl FnOnce(&AtomicU64) -> T) -> (T, u64) {
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
                stream
                    .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.contains("hello"), "{answer}");
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        // The client must stop, even if this panics.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&answers)));
        stop.store(true, Ordering::Relaxed);
        done
    });
    let done = done.unwrap_or_else(|reason| std::panic::resume_unwind(reason));
    (done, answers.into_inner())
}

fn environment() -> Environment {
    let environment = Environment::new();
    environment.run(&["run", "--detach", "hello.json"]).done();
    environment.write("quiet.json", HELLO.replace("hello", "quiet").replace("8080", "9090"));
    environment.run(&["up", "quiet.json"]).success();
    environment
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {value:#}"))
}

fn rates_are_those_of_the_traffic(environment: &Environment) -> Value {
    let once = ["top", "--once", "--interval", "0.5", "--output", "json"];
    let ((top, answered), _) = with_traffic(|answers| {
        let before = answers.load(Ordering::Relaxed);
        let top = environment.run(&once).json();
        (top, answers.load(Ordering::Relaxed) - before)
    });
    let [hello, quiet] = &**top["functions"].as_array().unwrap() else { panic!("{top:#}") };
    assert_eq!((&hello["name"], &hello["state"]), (&"hello".into(), &"attached".into()));
    assert_eq!((&quiet["name"], &quiet["state"]), (&"quiet".into(), &"ready".into()));
    let interval = number(&top, "/intervalMs");
    assert!((500..20_000).contains(&interval), "{interval}");
    for way in ["in", "out"] {
        let rate = |what: &str| number(hello, &format!("/{way}/{what}PerSecond"));
        let total = |what: &str| number(hello, &format!("/{way}/{what}"));
        // A connection has between 4 and 20 packets each way; the client makes one connection after the other.
        let packets = rate("packets") * interval / 1000;
        assert!(packets > 0 && packets <= (answered + 1) * 20, "{packets} for {answered}: {top:#}");
        // A packet has at least an Ethernet, an IPv4 and a TCP header.
        assert!(rate("bytes") >= rate("packets") * 54 - 54, "{top:#}");
        assert!(total("packets") >= packets && total("bytes") >= total("packets") * 42, "{top:#}");
        assert_eq!(number(quiet, &format!("/{way}/packetsPerSecond")), 0, "{top:#}");
    }
    // Once the last connection is forgotten, the rate is zero; the totals stay.
    let after = || environment.run(&once).json();
    let rate = |top: &Value| number(top, "/functions/0/in/packetsPerSecond");
    let still = (0..20).map(|_| after()).find(|top| rate(top) == 0).expect("it comes to rest");
    assert!(number(&still, "/functions/0/in/packets") >= number(hello, "/in/packets"));
    top
}

#[test]
fn top_measures_rates_without_a_daemon() {
    let environment = environment();
    let top = rates_are_those_of_the_traffic(&environment);
    let none = Value::Array(vec![]);
    assert_eq!((&top["slots"], &top["events"], &top["drift"]), (&Value::Null, &none, &none));
    let table = || environment.run(&["top", "--once", "--interval", "0.1"]).success();
    let still = |text: &String| text.matches("  0  ").count() == 8;
    let text = (0..50).map(|_| table()).find(still).expect("it comes to rest");
    insta::assert_snapshot!(text, @r"
    NAME   INTERFACE  GUEST       STATE     IN P/S  IN B/S  OUT P/S  OUT B/S  EXPOSURES
    hello  rik0       10.231.0.2  attached  0       0       0        0        tcp 8080 -> 3000
    quiet  rik1       10.231.0.6  ready     0       0       0        0        tcp 9090 -> 3000
    ");
    // Problems are shown next to the table.
    environment.tool("ip", &["link", "set", "rik1", "down"]);
    let output = environment.run(&["top", "--once", "--interval", "0.1"]);
    assert!(output.stdout.contains("  down   "), "{output}");
    assert_eq!(output.stderr, "drift: 1 differences; `riklet-sdn check` shows them\n");
    environment.run(&["stop", "hello"]).done();
}

#[test]
fn top_measures_rates_with_a_daemon() {
    let environment = environment();
    let daemon = Daemon::start(&environment, &["--ready-slots", "3"]);
    environment.run(&["down", "quiet"]).success();
    environment.run(&["up", "quiet.json"]).success();
    let top = rates_are_those_of_the_traffic(&environment);
    let slots = &top["slots"];
    assert_eq!(number(slots, "/ready") + number(slots, "/creating"), 3, "{slots}");
    let kinds: Vec<_> =
        top["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert!(kinds.contains(&&"down".into()) && kinds.contains(&&"up".into()), "{kinds:?}");
    environment.run(&["stop", "hello"]).done();
    daemon.end();
}

#[test]
fn top_refuses_to_run_without_a_terminal() {
    let environment = Environment::with_hello();
    insta::assert_snapshot!(environment.run(&["top"]).failure(2), @r"
    error: standard output is not a terminal
    hint: `--once` prints one table
    ");
    for interval in ["0", "-1", "x", "NaN", "inf", "3601"] {
        environment.run(&["top", "--once", &format!("--interval={interval}")]).failure(2);
    }
}

/// The control sequences that switch to the alternate screen and back (xterm).
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// Runs `top` in a terminal of script(1), and this shell script once the screen is drawn. Returns the output up to
/// then, and the output afterwards.
fn in_terminal(environment: &Environment, once_drawn: &str) -> (String, String) {
    environment.write(
        "session.sh",
        "tty >tty; stty rows 12 cols 100; sh -c 'echo $$ >pid; exec $RIKLET top'; echo code $?; stty -a",
    );
    let script = format!(
        "rm -f keys seen; mkfifo keys; touch seen
         script --quiet --flush --return --command 'sh session.sh' typescript <keys >seen &
         exec 3>keys
         until grep -q quits seen && grep -q hello seen; do :; done
         {once_drawn}
         exec 3>&-
         wait"
    );
    environment.write("top.sh", script);
    environment.shell("timeout 50 sh top.sh").done();
    let seen = environment.tool("cat", &["seen"]);
    let (drawn, after) = seen.split_once(LEAVE).unwrap_or_else(|| panic!("{seen:?}"));
    assert!(drawn.contains(ENTER) && !after.contains(ENTER), "{seen:?}");
    // The terminal echoes keys and reads lines again.
    assert!(after.contains(" icanon") && after.contains(" echo "), "{after:?}");
    (drawn.to_owned(), after.to_owned())
}

#[test]
fn terminal_is_restored_when_the_user_quits() {
    let environment = Environment::with_hello();
    // After the terminal is made larger, the last line is drawn, too.
    let resized = "stty -F $(cat tty) rows 20; until grep -q '\\[20;1H' seen; do :; done";
    let (drawn, after) = in_terminal(&environment, &format!("{resized}; printf oq >&3"));
    assert!(drawn.contains("rik0"), "{drawn:?}");
    assert!(after.contains("code 0"), "{after:?}");
    let (_, after) = in_terminal(&environment, "printf '\\003' >&3");
    assert!(after.contains("code 0"), "{after:?}");
}

#[test]
fn terminal_is_restored_when_a_signal_ends_top() {
    let environment = Environment::with_hello();
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let (_, after) = in_terminal(&environment, &format!("kill -{signal} $(cat pid)"));
        assert!(after.contains(&format!("code {code}")), "{after:?}");
    }
}

#[test]
fn top_ends_when_its_terminal_is_gone() {
    let environment = Environment::with_hello();
    // The shell leads the session, so it gets the SIGHUP, and ignores it.
    environment.write(
        "session.sh",
        "trap '' HUP; stty rows 12 cols 100; sh -c 'echo $$ >pid; exec $RIKLET top' <&0 2>error; echo $? >code",
    );
    let script = "rm -f keys seen code; mkfifo keys; touch seen
         script --quiet --flush --command 'sh session.sh' typescript <keys >seen &
         terminal=$!
         exec 3>keys
         until grep -q quits seen && grep -q hello seen; do :; done
         kill -KILL $terminal
         until [ -s code ]; do sleep 0.05; done; cat code";
    environment.write("top.sh", script);
    environment.shell("timeout 20 sh top.sh").done();
}
