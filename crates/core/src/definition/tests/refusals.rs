//! The errors of wrong definitions: the location and the message of each.

use super::refused;

#[test]
fn malformed_text_is_refused_where_it_breaks() {
    let sources = [
        ("bad.json", "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\" \"Function\"\n}"),
        ("cut.json", r#"{"apiVersion": "v1""#),
        ("comma.json", r#"[{"kind": "Function",}]"#),
        ("two.json", "{} {}"),
        ("héé.json", r#"{"é": é}"#),
        (
            "surrogate.json",
            r#"{
 "name": "\ud800"}"#,
        ),
        (
            "bad.yaml",
            r"apiVersion: v1
kind: [Function
name: bad
",
        ),
        ("tab.yaml", "apiVersion: v1\nspec:\n\tfunction: {}\n"),
        ("tag.yaml", "apiVersion: !secret v1\n"),
        ("alias.yaml", "name: *nowhere\n"),
    ];
    insta::assert_snapshot!(refused(&sources), @r"
    bad.json:3:9: not valid JSON: expected `:`
    cut.json:1:19: not valid JSON: EOF while parsing an object
    comma.json:1:22: not valid JSON: key must be a string
    two.json:1:4: not valid JSON: trailing characters
    héé.json:1:7: not valid JSON: expected value
    surrogate.json:2:10: not valid JSON: unexpected end of hex escape
    bad.yaml:3:5: not valid YAML: illegal placement of ':' indicator
    tab.yaml:3:2: not valid YAML: tabs disallowed within this context (block indentation)
    tag.yaml:1:21: not valid YAML: unsupported tag `!secret`
    alias.yaml:1:7: not valid YAML: alias references unknown anchor
    ");
}

#[test]
fn a_text_without_a_definition_is_refused() {
    let sources = [
        ("empty.yaml", ""),
        ("blank.yaml", " \n# nothing\n---\n"),
        ("empty.json", "[]"),
        ("text.yaml", "hello\n"),
        ("number.json", "[7]"),
    ];
    insta::assert_snapshot!(refused(&sources), @r"
    empty.yaml:1:1: the text contains no definition
    blank.yaml:1:1: the text contains no definition
    empty.json:1:1: the text contains no definition
    text.yaml:1:1: expected an object, found a string
    number.json:1:2: [0]: expected an object, found a number
    ");
}

#[test]
fn unknown_fields_are_named_with_the_nearest_known() {
    let sources = [
        (
            "near.yaml",
            r"apiVersion: v1
kind: Function
name: near
spec:
  function:
    exposure:
      port: 80
      targetport: 80
      hostAdress: 192.0.2.1
",
        ),
        (
            "far.json",
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Function\",\n\t\"name\": \"far-json\",\n\t\"colour\": \"blue\",\n\t\"spec\": {\"function\": {\"executon\": {}}}\n}",
        ),
    ];
    insta::assert_snapshot!(refused(&sources), @r#"
    near.yaml:8:7: spec.function.exposure.targetport: unknown field; did you mean "targetPort"?
    near.yaml:9:7: spec.function.exposure.hostAdress: unknown field; did you mean "hostAddress"?
    far.json:5:2: colour: unknown field; expected one of apiVersion, kind, name, replicas, spec
    far.json:6:24: spec.function.executon: unknown field; did you mean "execution"?
    "#);
}

#[test]
fn a_duplicate_field_is_refused() {
    let sources = [
        (
            "twice.json",
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Function\", \"kind\": \"Pod\",\n\t\"name\": \"twice-json\",\n\t\"spec\": {\"function\": {}}\n}",
        ),
        (
            "twice.yaml",
            r"apiVersion: v1
kind: Function
name: twice
name: again
spec:
  function: {}
",
        ),
    ];
    insta::assert_snapshot!(refused(&sources), @r"
    twice.json:3:22: kind: duplicate field, first on line 3
    twice.yaml:4:1: name: duplicate field, first on line 3
    ");
}

#[test]
fn unknown_versions_and_kinds_are_refused() {
    let sources = [
        (
            "v2.yaml",
            r"apiVersion: v2
kind: Functon
name: v2
spec: {}
",
        ),
        (
            "other.yaml",
            r"apiVersion: 1
kind: Deployment
name: other
",
        ),
        ("none.yaml", "replicas: 1\n"),
    ];
    insta::assert_snapshot!(refused(&sources), @r#"
    v2.yaml:1:13: apiVersion: unknown version "v2"; expected "v1"
    v2.yaml:2:7: kind: unknown kind "Functon"; did you mean "Function"?
    other.yaml:1:13: apiVersion: expected a string, found a number; put it in quotes
    other.yaml:2:7: kind: unknown kind "Deployment"; expected Function or Pod
    none.yaml:1:1: apiVersion: missing
    none.yaml:1:1: name: missing
    none.yaml:1:1: kind: missing
    "#);
}

#[test]
fn names_are_refused_with_their_reason() {
    let sources = [(
        "names.yaml",
        r#"apiVersion: v1
kind: Function
name: ""
spec: {function: {}}
---
apiVersion: v1
kind: Function
name: nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn
spec: {function: {}}
---
apiVersion: v1
kind: Function
name: Hello
spec: {function: {}}
---
apiVersion: v1
kind: Function
name: a_b
spec: {function: {}}
---
apiVersion: v1
kind: Function
name: -all
spec: {function: {}}
---
apiVersion: v1
kind: Function
name: 123
spec: {function: {}}
---
apiVersion: v1
kind: Function
name: ~
spec: {function: {}}
"#,
    )];
    insta::assert_snapshot!(refused(&sources), @r#"
    names.yaml:3:7: name: the name is empty
    names.yaml:8:7: name: the name is 64 characters long; at most 63 are allowed
    names.yaml:13:7: name: the name has the character 'H' at position 1; allowed are a-z, 0-9, '.' and '-'
    names.yaml:18:7: name: the name has the character '_' at position 2; allowed are a-z, 0-9, '.' and '-'
    names.yaml:23:7: name: the name "-all" starts or ends with '.' or '-'; both ends must be a letter or a digit
    names.yaml:28:7: name: expected a string, found a number; put it in quotes
    names.yaml:33:7: name: expected a string, found nothing
    "#);
}

#[test]
fn ports_are_refused_with_their_reason() {
    let sources = [
        (
            "ports.yaml",
            r"apiVersion: v1
kind: Function
name: ports
spec:
  function:
    exposure:
    - port: 0
    - port: 65536
    - port: 8010-8000
    - port: 8000-8010
      targetPort: 3000-3001
    - targetPort: 80
    - port: 80.5
    - port: 1-65536
    - port: http
    - port: -1
    - port: 99999999999999999999
    - port: true
    - port:
",
        ),
        (
            "port.json",
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Function\",\n\t\"name\": \"port-json\",\n\t\"spec\": {\"function\": {\"exposure\": [{\"port\": 80}, {\"port\": 65536}, {\"port\": \"0x50\"}]}}\n}",
        ),
    ];
    insta::assert_snapshot!(refused(&sources), @r#"
    ports.yaml:7:13: spec.function.exposure[0].port: port 0 is out of range; ports are 1 to 65535
    ports.yaml:8:13: spec.function.exposure[1].port: port 65536 is out of range; ports are 1 to 65535
    ports.yaml:9:13: spec.function.exposure[2].port: the range 8010-8000 is reversed: write 8000-8010
    ports.yaml:10:7: spec.function.exposure[3]: port 8000-8010 has 11 ports, targetPort 3000-3001 has 2: the lengths must be the same
    ports.yaml:12:7: spec.function.exposure[4].port: missing
    ports.yaml:13:13: spec.function.exposure[5].port: "80.5" is neither a port such as 8080 nor a range such as 8000-8010
    ports.yaml:14:13: spec.function.exposure[6].port: port 65536 is out of range; ports are 1 to 65535
    ports.yaml:15:13: spec.function.exposure[7].port: "http" is neither a port such as 8080 nor a range such as 8000-8010
    ports.yaml:16:13: spec.function.exposure[8].port: port -1 is out of range; ports are 1 to 65535
    ports.yaml:17:13: spec.function.exposure[9].port: "100000000000000000000" is neither a port such as 8080 nor a range such as 8000-8010
    ports.yaml:18:13: spec.function.exposure[10].port: expected a port or a range, found a boolean
    ports.yaml:19:11: spec.function.exposure[11].port: expected a port or a range, found nothing
    port.json:5:60: spec.function.exposure[1].port: port 65536 is out of range; ports are 1 to 65535
    port.json:5:77: spec.function.exposure[2].port: "0x50" is neither a port such as 8080 nor a range such as 8000-8010
    "#);
}

#[test]
fn the_rest_of_an_exposure_is_refused_with_its_reason() {
    let sources = [
        (
            "other.yaml",
            r"apiVersion: v1
kind: Function
name: other
spec:
  function:
    exposure:
      port: 80
      protocol: ICMP
      type: LoadBalancer
      hostAddress: ::1
",
        ),
        (
            "range.yaml",
            r"apiVersion: v1
kind: Function
name: range
spec:
  function:
    exposure:
      port: 80
      hostAddress: 224.0.0.1
",
        ),
        (
            "loopback.yaml",
            r"apiVersion: v1
kind: Function
name: loopback
spec:
  function:
    exposure:
      port: 53
      hostAddress: 127.0.0.53
      shadow: yes
",
        ),
        (
            "string.yaml",
            r"apiVersion: v1
kind: Function
name: string
spec:
  function:
    exposure:
      '8080'
",
        ),
    ];
    insta::assert_snapshot!(refused(&sources), @r#"
    other.yaml:8:17: spec.function.exposure.protocol: unknown protocol "ICMP"; TCP, UDP and SCTP are known
    other.yaml:9:13: spec.function.exposure.type: unknown type "LoadBalancer"; "NodePort" is the only one
    other.yaml:10:20: spec.function.exposure.hostAddress: ::1 is an IPv6 address, which is not supported yet; give an IPv4 address
    range.yaml:7:7: spec.function.exposure: hostAddress 224.0.0.1 is a multicast, broadcast or reserved address
    loopback.yaml:7:7: spec.function.exposure: hostAddress 127.0.0.53 is not published: of 127.0.0.0/8, only 127.0.0.1 is
    loopback.yaml:9:15: spec.function.exposure.shadow: expected true or false, found a string
    string.yaml:7:7: spec.function.exposure: expected an object or a list of them, found a string
    "#);
}

#[test]
fn fields_that_a_function_cannot_have_are_refused() {
    let sources = [
        (
            "f.yaml",
            r"apiVersion: v1
kind: Function
name: f
replicas: 3
spec:
  containers:
  - name: x
  function:
    execution:
      rootfs: 7
",
        ),
        (
            "g.json",
            r#"{"apiVersion": "v1", "kind": "Function", "name": "a", "replicas": "1", "spec": {"containers": {}}}"#,
        ),
        (
            "h.yaml",
            r"apiVersion: v1
kind: Function
name: h
spec: []
",
        ),
    ];
    insta::assert_snapshot!(refused(&sources), @r"
    f.yaml:4:11: replicas: a definition is one instance, not 3; set it to 1, and write a definition with a name of its own for each
    f.yaml:7:5: spec.containers: a Function has no containers
    f.yaml:10:15: spec.function.execution.rootfs: expected a string or an object, found a number; put it in quotes
    g.json:1:67: replicas: expected the number 1, found a string
    g.json:1:80: spec.function: missing
    g.json:1:95: spec.containers: expected an empty list, found an object
    h.yaml:4:7: spec: expected an object, found a list
    ");
}

/// Returns a definition for each of these executions, in flow style.
fn executions(texts: &[&str]) -> String {
    let definition = |(number, text): (usize, &&str)| {
        format!(
            "apiVersion: v1\nkind: Function\nname: f{number}\nspec: {{function: {{execution: {{\n{text}\n}}}}}}\n"
        )
    };
    texts.iter().enumerate().map(definition).collect::<Vec<_>>().join("---\n")
}

#[test]
fn files_and_sizes_of_a_microvm_are_refused_with_their_reason() {
    let sums = format!("rootfs: {{source: /a, sha256: {}}}", "0".repeat(63));
    let text = executions(&[
        "vmm: qemo, kernl: /boot/vmlinuz",
        "vmm: virtualbox, accelerator: hvf, readOnly: 'yes'",
        "kernel: '', initrd: {source: ''}, rootfs: {sha: '', sha256: ab}",
        &sums,
        "rootfs: [/a]",
        "vcpus: 0, memory: 0",
        "vcpus: 33, memory: 1000K",
        "vcpus: 1.5, memory: 512.5",
        "vcpus: '2', memory: 512MB",
        "vcpus: -1, memory: -1",
        "memory: '512'",
        "memory: 64T",
        "memory: 17000000",
        "memory: {}",
    ]);
    insta::assert_snapshot!(refused(&[("m.yaml", &text)]), @r#"
    m.yaml:5:6: spec.function.execution.vmm: unknown VMM "qemo"; did you mean "qemu"?
    m.yaml:5:12: spec.function.execution.kernl: unknown field; did you mean "kernel"?
    m.yaml:12:6: spec.function.execution.vmm: unknown VMM "virtualbox"; expected one of firecracker, qemu, cloud-hypervisor, builtin
    m.yaml:12:31: spec.function.execution.accelerator: unknown accelerator "hvf"; expected one of kvm, tcg
    m.yaml:12:46: spec.function.execution.readOnly: expected true or false, found a string
    m.yaml:19:9: spec.function.execution.kernel: the path or URL is empty
    m.yaml:19:30: spec.function.execution.initrd.source: the path or URL is empty
    m.yaml:19:43: spec.function.execution.rootfs.source: missing
    m.yaml:19:44: spec.function.execution.rootfs.sha: unknown field; expected one of source, sha256
    m.yaml:19:61: spec.function.execution.rootfs.sha256: "ab" is not 64 hexadecimal digits
    m.yaml:26:30: spec.function.execution.rootfs.sha256: expected a string, found a number; put it in quotes
    m.yaml:33:9: spec.function.execution.rootfs: expected a string or an object, found a list
    m.yaml:40:8: spec.function.execution.vcpus: 0 is out of range: 1 to 32
    m.yaml:40:19: spec.function.execution.memory: a guest needs at least 1 MiB of memory
    m.yaml:47:8: spec.function.execution.vcpus: 33 is out of range: 1 to 32
    m.yaml:47:20: spec.function.execution.memory: 1000K is not a whole number of MiB
    m.yaml:54:8: spec.function.execution.vcpus: 1.5 is not a whole number
    m.yaml:54:21: spec.function.execution.memory: 512.5 is not a whole number of MiB
    m.yaml:61:8: spec.function.execution.vcpus: expected a number, found a string
    m.yaml:61:21: spec.function.execution.memory: "512MB" is not an amount of memory; write MiB as a number, or 524288K, 512M, 2G
    m.yaml:68:8: spec.function.execution.vcpus: -1 is out of range: 1 to 32
    m.yaml:68:20: spec.function.execution.memory: a guest needs at least 1 MiB of memory
    m.yaml:75:9: spec.function.execution.memory: "512" is not an amount of memory; write MiB as a number, or 524288K, 512M, 2G
    m.yaml:82:9: spec.function.execution.memory: "64T" is not an amount of memory; write MiB as a number, or 524288K, 512M, 2G
    m.yaml:89:9: spec.function.execution.memory: 17000000 is more than 16777216 MiB
    m.yaml:96:9: spec.function.execution.memory: expected MiB as a number, or an amount such as "512M", found an object
    "#);
}

#[test]
fn the_rest_of_a_microvm_is_refused_with_its_reason() {
    let text = executions(&[
        "bootArgs: quiet ip=dhcp",
        r#"bootArgs: "quiet\n""#,
        r#"bootArgs: "a\0""#,
        "bootArgs: [quiet]",
        "vmm: firecracker, accelerator: kvm, queues: 2",
        "vmm: builtin, accelerator: tcg",
        "queues: 0",
        "queues: 17",
        "user: -1, group: 4294967295",
        "user: '', group: 'a:b'",
        "user: true, group: 1.5",
        "dns: 192.0.2.1",
        "dns: [192.0.2.1, 192.0.2.2, 192.0.2.3]",
        "dns: [resolver, '::1', 7, 192.0.2.2]",
    ]);
    insta::assert_snapshot!(refused(&[("m.yaml", &text)]), @r#"
    m.yaml:5:11: spec.function.execution.bootArgs: "ip=dhcp" would give the guest another address than its slot's, which ip= is set to already
    m.yaml:12:11: spec.function.execution.bootArgs: there is '\n' at position 6; a kernel's command line is one line of text
    m.yaml:19:11: spec.function.execution.bootArgs: there is '\0' at position 2; a kernel's command line is one line of text
    m.yaml:26:11: spec.function.execution.bootArgs: expected a string, found a list
    m.yaml:33:32: spec.function.execution.accelerator: firecracker has no choice of accelerators; qemu has
    m.yaml:33:45: spec.function.execution.queues: firecracker opens one queue of a TAP, not 2; qemu and cloud-hypervisor open several
    m.yaml:40:28: spec.function.execution.accelerator: builtin has no choice of accelerators; qemu has
    m.yaml:47:9: spec.function.execution.queues: 0 is out of range: 1 to 16
    m.yaml:54:9: spec.function.execution.queues: 17 is out of range: 1 to 16
    m.yaml:61:7: spec.function.execution.user: -1 is not a user or group; ids are 0 to 4294967294
    m.yaml:61:18: spec.function.execution.group: 4294967295 is not a user or group; ids are 0 to 4294967294
    m.yaml:68:7: spec.function.execution.user: "" is not the name of a user or group
    m.yaml:68:18: spec.function.execution.group: "a:b" is not the name of a user or group
    m.yaml:75:7: spec.function.execution.user: expected a name or a number, found a boolean
    m.yaml:75:20: spec.function.execution.group: 1.5 is not a whole number
    m.yaml:82:6: spec.function.execution.dns: expected a list of IPv4 addresses, found a string
    m.yaml:89:6: spec.function.execution.dns: 3 servers; a kernel takes at most 2 by ip=
    m.yaml:96:7: spec.function.execution.dns[0]: "resolver" is not an IPv4 address
    m.yaml:96:17: spec.function.execution.dns[1]: ::1 is an IPv6 address, which is not supported yet; give an IPv4 address
    m.yaml:96:24: spec.function.execution.dns[2]: expected a string, found a number; put it in quotes
    "#);
}

#[test]
fn exposures_and_names_clash_within_and_across_sources() {
    let sources = [
        (
            "clash.yaml",
            r"apiVersion: v1
kind: Function
name: hello
spec:
  function:
    exposure:
    - port: 8000-8010
    - {port: 8005, hostAddress: 192.0.2.1}
    - {port: 8005, protocol: UDP}
",
        ),
        (
            "later.json",
            r#"[{"apiVersion":"v1","kind":"Function","name":"hello","spec":{"function":{"exposure":{"port":9000}}}},
 {"apiVersion":"v1","kind":"Function","name":"b","spec":{"function":{"exposure":{"port":"8010"}}}}]"#,
        ),
    ];
    insta::assert_snapshot!(refused(&sources), @r"
    clash.yaml:8:7: spec.function.exposure[1]: tcp 192.0.2.1:8005 -> 8005 clashes with tcp 8000-8010 -> 8000-8010 at clash.yaml:7:7
    later.json:1:46: [0].name: hello is already defined at clash.yaml:3:7
    later.json:2:81: [1].spec.function.exposure: tcp 8010 -> 8010 clashes with tcp 8000-8010 -> 8000-8010 at clash.yaml:7:7
    ");
}
