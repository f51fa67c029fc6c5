mod refusals;

use proptest::{option, prelude::*, sample::select};

use super::*;
use crate::model::{
    Accelerator, Account, BitRate, BootArgs, Dns, Execution, Exposure, Function, Image, Limits,
    Memory, PortRange, Protocol, Queues, Sha256, Vcpus, Vmm,
};

fn source((name, text): (&str, &str)) -> Source {
    Source { name: name.to_owned(), text: text.to_owned() }
}

fn parsed(text: &str) -> Result<Vec<Workload>, Errors> {
    parse(&[source(("text", text))])
}

/// Returns the errors in these sources, one per line.
fn refused(sources: &[(&str, &str)]) -> String {
    let sources: Vec<_> = sources.iter().copied().map(source).collect();
    parse(&sources).unwrap_err().to_string()
}

/// Reads RIK's own definitions, unchanged.
#[test]
fn the_definitions_of_rik_are_read() {
    let function = include_str!("../../tests/definitions/rik-workload-function.json");
    let workloads = parsed(function).unwrap();
    let [Workload::Function(function)] = workloads.as_slice() else { panic!("{workloads:?}") };
    assert_eq!(function.name.as_str(), "my-function");
    let rootfs = Image::new("https://.../alpine.tar.gz", None).unwrap();
    assert_eq!(function.execution, Execution { rootfs: Some(rootfs), ..Execution::default() });
    let pods = [
        ("1.json", include_str!("../../tests/definitions/rik-workload-1.json")),
        ("2.json", include_str!("../../tests/definitions/rik-workload-2.json")),
        ("3.json", include_str!("../../tests/definitions/rik-workload-3.json")),
    ];
    let sources: Vec<_> = pods.into_iter().map(source).collect();
    let pods = parse(&sources).unwrap();
    let described: Vec<_> = pods.iter().map(|pod| (pod.kind(), pod.name().as_str())).collect();
    assert_eq!(described, ["alpine", "2-distro", "replicated"].map(|name| (Kind::Pod, name)));
    for pod in &pods {
        assert_eq!(from_json(&to_json(pod)).as_ref(), Ok(pod));
    }
}

#[test]
fn yaml_may_begin_as_json_does() {
    let exposure = "[{port: 8080, targetPort: 80}]";
    let flow = format!(
        "{{apiVersion: v1, kind: Function, name: hello, spec: {{function: {{exposure: {exposure}}}}}}}\n"
    );
    let block = format!(
        "apiVersion: v1\nkind: Function\nname: hello\nspec: {{function: {{exposure: {exposure}}}}}"
    );
    let hello = parsed(&block).unwrap();
    assert_eq!(parsed(&flow).unwrap(), hello);
    assert_eq!(parsed(&format!("[{flow}]")).unwrap(), hello);
    let two = format!("{flow}---\n{}", flow.replace("hello", "second").replace("8080", "8081"));
    assert_eq!(parsed(&two).unwrap().len(), 2);
    let broken = "{apiVersion: v1, name: hello";
    insta::assert_snapshot!(refused(&[("-", broken), ("a.json", &flow), ("a.yaml", broken)]), @r"
    -:1:2: not valid JSON: key must be a string
    a.json:1:2: not valid JSON: key must be a string
    a.yaml:1:1: not valid YAML: unclosed bracket '{'
    ");
}

#[test]
fn json_and_yaml_mean_the_same() {
    let json = "\u{feff}\r\n[{\t\"apiVersion\": \"v1\", \"kind\": \"Function\", \"name\": \"h\\u0065llo\",\r\n\
        \"spec\": {\"function\": {\"execution\": {\"rootfs\": \"\\/srv\\/\\ud83d\\ude00\"},\r\n\
        \"exposure\": {\"port\": 8080, \"targetPort\": \"3000\", \"protocol\": \"udp\"}}}}]";
    let yaml = "# all of it\n--- \napiVersion: v1\nkind: Function\nname: hello\n\
        spec: &spec\n  containers: []\n  function:\n    execution: {rootfs: /srv/😀}\n    exposure:\n\
        \x20   - &e {port: 8080, targetPort: '3000', protocol: UDP, type: NodePort}\n---\n---\n\
        - apiVersion: v1\n  kind: Function\n  name: second\n  replicas: 1\n\
        \x20 spec: {function: {}}\n";
    let workloads = parsed(yaml).unwrap();
    assert_eq!(parsed(json).unwrap(), workloads[..1]);
    assert_eq!(
        to_json(&workloads[0]),
        r#"{"apiVersion":"v1","kind":"Function","name":"hello","replicas":1,"spec":{"function":{"execution":{"rootfs":"/srv/😀"},"exposure":[{"port":8080,"protocol":"UDP","targetPort":3000,"type":"NodePort"}]}}}"#
    );
    assert_eq!(
        to_json(&workloads[1]),
        r#"{"apiVersion":"v1","kind":"Function","name":"second","replicas":1,"spec":{"function":{"execution":{}}}}"#
    );
}

#[test]
fn every_field_of_an_execution_is_read() {
    let sum = "ab".repeat(32);
    let yaml = format!(
        "apiVersion: v1\nkind: Function\nname: a\nspec:\n  function:\n    execution:\n\
         \x20     vmm: QEMU\n      kernel: /boot/vmlinuz\n\
         \x20     initrd: {{source: 'http://example.net/initrd', sha256: {}}}\n\
         \x20     rootfs: {{source: file:///srv/root.ext4}}\n      readOnly: true\n      vcpus: 32\n\
         \x20     memory: 2G\n      bootArgs: quiet  panic=5\n      accelerator: tcg\n      user: '1000'\n\
         \x20     group: kvm\n      queues: 16\n      dns: [192.0.2.53, 198.51.100.53]\n",
        sum.to_uppercase()
    );
    let workloads = parsed(&yaml).unwrap();
    let json = to_value(&workloads[0]);
    insta::assert_snapshot!(json["spec"]["function"]["execution"].to_string().replace(&sum, "SUM"), @r#"{"accelerator":"tcg","bootArgs":"quiet  panic=5","dns":["192.0.2.53","198.51.100.53"],"group":"kvm","initrd":{"sha256":"SUM","source":"http://example.net/initrd"},"kernel":"/boot/vmlinuz","memory":2048,"queues":16,"readOnly":true,"rootfs":"file:///srv/root.ext4","user":1000,"vcpus":32,"vmm":"qemu"}"#);
    assert_eq!(from_json(&json.to_string()).unwrap(), workloads[0]);
}

#[test]
fn an_error_in_an_aliased_value_is_reported_at_the_alias() {
    let text = "apiVersion: v1\nkind: Function\nname: a\nspec: {function: {exposure: {port: &p 0, targetPort: *p}}}\n\
        ---\napiVersion: v1\nkind: Function\nname: b\nspec: &s {function: {exposure: [{port: &p 80}, {port: *p}]}}\n";
    insta::assert_snapshot!(refused(&[("alias.yaml", text)]), @r"
    alias.yaml:4:39: spec.function.exposure.port: port 0 is out of range; ports are 1 to 65535
    alias.yaml:4:54: spec.function.exposure.targetPort: port 0 is out of range; ports are 1 to 65535
    alias.yaml:9:48: spec.function.exposure[1]: tcp 80 -> 80 clashes with tcp 80 -> 80 at alias.yaml:9:33
    ");
}

#[test]
fn deep_or_repetitive_texts_are_refused() {
    let reason = |text: &str| {
        let errors = parsed(text).unwrap_err();
        errors.iter().next().unwrap().reason.clone()
    };
    let long = format!("name: {}", "n".repeat(MAX_BYTES));
    assert_eq!(reason(&long), Reason::TooLarge { bytes: long.len() });
    assert_eq!(reason(&format!("{}{}", "[".repeat(500_000), "]".repeat(500_000))), Reason::TooDeep);
    assert_eq!(
        reason(&format!("{{\"spec\":{}7{}}}", "[".repeat(32), "]".repeat(32))),
        Reason::TooDeep
    );
    let syntax = |text: &str| assert!(matches!(reason(text), Reason::Syntax { .. }), "{text:.80}");
    syntax(&format!("spec: {}{}", "[".repeat(400_000), "]".repeat(400_000)));
    syntax(&"- ".repeat(500_000));
    let mut laughs = String::from("a0: &a0 [x]\n");
    for level in 1..30 {
        use std::fmt::Write;
        let below = level - 1;
        writeln!(laughs, "a{level}: &a{level} [*a{below}, *a{below}, *a{below}]").unwrap();
    }
    syntax(&laughs);
    let exposures = "      - port: 1-1024\n".repeat(3000);
    let ports = format!(
        "apiVersion: v1\nkind: Function\nname: a\nspec:\n  function:\n    exposure:\n{exposures}"
    );
    let errors = parsed(&ports).unwrap_err();
    assert_eq!((errors.iter().count(), errors.is_truncated()), (Errors::MAX, true));
}

#[test]
fn a_record_may_be_longer_than_what_the_user_wrote() {
    let exposures: Vec<_> = (1..=20_000).map(|port| format!("{{\"port\":{port}}}")).collect();
    let text = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Function\",\"name\":\"a\",\
         \"spec\":{{\"function\":{{\"exposure\":[{}]}}}}}}",
        exposures.join(",")
    );
    let workload = parsed(&text).unwrap().remove(0);
    let record = to_json(&workload);
    assert!(record.len() > MAX_BYTES);
    assert_eq!(from_json(&record), Ok(workload));
}

#[test]
fn only_one_definition_makes_a_record() {
    let one = r#"{"apiVersion":"v1","kind":"Function","name":"a","spec":{"function":{}}}"#;
    let two = format!("[{one},{}]", one.replace("\"a\"", "\"b\""));
    let refused = |text: &str| from_json(text).unwrap_err().to_string();
    assert!(from_json(one).is_ok());
    assert_eq!(refused(&two), "record:1:1: expected one definition, found 2");
    assert_eq!(refused(""), "record:1:1: the text contains no definition");
}

fn ports() -> impl Strategy<Value = (PortRange, PortRange)> {
    (1..=60_000_i64, 1..=60_000_i64, prop_oneof![Just(0_i64), 1..=1023_i64]).prop_map(
        |(host, guest, more)| {
            let range = |first| PortRange::new(first, first + more).unwrap();
            (range(host), range(guest))
        },
    )
}

fn workload() -> impl Strategy<Value = Workload> {
    let address = option::of((1..=223_u8, any::<[u8; 3]>()));
    let exposure = (0..3_usize, address, ports(), any::<bool>());
    let exposure = exposure.prop_map(|(protocol, address, (host, guest), shadow)| {
        let address = address.map(|(a, [b, c, d])| std::net::IpAddr::from([a, b, c, d]));
        let address = address.filter(|address| !address.is_loopback());
        let exposure = Exposure::new(Protocol::ALL[protocol], address, host, guest).unwrap();
        exposure.with_shadow(shadow)
    });
    let exposures = proptest::collection::vec(exposure, 0..5).prop_map(|all| {
        all.into_iter().fold(Vec::<Exposure>::new(), |mut kept, exposure| {
            if !kept.iter().any(|other| other.clashes_with(&exposure)) {
                kept.push(exposure);
            }
            kept
        })
    });
    let rate =
        || option::of((1_000..=1_250_000_000_u64).prop_map(|b| BitRate::of_bytes(b).unwrap()));
    let limits = (rate(), rate()).prop_map(|(egress, ingress)| Limits { egress, ingress });
    ("[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", execution(), exposures, limits).prop_map(
        |(name, execution, exposures, limits)| {
            let name = name.parse().unwrap();
            Workload::Function(Function { name, execution, exposures, egress: None, limits })
        },
    )
}

fn execution() -> impl Strategy<Value = Execution> {
    let image = || {
        let sum = option::of(any::<[u8; 32]>().prop_map(Sha256::new));
        option::of(("\\PC.{0,20}", sum).prop_map(|(source, sum)| Image::new(source, sum).unwrap()))
    };
    let account = || {
        let id = (0..u32::MAX).prop_map(Account::Id);
        option::of(prop_oneof![id, "[a-z_][a-z0-9_-]{0,30}".prop_map(|name| name.parse().unwrap())])
    };
    let dns =
        proptest::collection::vec(any::<std::net::Ipv4Addr>().prop_map(Into::into), 0..=Dns::MAX);
    let files = (image(), image(), image(), option::of(any::<bool>()));
    let size = (
        option::of((1..=i64::from(Vcpus::MAX)).prop_map(|n| Vcpus::new(n).unwrap())),
        option::of((1..=i64::from(Memory::MAX_MIB)).prop_map(|n| Memory::new(n).unwrap())),
        option::of((1..=i64::from(Queues::MAX)).prop_map(|n| Queues::new(n).unwrap())),
    );
    let vmm =
        (option::of(select(Vmm::ALL.to_vec())), option::of(select(Accelerator::ALL.to_vec())));
    let words = option::of(
        "[a-z.=\"\t ]{0,40}"
            .prop_filter_map("an address", |words| BootArgs::try_from(words.as_str()).ok()),
    );
    let dns = option::of(dns.prop_map(|servers| Dns::try_from(servers).unwrap()));
    (vmm, files, size, words, account(), account(), dns)
        .prop_map(|(vmm, files, size, boot_args, user, group, dns)| {
            let ((vmm, accelerator), (kernel, initrd, rootfs, read_only)) = (vmm, files);
            let (vcpus, memory, queues) = size;
            let files = Execution { kernel, initrd, rootfs, read_only, ..Execution::default() };
            let size = Execution { vcpus, memory, boot_args, queues, ..files };
            Execution { vmm, accelerator, user, group, dns, ..size }
        })
        .prop_filter("what cannot be together", |execution| execution.conflicts().next().is_none())
}

proptest! {
    #[test]
    fn a_workload_reads_back(workload in workload()) {
        let json = to_json(&workload);
        prop_assert!(!json.contains('\n'));
        prop_assert_eq!(from_json(&json).unwrap(), workload);
    }

    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        drop(parsed(&text));
    }

    #[test]
    fn parsing_text_like_a_definition_never_panics(
        words in proptest::collection::vec(
            select(vec![
                "{", "}", "[", "]", ":", ",", "\"", "\n", "  ", "\t", "- ", "---\n", "&a ", "*a", "<<: ",
                "apiVersion: v1\n", "kind: Function\n", "name: a\n", "spec:\n", "function:\n", "exposure:\n",
                "port: ", "\"port\":", "1-9", "80", "1e9", "é", "\\ud800", "null", "!!int ", "# ", "? ", "|\n",
            ]),
            0..40,
        )
    ) {
        let text = words.concat();
        if let Err(errors) = parsed(&text) {
            let lines = text.lines().count().max(1) + 1;
            for error in &errors {
                prop_assert!((1..=lines).contains(&error.location.line), "{error} in {text:?}");
            }
        }
    }
}

#[test]
fn errors_are_bounded_in_number_and_length() {
    let fields: Vec<_> = (0..1000).map(|index| format!("\"field{index}\": 1")).collect();
    let exposures = vec!["{}"; 1000].join(",");
    let long = "\u{1}".repeat(100_000).escape_default().to_string();
    let texts = [
        format!("[{}]", vec!["{}"; 1000].join(",")),
        format!("{{{}}}", fields.join(",")),
        format!(
            r#"{{"apiVersion":"v1","kind":"Function","name":"a","spec":{{"function":{{"exposure":[{exposures}]}}}}}}"#
        ),
        "a: 1\n---\n".repeat(1000),
    ];
    for text in &texts {
        let errors = parsed(text).unwrap_err();
        assert_eq!(
            (errors.iter().count(), errors.is_truncated()),
            (Errors::MAX, true),
            "{text:.80}"
        );
        let shown = errors.to_string();
        assert_eq!(shown.lines().last(), Some("only the first 100 errors are listed"));
    }
    // This text has exactly as many errors as are listed.
    let one = r#"{"apiVersion":"v1","kind":"Function","spec":{"function":{}}}"#;
    let errors = parsed(&format!("[{},{one}]", vec!["{}"; 33].join(","))).unwrap_err();
    assert_eq!((errors.iter().count(), errors.is_truncated()), (100, false));
    // No error repeats a long text as a whole, whichever field has it.
    let long = long.replace("\\u{1}", "\\u0001");
    let field = |value: &str| {
        format!(r#"[{{"apiVersion":{value},"kind":{value},"name":{value},{value}:1}}]"#)
    };
    let shown = parsed(&field(&format!("\"{long}\""))).unwrap_err().to_string();
    assert!(shown.len() < 5000, "{} bytes", shown.len());
}

#[test]
fn a_policy_of_egress_is_read_and_written() {
    let text = |egress: &str| {
        let spec = format!("{{ function: {{ network: {{ egress: {egress} }} }} }}");
        format!("{{ apiVersion: v1, kind: Function, name: f, spec: {spec} }}")
    };
    let read = |egress: &str| parse(&[source(("f.yaml", &text(egress)))]);
    let whole = "{ default: none, allow: [10.0.5.0/24:5432/tcp, host:9000], deny: [10.0.5.9] }";
    let workload = read(whole).unwrap().remove(0);
    let written = to_value(&workload)["spec"]["function"]["network"].clone();
    assert_eq!(
        written.to_string(),
        r#"{"egress":{"allow":["10.0.5.0/24:5432/tcp","host:9000"],"default":"none","deny":["10.0.5.9"]}}"#
    );
    assert_eq!(from_json(&to_json(&workload)).unwrap(), workload);
    let refused = |egress: &str| read(egress).unwrap_err().to_string();
    let at = |column: usize, field: &str| {
        format!("f.yaml:1:{column}: spec.function.network.egress{field}: ")
    };
    assert_eq!(
        refused("{ default: nothing }"),
        at(94, ".default") + "unknown reach \"nothing\"; expected one of internet, all, none"
    );
    assert_eq!(refused("{ alow: [] }"), at(85, ".alow") + "unknown field; did you mean \"allow\"?");
    assert!(refused("{ deny: [\"api.example.com:443\"] }").contains(
        "egress.deny[0]: \"api.example.com\" is a name, which only `allow` of a definition takes"
    ));
    assert!(
        refused("{ deny: 10.0.0.1 }").contains("expected a list of destinations, found a string")
    );
    for (via, known) in [
        ("via: 10.0.5.2:3128", r#"{"egress":{"via":"10.0.5.2:3128"}}"#),
        ("via: 10.0.5.2:3128, viaPorts: [443, 80]", r#"{"egress":{"via":"10.0.5.2:3128"}}"#),
        (
            "via: \"127.0.0.1:3128\", viaPorts: [8443, 443]",
            r#"{"egress":{"via":"127.0.0.1:3128","viaPorts":[443,8443]}}"#,
        ),
    ] {
        let workload = read(&format!("{{ {via} }}")).unwrap().remove(0);
        let written = to_value(&workload)["spec"]["function"]["network"].to_string();
        assert_eq!(written, known);
        assert_eq!(from_json(&to_json(&workload)).unwrap(), workload);
    }
    for (wrong, said) in [
        ("via: proxy.lan:3128", ".via: \"proxy.lan\" is a name: write the address of the proxy"),
        ("via: 3128", ".via: expected a string, found a number; put it in quotes"),
        ("viaPorts: [443]", ".viaPorts: ports for a proxy, and no proxy: name it by via"),
        (
            "via: 10.0.5.2:3128, viaPorts: []",
            ".viaPorts: 0 ports are led to the proxy; 1 to 16 can be",
        ),
        (
            "via: 10.0.5.2:3128, viaPorts: [443, 0]",
            ".viaPorts[1]: port 0 is out of range; ports are 1 to 65535",
        ),
        ("via: 10.0.5.2:3128, viaPorts: [80-90]", ".viaPorts[0]: expected a port, found a string"),
        (
            "via: 10.0.5.2:3128, deny: [10.0.0.0/8]",
            "egress: the proxy of via is not reached: deny has it by 10.0.0.0/8",
        ),
        (
            "via: 127.0.0.1:3128, deny: [host]",
            "egress: the proxy of via is not reached: deny has it by host",
        ),
    ] {
        let refused = refused(&format!("{{ {wrong} }}"));
        assert!(refused.ends_with(said), "{refused}");
    }
    let all = |one: fn(u8) -> String| (0..40).map(one).collect::<Vec<_>>().join(", ");
    let wide = all(|n| format!("\"10.0.0.0/8:{0}000-{0}900\"", n + 1));
    let narrow = all(|n| format!("10.{}.0.0/16:1-60000", n * 5));
    let blocks = refused(&format!("{{ allow: [{wide}], deny: [{narrow}] }}"));
    assert!(blocks.contains("egress: what is allowed and denied overlaps"), "{blocks}");
    let many = vec!["10.0.0.1"; 65].join(", ");
    assert!(
        refused(&format!("{{ deny: [{many}] }}"))
            .contains("65 destinations; a list has at most 64")
    );
}

#[test]
fn names_of_a_policy_are_read_and_written() {
    let text = |egress: &str| {
        let spec = format!("{{ function: {{ network: {{ egress: {egress} }} }} }}");
        format!("{{ apiVersion: v1, kind: Function, name: f, spec: {spec} }}")
    };
    let read = |egress: &str| parse(&[source(("f.yaml", &text(egress)))]);
    let allow = r#"{ allow: ["*.Example.org:443/TCP", 10.0.5.0/24, "api.example.com:80-81"] }"#;
    let workload = read(allow).unwrap().remove(0);
    let written = to_value(&workload)["spec"]["function"]["network"].clone();
    assert_eq!(
        written.to_string(),
        r#"{"egress":{"allow":["10.0.5.0/24","*.example.org:443/tcp","api.example.com:80-81"],"default":"none"}}"#
    );
    assert_eq!(from_json(&to_json(&workload)).unwrap(), workload);
    let refused = |egress: &str| read(egress).unwrap_err().to_string();
    for (allow, reason) in [
        ("api.example.com", "allow[0]: api.example.com has no port: write api.example.com:443"),
        ("*:443", "allow[0]: \"*\" is no pattern of names"),
        ("*.*:443", "allow[0]: \"*.*\" is no pattern of names"),
        ("bücher.example:443", "write the name as it is asked for (punycode"),
        (
            "https://a.example/",
            "is a URL: write the name and the port of its server, as in a.example:443",
        ),
        ("10.0.5:443", "allow[0]: \"10.0.5:443\" is not a destination such as"),
        ("function:db:80", "\"function:db:80\" is a function"),
    ] {
        let said = refused(&format!("{{ default: none, allow: [\"{allow}\"] }}"));
        assert!(said.contains(reason), "{said}");
    }
    for default in ["internet", "all"] {
        let said = refused(&format!("{{ default: {default}, allow: [\"a.example:1\"] }}"));
        assert!(said.contains(&format!("egress: `default: {default}` reaches more")), "{said}");
        assert!(said.contains("leave out the default"), "{said}");
    }
    let pod = "{ apiVersion: v1, kind: Pod, name: p, spec: { pod: { network: { egress: { allow: [\"a.example:1\"] } } } } }";
    let said = parse(&[source(("p.yaml", pod))]).unwrap_err().to_string();
    assert!(
        said.contains("network.egress.allow: a.example:1 is a name: only functions may have names"),
        "{said}"
    );
    let many = vec!["\"a.example:1\""; 5001].join(", ");
    assert!(
        refused(&format!("{{ allow: [{many}] }}")).contains("5001 names; a list has at most 5000")
    );
}

#[test]
fn limits_are_read_and_written() {
    let text = |limits: &str| {
        let spec = format!("{{ function: {{ network: {{ limits: {limits} }} }} }}");
        format!("{{ apiVersion: v1, kind: Function, name: f, spec: {spec} }}")
    };
    let read = |limits: &str| parse(&[source(("f.yaml", &text(limits)))]);
    let workload = read("{ egress: 1000Mbit, ingress: 64kbit }").unwrap().remove(0);
    let written = to_value(&workload)["spec"]["function"]["network"].clone();
    assert_eq!(written.to_string(), r#"{"limits":{"egress":"1Gbit","ingress":"64kbit"}}"#);
    assert_eq!(from_json(&to_json(&workload)).unwrap(), workload);
    let nothing = read("{}").unwrap().remove(0);
    assert!(to_value(&nothing)["spec"]["function"].get("network").is_none());
    let refused = |limits: &str| read(limits).unwrap_err().to_string();
    let at = |column: usize, field: &str| {
        format!("f.yaml:1:{column}: spec.function.network.limits{field}: ")
    };
    let form = "is not a rate; rates are whole numbers of bit, kbit, Mbit or Gbit a second, such as 100Mbit";
    for (limits, column, field, reason) in [
        (
            "{ egress: 100Mb }",
            93,
            ".egress",
            format!("\"100Mb\" {form}; did you mean \"100Mbit\"?"),
        ),
        ("{ egress: 10MB }", 93, ".egress", format!("\"10MB\" {form}; did you mean \"80Mbit\"?")),
        ("{ egress: -1Mbit }", 93, ".egress", format!("\"-1Mbit\" {form}")),
        (
            "{ egress: 100 }",
            93,
            ".egress",
            "expected a rate such as 100Mbit, found a number".into(),
        ),
        (
            "{ egress: 0bit }",
            93,
            ".egress",
            "0bit is out of range; rates are 8kbit to 10Gbit".into(),
        ),
        (
            "{ egress: 11Gbit }",
            93,
            ".egress",
            "11Gbit is out of range; rates are 8kbit to 10Gbit".into(),
        ),
        ("{ egres: 1Gbit }", 85, ".egres", "unknown field; did you mean \"egress\"?".into()),
        ("100Mbit", 83, "", "expected an object, found a string".into()),
    ] {
        assert_eq!(refused(limits), at(column, field) + &reason);
    }
}
