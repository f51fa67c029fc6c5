use super::*;

fn parsed(name: &str, text: &str) -> Result<Vec<Workload>, Errors> {
    parse(&[Source { name: name.into(), text: text.into() }])
}

#[test]
fn a_definition_reads_back() {
    let text = "apiVersion: v1\nkind: Function\nname: hello\nspec:\n  function:\n    execution: {rootfs: /x}\n    exposure:\n    - port: 8000-8010\n      protocol: udp\n    - {port: '80', targetPort: 3000, hostAddress: 192.0.2.1, type: NodePort}\n";
    let workloads = parsed("a.yaml", text).unwrap();
    let json = to_json(&workloads[0]);
    assert_eq!(
        json,
        r#"{"apiVersion":"v1","kind":"Function","name":"hello","replicas":1,"spec":{"function":{"execution":{"rootfs":"/x"},"exposure":[{"port":"8000-8010","protocol":"UDP","targetPort":"8000-8010","type":"NodePort"},{"hostAddress":"192.0.2.1","port":80,"protocol":"TCP","targetPort":3000,"type":"NodePort"}]}}}"#
    );
    assert_eq!(from_json(&json).unwrap(), workloads[0]);
}
